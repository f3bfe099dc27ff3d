"""Two commands at once on the same thing, and what killed ones left, for every command that writes."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from deconvnet.data.downloads import Remote, fetch
from deconvnet.data.synthetic import generate
from deconvnet.inference.saved_scores import SavedScores
from deconvnet.inference.sources import Source
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.run_folder import open_run
from deconvnet.segmenter import Segmenter
from deconvnet.support import locks
from deconvnet.support.atomic import temporary_name
from deconvnet.support.errors import UserError
from deconvnet.support.locks import held
from stages import bn_statistics, build_proposals, evaluate, infer, train
from stages.build_proposals import main as build
from stages.cli import run_command
from tests.support.test_locks import holder

KEYS = ["network.width=0.0625", "fcn.width=0.03125", "fcn.staged=true", "proposals.count=20"]
LEFT = temporary_name(Path("2007_000033.h5"), 999999999)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "voc", train=2, val=1, seed=0, side=96)


@pytest.fixture
def run(tmp_path: Path, voc: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder in which every command gets as far as its lock, and not much farther."""
    monkeypatch.setenv("DECONVNET_VOC_ROOT", str(voc))
    run = tmp_path / "run"
    save_recipe(load_recipe("tiny", KEYS), run / "recipe.yaml")
    for name in ("stage2", "fcn8s"):
        (run / name).mkdir()
        (run / name / "network.safetensors").write_text(f"no network of {name}")
    (run / "predictions" / "val" / "deconvnet-max").mkdir(parents=True)
    for image_id in (voc / "ImageSets/Segmentation/val.txt").read_text().split():
        (run / "predictions" / "val" / "deconvnet-max" / f"{image_id}.png").write_text("no picture")
    return run


COMMANDS: dict[str, tuple[object, tuple[str, ...], str]] = {
    "build": (build_proposals, ("--run", "RUN", "--workers", "0"), "build"),
    "stage 1": (train, ("--run", "RUN", "--device", "cpu", "--stage", "1"), "stage1"),
    "stage 2": (train, ("--run", "RUN", "--device", "cpu", "--stage", "2"), "stage2"),
    "fcn8s": (train, ("--run", "RUN", "--device", "cpu", "--model", "fcn8s"), "fcn8s"),
    "fcn8s, which trains fcn16s": (train, ("--run", "RUN", "--device", "cpu", "--model", "fcn8s"), "fcn16s"),
    "bn_statistics": (bn_statistics, ("--run", "RUN", "--device", "cpu"), "stage2"),
    "bn_statistics --to": (bn_statistics, ("--run", "RUN", "--device", "cpu", "--to", "RUN/other.safetensors"),
                           "other.safetensors"),
    "infer": (infer, ("--run", "RUN", "--device", "cpu"), "predictions/val/deconvnet-max"),
    "infer --out": (infer, ("--run", "RUN", "--device", "cpu", "--out", "RUN/out"), "out/deconvnet-max"),
    "evaluate": (evaluate, ("--predictions", "RUN/predictions/val/deconvnet-max", "--voc-root", "VOC"),
                 "predictions/val/deconvnet-max"),
    "evaluate --run": (evaluate, ("--run", "RUN"), "predictions/val/deconvnet-max"),
}


def status(name: str, run: Path, voc: Path) -> int:
    module, options, _ = COMMANDS[name]
    given = [option.replace("RUN", str(run)).replace("VOC", str(voc)) for option in options]
    return run_command(module.parse(), module.main, given)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_takes_its_lock(name: str, run: Path, voc: Path, capsys: pytest.CaptureFixture,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    for work in ("proposals.build.build_proposals", "proposals.build.build_windows",
                 "deconvnet.training.schedules.train_all"):
        monkeypatch.setattr(work, refuse)
    with held(run / COMMANDS[name][2]):
        assert status(name, run, voc) == 1
        assert f"error: {run / COMMANDS[name][2]}: in use by process " in capsys.readouterr().err
    with held(run / "stage3"):  # another one is not in the way: it fails at what the folder lacks
        assert status(name, run, voc) in (1, 2)
        assert "in use" not in capsys.readouterr().err
    assert not list(run.rglob(".*"))


def refuse(*_: object) -> None:
    raise UserError("farther than the lock")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [
    ("build", "."), ("build", "proposals"), ("bn_statistics", "stage2"), ("infer", "predictions/val/deconvnet-max"),
    ("infer", "scores/val/NETWORK"), ("evaluate", "predictions/val/deconvnet-max"),
])
def test_what_a_killed_command_left_goes(name: str, folder: str, run: Path, voc: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    if "NETWORK" in folder:  # its name tells how the score maps are made
        arguments = infer.parse().parse_args(["--run", str(run), "--device", "cpu"])
        opened = open_run(arguments)
        segmenter = Segmenter.of(opened)
        (network,) = segmenter.networks
        folder = str(SavedScores(Source(opened, segmenter.proposer), network).folder.relative_to(run))
    (run / folder).mkdir(parents=True, exist_ok=True)
    (run / folder / LEFT).touch()
    status(name, run, voc)
    assert not list(run.rglob(".*.part*"))


def test_two_that_begin_a_run_at_once(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """With different recipes: the later one's is written down, and the earlier one stops before it makes anything."""
    lock = locks.held

    def overtaken(path: Path) -> object:
        save_recipe(load_recipe("tiny", [*KEYS, "proposals.count=30"]), run / "recipe.yaml")
        return lock(path)

    monkeypatch.setattr(locks, "held", overtaken)
    assert run_command(build_proposals.parse(), build, ["--run", str(run), "--workers", "0"]) == 1
    assert "another command just started this run with another recipe" in capsys.readouterr().err
    assert not (run / "proposals").exists()


def test_a_set_that_another_command_makes_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with holder(tmp_path / "VOC2012") as first:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3); print()"], stdout=first.stdin)
        generate(tmp_path, train=1, val=1, seed=0, side=96)
    assert f"VOC2012: waiting for process {first.pid}" in caplog.text


def test_two_downloads_of_one_file(tmp_path: Path) -> None:
    with held(tmp_path / "set.tar"), pytest.raises(UserError, match="set.tar: in use by process"):
        fetch(Remote("http://127.0.0.1:1/set.tar", "set.tar"), tmp_path)
