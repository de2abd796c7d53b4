"""Alerts and the dashboard: their expressions parse, name metrics that exist, and each alert fires on its case alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.deploy.conftest import DEPLOY, METRICS, documents, judged, tool
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALERTS, DASHBOARD = DEPLOY / "prometheus/alerts.yaml", DEPLOY / "grafana/bananas.json"


def rules() -> list[dict[str, Any]]:
    return [rule for group in documents(ALERTS)[0]["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression with where it is, what stands for variables of Grafana filled in."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], re.sub(r"\$(job|queue)", "x", target["expr"].replace("$__rate_interval", "5m"))


def test_every_expression_is_promql_over_metrics_that_exist() -> None:
    parse = pytest.importorskip("promql_parser").parse
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for where, expression in expressions():
        parse(expression)
        without_strings = re.sub(r'"[^"]*"', '""', expression)
        named = set(re.findall(r"\bbananas[_:]\w[\w:]*", without_strings))
        assert named, where
        assert named - recorded <= METRICS, where


def test_promtool_finds_nothing_wrong() -> None:
    judged(tool("promtool"), "check", "rules", str(ALERTS))


def test_each_alert_fires_on_its_case_alone(tmp_path: Path) -> None:
    cases = (ROOT / "tests/deploy/alerts-tests.yaml").read_text().replace("%ALERTS%", str(ALERTS))
    (tmp_path / "cases.yaml").write_text(cases)
    judged(tool("promtool"), "test", "rules", str(tmp_path / "cases.yaml"))
    for rule in rules():
        if "alert" in rule:
            assert re.search(rf"alertname: {rule['alert']}\n\s+exp_alerts:", cases), rule["alert"]
            assert f"{{eval_time: 100m, alertname: {rule['alert']}}}" in cases, rule["alert"]


def test_alerts_say_what_to_do_with_commands_that_exist() -> None:
    from click import Context

    from bananas.cli import cli

    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            text = rule["annotations"]["description"]
            for command in re.findall(r"`bananas (\w+)", text):
                assert cli.get_command(Context(cli), command) is not None, f"{rule['alert']}: {command}"


def test_the_dashboard_is_whole() -> None:
    dashboard, found = json.loads(DASHBOARD.read_text()), panels()
    assert len({panel["id"] for panel in found}) == len(found)
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    for panel in found:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        for target in panel.get("targets", ()):
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval"} <= variables
            assert panel["datasource"]["uid"] == "${datasource}"
    cells = [
        (x, y)
        for p in found
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))  # no panel lies on another
