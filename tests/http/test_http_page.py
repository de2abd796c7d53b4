"""docs/http.md: its curl examples do what they say, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.support import ROOT

from bananas.http.application import ROUTES
from bananas.http.routes import PREFIX

if TYPE_CHECKING:
    from tests.http.conftest import Place

TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
SHOP = """
from bananas import Bananas

app = Bananas()


@app.task(queue="email")
async def send_email(to: str) -> str:
    return f"sent to {to}"
"""


def examples() -> list[tuple[str, int, str]]:
    """Command, status and answer of each example; "…" in an answer stands for anything."""
    (block,) = re.findall(r"^```curl\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(curl .*)\n# (\d+) (.*)$", block, re.MULTILINE)
    assert len(found) == block.count("curl -s")
    return [(command, int(status), answer) for command, status, answer in found]


def test_the_curl_examples_do_what_they_say(place: Place) -> None:
    (place.folder / "shop_over_http.py").write_text(SHOP)
    place.environment["PYTHONPATH"] = f"{place.folder}:{ROOT / 'src'}:{ROOT}"
    place.worker("shop_over_http:app")
    api = place.api("shop_over_http:app", BANANAS_API_TOKENS="")
    newest = ""
    for command, status, answer in examples():
        words = shlex.split(command.replace("localhost:8080", api.url).replace("$ID", newest))
        run = subprocess.run([*words, "-w", "\n%{http_code}"], capture_output=True, text=True, timeout=40, check=True)
        body, _, code = run.stdout.rpartition("\n")
        pattern = ".*".join(map(re.escape, answer.split("…")))
        assert (int(code), bool(re.match(pattern, body))) == (status, True), f"{command}\n{run.stdout}"
        newest = json.loads(body).get("id", newest) if "created" in body and "items" not in body else newest


def test_the_table_names_every_path() -> None:
    table = TEXT.partition("| path ")[2].partition("\n\n")[0]
    missing = []
    for route in ROUTES:
        last = route.full_path.removeprefix(PREFIX).split("/")[-1]
        missing += [route.full_path] if f"/{last}" not in table and last not in table else []
    assert missing == []


@pytest.mark.parametrize("name", ["Idempotency-Key", "Retry-After", "urn:bananas:problem:"])
def test_the_page_tells_of_what_clients_need(name: str) -> None:
    assert name in TEXT
