"""The small folder, for every test of this room."""

from pathlib import Path

import pytest

from tests.data.small_voc import make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "VOC2012")
