"""A short run of the fuzzing script finds nothing; and what it is there to find, it would find."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.cases import Outcome, Workshop, judge, snapshot
from tests.fuzz.kinds import KINDS

SECONDS = 20


@pytest.mark.slow
def test_a_short_run_finds_nothing(capsys: pytest.CaptureFixture) -> None:
    counts, findings = fuzz(list(KINDS), seed=0, seconds=SECONDS, most=1)
    assert not findings, "\n".join(findings)
    assert sum(sum(found.values()) for found in counts.values()) >= 10


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """A workshop whose base is one file."""
    return Workshop(tmp_path, lambda work: (work / "one.txt").touch())


def wrong(outcome: Outcome, **changes: str) -> list[str]:
    """The judgement of a case of damaged `bad.h5` beside `good.h5`; changes: what files hold afterwards."""
    before = {"bad.h5": 1, "good.h5": 2}
    kind = replace(KINDS["weights"], results=("none",))
    return judge(kind, outcome, before, before | changes, {"none": 1}, Path("/somewhere/bad.h5"), Path("/somewhere"))


def test_what_is_as_it_should_be() -> None:
    refused = Outcome(1, ["error: bad.h5: damaged: remove it"], "error: bad.h5: damaged: remove it\n")
    assert wrong(refused) == []
    assert judge(KINDS["weights"], Outcome(0, [], ""), {}, {}, {}, Path("/somewhere/bad.h5"), Path("/somewhere")) == []


@pytest.mark.parametrize(("outcome", "word"), [
    (Outcome(1, ["error: bad.h5: x"], "Traceback (most recent call last)"), "Traceback"),
    (Outcome(1, ["error: ValueError: bad.h5 (--debug shows where)"], "(--debug shows where)"), "--debug"),
    (Outcome(130, [], ""), "status 130"),
    (Outcome(1, [], ""), "0 error lines"),
    (Outcome(2, ["error: bad.h5: x", "error: bad.h5: y"], ""), "2 error lines"),
    (Outcome(1, ["error: something is wrong"], ""), "names no file"),
    (Outcome(1, ["error: bad.h5 " + "x" * 700], ""), "a line of"),
    (Outcome(1, ["error: bad.h5: out of memory (8 GB)"], ""), "more than 2 GB"),
    (Outcome(None, [], "", "a hang"), "a hang"),
    (Outcome(0, [], ""), "accepted without a word"),
])
def test_what_is_a_finding(outcome: Outcome, word: str) -> None:
    (found,) = wrong(outcome)
    assert word in found


def test_success_with_an_error_line_is_a_finding() -> None:
    outcome = Outcome(0, ["error: bad.h5"], "")
    assert judge(KINDS["split"], outcome, {}, {}, {}, Path("/somewhere/bad.h5"), Path("/somewhere")) == [
        "exit status 0 with error: bad.h5"]


def test_finished_work_that_changed_or_was_left_half_is_a_finding() -> None:
    refused = Outcome(1, ["error: bad.h5: damaged"], "")
    assert wrong(refused, **{"good.h5": 3}) == ["finished work was changed: good.h5"]
    assert wrong(refused, **{"bad.h5": 3, "new.h5": 4}) == []
    assert wrong(refused, **{".x.7.part.h5": 4}) == ["left behind: .x.7.part.h5"]


def too_much_memory() -> int:
    try:
        return len(bytearray(3 << 30)) and 0
    except MemoryError:
        return 1


def test_processes_are_bounded(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.in_process(lambda: 2).status == 2
    assert shop.in_process(too_much_memory).status == 1
    assert "a crash" in shop.in_process(lambda: os.kill(os.getpid(), signal.SIGSEGV)).died
    monkeypatch.setattr("tests.fuzz.cases.WALL", 0.2)
    assert shop.in_process(lambda: time.sleep(60)).died == "a hang"
    assert "ZeroDivisionError" in shop.in_process(lambda: 1 // 0).output


def test_each_case_begins_with_the_base(shop: Workshop) -> None:
    kind = replace(KINDS["weights"], removed=(), copies=(("one.txt", "two.txt"),))
    shop.work.mkdir()
    (shop.work / "left.txt").write_text("of the case before")
    shop.fresh(kind)
    assert snapshot(shop.work).keys() == {"one.txt", "two.txt"} and snapshot(shop.base).keys() == {"one.txt"}
