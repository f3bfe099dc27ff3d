"""The import contracts of pyproject.toml (`make lint` checks them): each room and each command is named there."""

from pathlib import Path

import pytest

from tests.stages.test_cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
tomllib = pytest.importorskip("tomllib")  # of Python 3.11
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYERS, INDEPENDENT = (next(one for one in SETTINGS["contracts"] if one["type"] == kind)
                       for kind in ("layers", "independence"))


def test_no_room_is_outside_the_layers() -> None:
    """import-linter passes over what no layer names."""
    named = [name.strip() for layer in LAYERS["layers"] for name in layer.split("|")]
    rooms = {f"deconvnet.{path.stem}" for path in (ROOT / "deconvnet").iterdir()
             if (path / "__init__.py").is_file() or path.suffix == ".py"} - {"deconvnet.__init__"}
    assert len(rooms) > 10 and sorted(named) == sorted(rooms | {*SETTINGS["root_packages"]} - {"deconvnet"})


def test_no_command_is_outside_the_contract() -> None:
    assert INDEPENDENT["modules"] and sorted(INDEPENDENT["modules"]) == COMMANDS
