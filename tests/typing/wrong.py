"""Calls that a type checker must find wrong: each line carries the code that mypy reports, and an ignore that is not needed is an error."""

from tests.typing.contract import app, resize, send_email


async def wrong() -> None:
    await send_email.submit(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send_email.submit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await send_email.submit("a", body="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_email.submit_sync(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_email.bind(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send_email.options(delay=1).submit(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send_email.options(prioritty=1).submit("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize.submit("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    number: int = await send_email.submit_and_wait("a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await app.submit_many([3, number])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
