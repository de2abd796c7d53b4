"""Cron entries over HTTP: looked at, paused, resumed and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http.conftest import V1, ended
from tests.support import ROOT, wait_until

if TYPE_CHECKING:
    from tests.http.conftest import Place

APP = """
from bananas import Bananas

app = Bananas()


@app.cron("0 3 1 1 *", name="reports/Ärger today")
async def odd() -> str:
    return "done"
"""


def test_an_entry_is_paused_resumed_and_run(place: Place) -> None:
    place.worker("tests.apps.sweeping:app", lease=1.0)
    process = place.api("tests.apps.sweeping:app")
    with process.client("operator") as operator, process.client("viewer") as viewer:
        wait_until(lambda: [each["announced"] for each in viewer.get(f"{V1}/cron").json()] == [True], "the entry")
        entry = f"{V1}/cron/default/sweep"
        assert [operator.post(f"{entry}/pause").json() for _ in range(2)] == [{"changed": True}, {"changed": False}]
        (paused,) = viewer.get(f"{V1}/cron").json()
        assert (paused["paused"], paused["next_ms"], paused["last_ms"], paused["last_id"]) == (True, None, None, "")
        ran = operator.post(f"{entry}/run")
        assert ran.status_code == 200, ran.text
        assert ended(operator, ran.json()["id"])["value"] == "swept"
        assert operator.post(f"{entry}/resume").json() == {"changed": True}
        (resumed,) = viewer.get(f"{V1}/cron").json()
        assert (resumed["paused"], resumed["last_id"], resumed["missed_ticks"]) == (False, ran.json()["id"], 0)
        assert resumed["next_ms"] > resumed["last_ms"] > 0
        for path in ("default/nobody", "other/sweep", "default/sweep/more"):
            missing = operator.post(f"{V1}/cron/{path}/run")
            assert (missing.status_code, missing.json()["type"]) == (404, "urn:bananas:problem:CronEntryNotFound")
        assert operator.post(f"{V1}/cron/a b/sweep/run").status_code == 422
        assert {deed["who"] for deed in viewer.get(f"{V1}/trail").json()} == {"HTTP API, operator"}


def test_an_entry_may_have_any_name_that_a_task_may_have(place: Place) -> None:
    (place.folder / "odd_names.py").write_text(APP, encoding="utf-8")
    place.environment["PYTHONPATH"] = f"{place.folder}:{ROOT / 'src'}:{ROOT}"
    place.worker("odd_names:app", lease=1.0)
    with place.api().client("operator") as operator:
        wait_until(lambda: operator.get(f"{V1}/cron").json(), "the entry")
        ran = operator.post(f"{V1}/cron/default/reports%2F%C3%84rger%20today/run")
        assert ran.status_code == 200, ran.text
