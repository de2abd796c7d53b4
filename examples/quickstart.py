"""The whole round: submit a job, a worker runs it, read its result.

bananas worker quickstart:app    # in one terminal, in this folder
python quickstart.py             # in another
"""

import asyncio

from bananas import Bananas, Retry, TaskError, current_job

app = Bananas()


@app.task(queue="email", max_retries=2, retry=Retry(base=0.1, factor=2, cap=1))
async def send_email(to: str, subject: str = "hi") -> str:
    if "@" not in to:
        raise ValueError(f"{to!r} is no address")
    return f"sent {subject!r} to {to}, attempt {current_job().attempt}"


async def main() -> None:
    job = await send_email.submit("ada@example.org", subject="welcome")
    print(job.id)
    print(await job.result(timeout=30))
    try:
        await send_email.submit_and_wait("nobody")
    except TaskError as error:
        print(f"{error.state} after {error.attempts} attempts: {error.error_message}")
    print(await app.queue("email").counts())
    print(await app.queue("email").dead.purge(), "dead job deleted")
    await app.close()


if __name__ == "__main__":
    asyncio.run(main())
