"""The live view without a terminal: what keys mean, what rates are, and that whatever there is fits on the screen."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bananas.inspector import WorkerInfo, WorkerRun
from bananas.operate import ErrorGroup, QueueFigures
from bananas.terminal.top.controls import SORTS, Controls
from bananas.terminal.top.frames import Ended, Frame, Rates, Track, between
from bananas.terminal.top.view import Known, view

HOSTILE = "[red]bold\x1b[2J\r\nnext\u202e\x07"


def queue(name: str = "email", **given: Any) -> QueueFigures:
    base: dict[str, Any] = {"shards": 1, "ready": 0, "scheduled": 0, "running": 0, "dead": 0, "paused": False, "oldest_ms": None}
    return QueueFigures(name=name, **base | {"next_due_ms": None, "priorities": (), "workers": 1, "slots": 10, "busy": 0} | given)


def worker(host: str = "web-1", **given: Any) -> WorkerInfo:
    base: dict[str, Any] = {"boot": host, "host": host, "pid": 7, "supervisor": 1, "queues": ("email",), "tasks": ("send",), "slots": 10}
    return WorkerInfo(**base | {"running": (), "overdue": (), "started_ms": 0} | given)


def frame(*queues: QueueFigures, taken_s: float = 0.0, ended: dict[str, Ended] | None = None, **given: Any) -> Frame:
    base: dict[str, Any] = {"workers": (worker(),), "used_bytes": 50, "max_bytes": 100}
    return Frame(taken_s=taken_s, namespace="shop", queues=queues, ended=ended or {}, **base | given)


def failure(message: str = "no such host", kind: str = "ValueError") -> ErrorGroup:
    return ErrorGroup(kind, "/srv/shop/mail.py:12 in send", message, 3, 1, 0, 0, ("send",), ("email.1",))


def shown(known: Known, controls: Controls | None = None, width: int = 80, height: int = 24) -> str:
    lines = [line.plain for line in view(known, controls or Controls(), width, height)]
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    return "\n".join(lines)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_end_pause_sort_and_scroll() -> None:
    controls = Controls()
    controls.press("p")
    assert controls.frozen
    controls.press("p")
    assert not controls.frozen
    seen = []
    for _ in SORTS:
        seen.append(controls.sort)
        controls.press("s")
    assert (tuple(seen), controls.sort) == (SORTS, SORTS[0])
    controls.press("jj\x1b[B\x1b[A")
    assert controls.offset == 2
    controls.press("kkkk")
    assert controls.offset == 0
    controls.press("q")
    assert controls.ending


def test_a_filter_is_typed_kept_and_cleared() -> None:
    controls = Controls()
    controls.press("/qpsé\x7f")
    assert (controls.typing, controls.filter, controls.ending, controls.frozen) == (True, "qps", False, False)
    controls.press("\r")
    assert (controls.typing, controls.filter) == (False, "qps")
    controls.press("\x1b")
    assert controls.filter == ""
    controls.press("/abc")
    controls.press("\x1b")
    assert (controls.typing, controls.filter) == (False, "")


@pytest.mark.parametrize("sequence", ["\x1b[15~", "\x1b[1;5C", "\x1bOP", "\x1b["])
def test_other_keys_mean_nothing(sequence: str) -> None:
    controls = Controls()
    controls.press(sequence)
    assert (controls.ending, controls.frozen, controls.typing, controls.filter) == (False, False, False, "")


@given(st.text())
def test_whatever_is_pressed_is_borne(text: str) -> None:
    controls = Controls()
    controls.press(text)
    shown(Known("here", frame(queue()), {}), controls)


# --- rates ------------------------------------------------------------------------------------------------------------


def test_rates_are_what_changed_between_two_frames() -> None:
    old = frame(queue(ready=100, running=10), ended={"email": Ended(1_000, 900, 200)})
    new = frame(queue(ready=150, running=10), queue("new", ready=5), taken_s=10.0, ended={"email": Ended(1_050, 940, 220), "new": Ended()})
    rates = between(old, new)
    assert rates["email"] == Rates(in_s=9.0, out_s=4.0, failed_s=2.0, backlog_s=30.0)  # (40 + 50) / 10; 150 / 5 runs a second
    assert rates["new"].in_s == 0.5


def test_a_window_lets_go_of_old_frames() -> None:
    track = Track()
    assert (track.last, track.rates()) == (None, {})
    for second in range(30):
        track.add(frame(queue(), taken_s=float(second), ended={"email": Ended(10 * second, 10 * second, 0)}))
    assert track.rates()["email"].out_s == 10.0
    track.add(frame(queue(), taken_s=100.0, ended={"email": Ended(290, 290, 0)}))  # after an outage
    assert track.rates()["email"].out_s == 0.0


# --- the screen -------------------------------------------------------------------------------------------------------


def test_a_screen_of_80_by_24_has_it_all() -> None:
    busy = worker(running=("a", "b"), cpu_percent=97.4, memory_bytes=80 * 2**20, runs=(WorkerRun("a", "send", 0, True),))
    found = frame(queue(ready=1_234, oldest_ms=90_000, dead=3, busy=2), queue("bulk", paused=True, ready=1), workers=(busy,))
    text = shown(Known("10.0.0.1:6379", found, {"email": Rates(12.0, 11.5, 0.2, 107.0)}, [failure()]))
    assert text.splitlines()[0] == "bananas top  shop  slots 2/10  memory 50%  10.0.0.1:6379"
    assert text.splitlines()[1] == "ready 1,235  scheduled 0  running 0  dead 3  in 12.0  out 11.5  failing 0.2"
    assert re.search(r"^email +1,234 +0 +0 +3 +1\.5 m +12\.0 +11\.5 +1\.8 m$", text, re.MULTILINE)
    assert re.search(r"^bulk +1 .*paused", text, re.MULTILINE)
    assert re.search(r"^web-1:7 +2/10 +97% +80M +working send", text, re.MULTILINE)
    assert re.search(r"^ +4 ValueError +mail.py:12 in send no such host", text, re.MULTILINE)
    assert "q quit" in text.splitlines()[-1]
    assert "FAIL/s" not in text
    assert "FAIL/s" in shown(Known("here", found, {}), width=100)


def test_many_queues_and_workers_share_the_room_and_scroll() -> None:
    found = frame(*(queue(f"q{n:03}", ready=n) for n in range(200)), workers=tuple(worker(f"host{n}") for n in range(50)))
    controls = Controls()
    text = shown(Known("here", found, {}, [failure()]), controls)
    assert re.search(r"^QUEUE 1-\d of 200", text, re.MULTILINE)
    assert re.search(r"^WORKER 1-\d of 50", text, re.MULTILINE)
    assert "ValueError" in text
    controls.press("jjj")
    assert "q000" not in shown(Known("here", found, {}), controls)
    controls.press("j" * 1_000)
    assert "q199" in shown(Known("here", found, {}), controls)
    controls.press("s")
    assert re.search(r"^q199", shown(Known("here", found, {}), controls), re.MULTILINE)
    controls.press("/q15\r")
    text = shown(Known("here", found, {}), controls)
    assert "of 10" in text or text.count("\nq15") == 10
    assert "\nq001" not in text


def test_a_server_that_is_away_is_told_with_the_age_of_what_is_shown() -> None:
    known = Known("here", frame(queue(ready=7)), {}, age_s=12.0, late=True, trouble="BrokerUnavailable: it went away")
    text = shown(known)
    assert "figures of 12 s ago: BrokerUnavailable: it went" in text.splitlines()[0]
    assert re.search(r"^email +7 ", text, re.MULTILINE)
    assert "nothing for 4 s: the server does not answer" in shown(Known("here", None, {}, age_s=4.0, late=True))
    assert "asking the server" in shown(Known("here", None, {}))
    controls = Controls()
    controls.press("p")
    assert "paused, figures of 12 s ago" in shown(known, controls)


def test_hostile_text_is_shown_as_text() -> None:
    found = frame(queue(), workers=(worker(HOSTILE, runs=(WorkerRun("a", HOSTILE, 0),)),))
    text = shown(Known("here", found, {}, [failure(HOSTILE, HOSTILE)], late=True, trouble=HOSTILE), width=200)
    assert "[red]bold" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


@given(
    st.integers(8, 250),
    st.integers(3, 80),
    st.lists(st.tuples(st.text(max_size=80), st.integers(0, 10**12)), max_size=60),
    st.lists(st.text(max_size=60), max_size=40),
    st.lists(st.text(max_size=60), max_size=5),
)
def test_whatever_there_is_fits(width: int, height: int, queues: list[tuple[str, int]], hosts: list[str], messages: list[str]) -> None:
    found = frame(*(queue(name, ready=count, oldest_ms=count) for name, count in queues), workers=tuple(map(worker, hosts)))
    rates = {name: Rates(float(count), float(count), None, float(count)) for name, count in queues}
    shown(Known("here", found, rates, [failure(message) for message in messages]), width=width, height=height)
