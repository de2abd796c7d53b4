"""A web server that answers at once and leaves the work to a worker, on asyncio alone; in a framework the handlers look the same.

bananas worker web:app              # in one terminal, in this folder
python web.py                       # in another
curl -X POST localhost:8000/reports/2026     # -> 202 and the job's id
curl localhost:8000/jobs/<id>                # -> its state, and its result when it has one
"""

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any

from bananas import Bananas, InvalidName, TaskError

app = Bananas()
Answer = tuple[HTTPStatus, dict[str, Any]]


@app.task(queue="reports")
async def make_report(year: int) -> str:
    await asyncio.sleep(0.1)
    return f"all went well in {year}"


async def order_report(year: str) -> Answer:
    if not year.isdecimal():
        return HTTPStatus.BAD_REQUEST, {"error": "a year is a number"}
    job = await make_report.options(unique=f"report:{year}").submit(int(year))
    return HTTPStatus.ACCEPTED, {"job": job.id, "created": job.created}


async def show_job(job_id: str) -> Answer:
    try:
        job = app.job(job_id)
    except InvalidName as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
    state = (await job.info()).state
    if state == "unknown":
        return HTTPStatus.NOT_FOUND, {"state": state}
    if state in ("ready", "scheduled", "running"):
        return HTTPStatus.OK, {"state": state}
    try:
        return HTTPStatus.OK, {"state": state, "result": await job.result(timeout=1)}
    except TaskError as error:
        return HTTPStatus.OK, {"state": state, "error": error.error_message}


async def answer(method: str, path: str) -> Answer:
    match method, path.strip("/").split("/"):
        case "POST", ["reports", year]:
            return await order_report(year)
        case "GET", ["jobs", job_id]:
            return await show_job(job_id)
    return HTTPStatus.NOT_FOUND, {"error": "POST /reports/YEAR, or GET /jobs/ID"}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    method, path, _ = (await reader.readuntil(b"\r\n")).decode("latin-1").split(" ")
    status, body = await answer(method, path)
    text = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
    )
    writer.write(head.encode() + b"\r\n" + text)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
