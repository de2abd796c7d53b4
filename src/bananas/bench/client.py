"""A client process of the benchmark: `python -m bananas.bench.client ORDER ANSWER` (files) runs one `Load` and writes a `Loaded`.

The public interface only. The async loads run on uvloop where it is installed, as workers do.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

import msgspec

from bananas.bench import async_client, sync_client, tasks
from bananas.bench.load import Load, Loaded


def run(load: Load) -> Loaded:
    """Run one load here, to its end."""
    if load.sync:
        return sync_client.LOADS[load.kind](load)

    async def main() -> Loaded:
        try:
            return await async_client.LOADS[load.kind](load)
        finally:
            await tasks.app.close()

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _end_with_the_benchmark() -> None:
    os.read(0, 1)  # blocks until the other end is closed
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_benchmark, daemon=True).start()
    loaded = run(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Load))
    Path(sys.argv[2]).write_bytes(msgspec.msgpack.encode(loaded))
