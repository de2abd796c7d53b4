"""Settling on a full server: what is dropped is the value or the traceback, never how a job ended."""

from typing import Any

import pytest

from bananas import broker
from bananas.broker import Burial, Ending, KeptResult, NewJob
from bananas.codec import pack_result, unpack_result
from bananas.connection import Connection
from bananas.job import FinalState, Result
from bananas.keys import QueueKeys, id_suffix, new_id
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
