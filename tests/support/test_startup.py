"""What is settled before torch is imported: seen by the module that is imported, and by OpenMP itself."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deconvnet.support import startup
from tests.photographs import smooth
from tests.stages.test_infer_command import folder, networks, voc  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[2]
NONE = "GOMP_SPINCOUNT = '0'"  # rounds that a thread waits awake, told by libgomp


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "made_for_a_test.py").write_text("import gc\ncollected = gc.isenabled()\nmade = [[]]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_for_a_test", raising=False)
    yield "made_for_a_test"
    gc.enable()


def test_nothing_is_collected_while_a_module_is_imported(module: str) -> None:
    found = startup.import_with_torch(module)
    assert not found.collected and gc.isenabled() and not gc.get_freeze_count()
    assert any(one is found.made for one in gc.get_objects(generation=2))  # the oldest
    gc.collect()  # so that no collection is due soon
    young = [[]]
    assert startup.import_with_torch(module) is found and gc.isenabled()
    assert any(one is young for one in gc.get_objects(generation=0))  # a module that is there costs nothing


def test_a_program_that_collects_nothing_is_left_so(module: str) -> None:
    gc.disable()
    startup.import_with_torch(module)
    assert not gc.isenabled()


def test_what_a_program_has_frozen_stays_frozen(module: str) -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        startup.import_with_torch(module)
        assert gc.get_freeze_count() > count / 2 > 0  # some of it may die meanwhile
    finally:
        gc.unfreeze()


def test_a_module_that_fails_leaves_the_collector_on(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError):
        startup.import_with_torch(module)
    assert gc.isenabled()


def told(*command: object, **environment: str) -> bool:
    """Whether OpenMP says that waiting threads sleep, in the process of a command."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True,
                          env={**{name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"},
                               "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", **environment})
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch's OpenMP does not tell")
    return NONE in done.stderr


@pytest.mark.slow
def test_threads_sleep_where_the_crf_works_beside_the_network(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    infer = ("stages.infer", "--run", folder, "--model", "fcn8s", "--images", tmp_path / "a.png", "--workers", 1)
    assert told(*infer, "--out", tmp_path / "crf", "--crf")
    assert not told(*infer, "--out", tmp_path / "none")
    assert not told(*infer, "--out", tmp_path / "own", "--crf", OMP_WAIT_POLICY="ACTIVE")
    predict = ("stages.predict", tmp_path / "a.png", "--workers", 1)
    assert told(*predict, "--out", tmp_path / "predicted")
    assert not told(*predict, "--out", tmp_path / "rounder", "--no-crf")
