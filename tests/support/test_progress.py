"""Progress bars on a terminal and in a log file."""

import sys

import pytest

from deconvnet.support.progress import progress


def three_steps() -> None:
    with progress(total=3, desc="work", unit="image") as bar:
        for _ in range(3):
            bar.update()
            bar.set_postfix(loss="0.1")  # draws the bar
    print("and on", file=sys.stderr)


def test_lines_in_a_log_file(capsys: pytest.CaptureFixture) -> None:
    three_steps()
    text = capsys.readouterr().err
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("work:   0%") and "| 3/3 [" in lines[-2] and lines[-1] == "and on"
    assert len(lines) == 6 and all(line.strip() == line != "" for line in lines)


def test_a_moving_line_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    three_steps()
    assert capsys.readouterr().err.count("\r") >= 4
