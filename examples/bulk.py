"""Ten thousand jobs in few round trips, their results as they come.

bananas worker bulk:app --concurrency 100    # in one terminal, in this folder
python bulk.py                               # in another
"""

import asyncio
import time

from bananas import Bananas

app = Bananas()
JOBS = 10_000


@app.task(queue="bulk")
async def square(number: int) -> int:
    return number * number


async def main() -> None:
    began = time.perf_counter()
    jobs = await app.submit_many(square.bind(number) for number in range(JOBS))
    print(f"submitted {JOBS:,} jobs in {time.perf_counter() - began:.2f} s")
    total = 0
    async for job in app.as_completed(jobs, timeout=120):
        total += await job.result()
    print(f"all results after {time.perf_counter() - began:.2f} s; their sum is {total:,}")
    assert total == sum(number * number for number in range(JOBS))
    await app.close()


if __name__ == "__main__":
    asyncio.run(main())
