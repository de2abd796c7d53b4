"""A server that is full, or cannot save: of what is settled the value or the traceback is dropped, never how a job ended."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import eventually

from bananas import Bananas, BrokerUnavailable, broker
from bananas.address import parse_url
from bananas.broker import Burial, Ending, KeptResult, NewJob
from bananas.codec import pack_result, unpack_result
from bananas.connection import Connection
from bananas.job import FinalState, Result
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.server import PrivateServer, find_server_binary
from bananas.worker.settler import Settlement, Settler, burial, ending, success


@pytest.mark.parametrize("state", ["success", "dead", "discarded", "cancelled", "expired"])
async def test_a_dropped_result_still_says_how_the_job_ended(ask: Any, keys: QueueKeys, connection: Connection, state: FinalState) -> None:
    new = NewJob(new_id(id_suffix("task", 500)), b"small")
    await ask(broker.enqueue(keys, "client", 1, [new]))
    claim = await ask(broker.claim(keys, "aa", 1, 1, 8_000))
    member = claim.ids_and_scores[0] + f":aa:{claim.fence:010d}".encode()
    kept = KeptResult(60_000, pack_result(Result(state, error_message="why " * 100)))
    settlements: dict[str, Settlement] = {
        "success": success(Ending(member, kept), 0),
        "dead": burial(Burial(member, b"1 0 0 0 - ", kept), 0),
    }
    settler = Settler(keys, "aa")
    settler.add(settlements.get(state) or ending(Ending(member, kept), 0))
    for sent in settler.batches(full=True):
        assert await ask(sent.request) == [True]
        assert await ask(sent.request) == [True], "a resend is answered from memory"
    (stored,) = await connection.execute([("GET", keys.result(new.job_id))], 5)
    found = unpack_result(stored)
    assert (found.state, found.dropped) == (state, state in ("success", "dead"))


async def test_a_server_that_cannot_save_is_told_as_such_and_waited_for(tmp_path: Path, server_kind: str) -> None:
    data = tmp_path / "data"
    with PrivateServer(data, binary=find_server_binary(server_kind), settings={"save": "3600 1000000"}) as server:
        app = Bananas(server.url, call_timeout=10)
        connection = await Connection.open(parse_url(server.url))
        await app.submit("task", 1)

        async def save(status: str) -> bool:
            _, info = await connection.execute([("BGSAVE",), ("INFO", "persistence")], 5)
            return f"rdb_last_bgsave_status:{status}" in bytes(info).decode()

        (data / "dump.rdb" / "in the way").mkdir(parents=True)
        await eventually(lambda: save("err"))
        with pytest.raises(BrokerUnavailable, match=r"cannot save to its disk.*Nothing was done"):
            await app.submit("task", 2, options={"call_timeout": 0.3})
        waiting = asyncio.ensure_future(app.submit("task", 3))
        await asyncio.sleep(0)
        shutil.rmtree(data / "dump.rdb")
        await eventually(lambda: save("ok"))
        assert (await waiting).created
        assert (await app.queue("default").counts()).ready == 2
        connection.close()
        await app.close()
