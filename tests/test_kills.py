"""A few random kills; `python -m tests.kills` makes more of them."""

from pathlib import Path

import pytest

from tests import kills


@pytest.mark.long
def test_four_kills_lose_nothing_and_leave_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert kills.run(0, [1, 3, 6, 8], tmp_path) == 0, capfd.readouterr().out
