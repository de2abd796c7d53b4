"""A server that speaks TLS only, with certificates of a private authority, a client certificate, and ACL users."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bananas import Bananas
from bananas.errors import AuthenticationFailed, BrokerUnavailable, ConfigError, ServerUnsuitable
from bananas.groups import ask
from bananas.rights import rules
from bananas.server import PrivateServer, ServerBinary, find_server_binary, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Site


Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _certificate(folder: Path, name: str, authority: Pair | None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    signed = builder.sign(key if authority is None else authority[1], hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted))
    return signed, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys: of the authority, the server and a client."""
    made = tmp_path_factory.mktemp("tls")
    authority = _certificate(made, "authority", None)
    for name in ("server", "client"):
        _certificate(made, name, authority)
    return made


def _speaks_tls(binary: ServerBinary, folder: Path) -> PrivateServer:
    settings = {
        "tls-port": str(free_port()),
        "tls-cert-file": str(folder / "server.crt"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(folder / "authority.crt"),
    }
    return PrivateServer(binary=binary, settings=settings)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PrivateServer]:
    try:
        started = _speaks_tls(find_server_binary("redis"), folder)
        started.start()
    except (ConfigError, BrokerUnavailable) as error:
        pytest.skip(f"no redis-server that speaks TLS: {error}")
    with started:
        ask(started, "ACL", "SETUSER", "worker", "on", ">p@ss")
        yield started


@pytest.fixture(scope="module")
def url(server: PrivateServer, folder: Path) -> str:
    """As the user called worker, with a client certificate."""
    port = ask(server, "CONFIG", "GET", "tls-port")[1].decode()
    files = f"ssl_ca_certs={folder}/authority.crt&ssl_certfile={folder}/client.crt&ssl_keyfile={folder}/client.key"
    return f"rediss://worker:p%40ss@127.0.0.1:{port}/0?{files}"


async def test_jobs_run_over_tls_with_a_client_certificate_as_an_acl_user(
    url: str, server: PrivateServer, site_at: Callable[..., Site]
) -> None:
    site = site_at(url, lease=1.0)
    ask(server, "ACL", "SETUSER", "worker", "resetkeys", "resetchannels", *rules("worker", site.namespace))
    site.worker()
    assert await (await site.app.submit("double", 2)).result(timeout=20) == 4
    assert await asyncio.to_thread(lambda: site.app.submit_sync("work", 2.5).result_sync(20)) == "done"  # longer than its lease


async def test_without_a_client_certificate_the_server_refuses(url: str) -> None:
    app = Bananas(url.partition("&ssl_certfile")[0], namespace="shop", call_timeout=0.5)
    with pytest.raises(BrokerUnavailable):
        await app.submit("double", 1)
    await app.close()


async def test_an_authority_that_is_not_named_is_not_trusted(url: str) -> None:
    app = Bananas(url.partition("?")[0], namespace="shop")
    with pytest.raises(ServerUnsuitable, match="not trusted"):
        await app.submit("double", 1)
    await app.close()


async def test_a_wrong_password_is_told_and_not_shown(url: str) -> None:
    app = Bananas(url.replace("p%40ss", "secret"), namespace="shop")
    with pytest.raises(AuthenticationFailed) as caught:
        await app.submit("double", 1)
    assert "secret" not in str(caught.value)
    await app.close()
