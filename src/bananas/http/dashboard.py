"""The dashboard: a page and its files, served beside the API that it uses, and what the page asks first: who am I, what may I do.

The files are those of the folder `web`, as they stand: nothing is built, and nothing comes from another machine. They are read at the first
request, and served from memory below a path that names their contents, so a browser keeps them for good and never mixes two versions. The
page itself holds no data and needs no token; all that it shows it asks of the API, with the token of whoever looks.

The policy of the page lets scripts and styles of this server run, and no others: neither what stands in the page nor what a job has stored.
"""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from bananas.http.access import Role
from bananas.http.problems import Refused, problem_response
from bananas.http.routes import Asked, Route

FOLDER = Path(__file__).parent / "web"
_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_FOR_GOOD, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"


class File(NamedTuple):
    """A file, as it stands and packed."""

    media: str
    plain: bytes
    packed: bytes


class Files(NamedTuple):
    """All files by their paths below the folder, and the digest of them together."""

    digest: str
    by_path: dict[str, File]


@cache
def files() -> Files:
    """Read the folder."""
    digest, found = hashlib.sha256(), dict[str, bytes]()
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _MEDIA:
            found[path.relative_to(FOLDER).as_posix()] = path.read_bytes()
    for name, data in found.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    version = digest.hexdigest()[:16]
    scripts = [name for name in found if name.endswith(".js") and name != "vendor/uplot.js"]  # it comes with the first chart
    preloads = "\n".join(f'<link rel="modulepreload" href="static/{name}">' for name in scripts)
    page = found["index.html"].decode().replace("<!-- modules -->", preloads).replace('"static/', f'"static/{version}/')
    found["index.html"] = page.encode()
    return Files(version, {name: File(_MEDIA[Path(name).suffix], data, gzip.compress(data, mtime=0)) for name, data in found.items()})


async def page(request: Request) -> Response:
    """The page."""
    return _response(request, files().by_path["index.html"], _ASK_AGAIN)


async def static(request: Request) -> Response:
    """A file of the page. One of another version is given as it is now, and not to be kept."""
    version, name = request.path_params["version"], request.path_params["name"]
    digest, by_path = files()
    if name not in by_path:
        return problem_response(Refused(404, "NoSuchPath", "The dashboard has no such file."))
    return _response(request, by_path[name], _FOR_GOOD if version == digest else _ASK_AGAIN)


def _response(request: Request, file: File, caching: str) -> Response:
    headers = {"Cache-Control": caching, "Content-Security-Policy": _POLICY, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, 200, headers | {"Content-Encoding": "gzip"}, file.media)
    return Response(file.plain, 200, headers, file.media)


class Me(Struct, frozen=True):
    """Who asks: the role ("": none, then the rest is empty too), where, and the routes that this role may use, as `METHOD /path`.

    `trace_page` is the address of a trace with {trace_id} in it, or "".
    """

    role: str
    namespace: str
    version: str
    may: list[str]
    trace_page: str = ""


async def show_me(asked: Asked) -> Me:
    from bananas import __version__

    role = asked.request.scope["bananas.role"]
    if role is None:
        return Me("", "", "", [])
    may = [f"{route.method} {route.path}" for route in asked.site.routes if route.role is None or role >= route.role]
    settings = asked.app.settings
    return Me(Role(role).name, settings.namespace, __version__, may, settings.api_trace_page or "")


ROUTES = [
    Route(
        method="GET",
        path="/me",
        handler=show_me,
        role=None,
        summary="What the sender may do",
        text='Without a valid token the role is "".',
        tag="overview",
        reply=Me,
        answer={"role": "viewer", "namespace": "shop", "version": "1.0.0", "may": ["GET /jobs"], "trace_page": ""},
    ),
]
