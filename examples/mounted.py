"""The HTTP API mounted in a FastAPI app that has its own users.

bananas worker mounted:app                   # in one terminal, in this folder
python mounted.py                            # in another
curl localhost:8000/hello/ada                # -> the job's id
curl -H 'X-User: ada' localhost:8000/bananas/api/v1/jobs/<id>/result?wait=10
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from bananas import Bananas
from bananas.http import api

app = Bananas()
ROLES = {"ada": "admin", "bob": "viewer"}


@app.task(queue="greetings")
async def greet(name: str) -> str:
    return f"Hello, {name}!"


def role_of(request: HTTPConnection) -> str | None:
    """Who may do what: here by a header, in a program by its sessions."""
    return ROLES.get(request.headers.get("x-user", ""))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    await app.close()


web = FastAPI(lifespan=lifespan)
web.mount("/bananas", api(app, role_of=role_of))


@web.get("/hello/{name}")
async def hello(name: str) -> dict[str, str]:
    job = await greet.submit(name)
    return {"job": job.id}


if __name__ == "__main__":
    uvicorn.run(web, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, log_level="warning")
