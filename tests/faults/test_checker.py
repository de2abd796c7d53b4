"""The checker proves itself: damage that is done on purpose is found, kind by kind, and nothing else is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from bananas.chaos import selfcheck
from bananas.chaos.judge import KINDS, judge
from bananas.chaos.ledger import Book, commit
from bananas.chaos.selfcheck import CheckerFailed, damaged, sound
from bananas.chaos.trials import SHORT, Fault, Trial, run_trial

if TYPE_CHECKING:
    from pathlib import Path

    from bananas.server import ServerBinary


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    verdict = judge(sound())
    assert verdict.broken() == []
    assert (verdict.tried, verdict.acked, verdict.ended, verdict.runs, verdict.duplicate_runs) == (10, 10, 10, 11, 1)


@pytest.mark.parametrize("damage", KINDS)
def test_one_damaged_job_is_found_and_named(damage: str) -> None:
    verdict = judge(damaged()[damage])
    assert {kind: len(getattr(verdict, kind)) for kind in KINDS} == {kind: int(kind == damage) for kind in KINDS}
    assert len(verdict.broken()) == 1
    assert verdict.broken(allowed=[damage]) == []


def test_a_job_that_the_driver_ended_or_that_is_dead_is_not_lost() -> None:
    seen = damaged()["lost"]
    (lost,) = judge(seen).lost
    gone = next(line for line in seen.submitted if line.name == lost)._replace(word="gone")
    assert judge(replace(seen, submitted=[*seen.submitted, gone])).lost == ()
    public_id = next(line.more for line in seen.submitted if line.word == "ack" and line.name == lost)
    assert judge(replace(seen, places={public_id: "dead"})).broken() == []


def test_a_second_run_after_the_trust_of_the_first_ended_is_no_overlap() -> None:
    seen = damaged()["overlaps"]
    first = seen.noted[0]
    distrusting = [line._replace(valid=False) if line.id == first.id and line.word == "end" else line for line in seen.noted]
    assert judge(replace(seen, noted=distrusting)).overlaps == ()


def test_two_jobs_that_one_submit_made_are_a_double_commit() -> None:
    seen = sound()
    name = seen.noted[0].name
    twin = seen.noted[0]._replace(id="default." + "f" * 43, fence=500)
    twice = replace(seen, noted=[*seen.noted, twin], commits=[*seen.commits, seen.commits[0]._replace(id=twin.id, fence=500)])
    assert judge(twice).double_commits == (name,)


async def test_real_jobs_that_are_lost_doubled_or_homeless_are_found(binary: ServerBinary, tmp_path: Path) -> None:
    await selfcheck.check_on_server(binary, tmp_path)


def test_a_checker_that_finds_too_little_or_too_much_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    selfcheck.check_judge()
    monkeypatch.setattr(selfcheck, "judge", lambda _: judge(sound()))
    with pytest.raises(CheckerFailed, match="one job of the kind 'lost'"):
        selfcheck.check_judge()
    monkeypatch.setattr(selfcheck, "judge", lambda _: judge(damaged()["ghosts"]))
    with pytest.raises(CheckerFailed, match="where nothing is wrong"):
        selfcheck.check_judge()


def test_what_was_written_is_read_also_when_the_last_line_is_half(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.trying(["a", "b"])
    book.acked([("a", "default.1")])
    book.failed(["b"], "BrokerUnavailable")
    book.write([f"start a default.1 1 7 99 {time.monotonic_ns()} 1", "end a default.1 1 7"], who="runs")
    path = next(tmp_path.glob("runs-*"))
    path.write_text(path.read_text()[:-1])  # killed while it wrote
    commit(tmp_path, "default.1", "success", 7)
    assert [(line.word, line.name) for line in book.submitted()] == [("try", "a"), ("try", "b"), ("ack", "a"), ("fail", "b")]
    assert [(line.word, line.name, line.fence, line.valid) for line in book.noted()] == [("start", "a", 7, True)]
    assert [(line.id, line.fence) for line in book.commits()] == [("default.1", 7)]


def test_a_trial_that_breaks_says_how_and_keeps_its_evidence(binary: ServerBinary, tmp_path: Path) -> None:
    async def loses_a_job(trial: Trial) -> None:
        site = await trial.site()
        _, job = await site.submit("work", 0.0)
        site.ask("ZREM", site.keys.ready, job.place[1])
        site.ask("HDEL", site.keys.jobs, job.place[1])
        await trial.judge(site)

    outcome = run_trial(Fault("F0", "loss", "", "", loses_a_job), 7, SHORT, binary, tmp_path)
    assert outcome.lost == 1
    assert [text for text in outcome.broken if text.startswith("1 lost (d-1)")]
    (kept,) = tmp_path.iterdir()
    assert outcome.evidence == str(kept)
    assert {path.name for path in kept.rglob("*")} >= {"outcome.json", "places.json", "dump.rdb"}
    assert "ack d-1" in "".join(path.read_text() for path in kept.rglob("producer-*.txt"))


def test_a_trial_that_fails_is_broken_and_not_passed_over(binary: ServerBinary, tmp_path: Path) -> None:
    async def fails(trial: Trial) -> None:
        await trial.site()
        raise RuntimeError("the harness itself is broken")

    outcome = run_trial(Fault("F0", "failure", "", "", fails), 7, SHORT, binary, tmp_path)
    assert any("the harness itself is broken" in text for text in outcome.broken)
