"""stages.train as a user runs it: killed and resumed, interrupted, without images, used wrongly."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch

from deconvnet.data.synthetic import generate
from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.training.schedules import Given, asked_for, train_all
from deconvnet.training.trainer import Training
from proposals.build import build_windows
from stages.cli import run_command
from stages.train import main, parse

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 40
KEYS = ["network.width=0.0625", "network.input=32", "windows.warp=36", "train.batch=4", "train.micro_batch=2",
        f"train.iterations=[{ITERATIONS},{ITERATIONS}]", "train.validate_every=23", "train.validate_windows=6",
        "train.checkpoint_every=10", "train.workers=0", "network.deconv_std=0",
        "bn_statistics.batches=3", "bn_statistics.batch=4", "solver.lr_patience=1",
        "fcn.width=0.03125", "fcn.canvas=96", "fcn.batch_norm=false", "fcn.iterations=[4,4,8]", "fcn.staged=true",
        "fcn.batch=4", "fcn.micro_batch=2", "fcn.lr=0.001", "fcn.validate_images=2"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> RunFolder:
    """A run folder with a synthetic data set's materialized windows; stage 2 has stage 1's, without proposals."""
    folder = tmp_path_factory.mktemp("built")
    voc_root = generate(folder / "voc", train=8, val=4, seed=0, side=96)
    run = RunFolder(folder / "run", load_recipe("tiny", KEYS), voc_root)
    save_recipe(run.recipe, run.root / "recipe.yaml")
    for split in ("train", "val"):
        build_windows(run, split, 1, True, 1, "stop")
        shutil.copy(run.windows(1, split), run.windows(2, split))
        with h5py.File(run.windows(2, split), "r+") as file:
            file.attrs["stage"] = 2
    return run


def elsewhere(built: RunFolder, folder: Path) -> Path:
    """A run folder on another machine: the windows files and the recipe, nothing else."""
    shutil.copytree(built.root / "windows", folder / "windows")
    shutil.copy(built.root / "recipe.yaml", folder)
    return folder


def here(*arguments: str) -> int:
    """The command in this process: its exit status."""
    return run_command(parse(), main, ["--device", "cpu", *map(str, arguments)])


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """The command in a process group of its own, as a terminal starts it; one thread, as in the tests' process."""
    return subprocess.Popen([sys.executable, "-m", "stages.train", "--run", str(folder), "--device", "cpu",
                             "--set", "train.workers=1", *arguments], cwd=folder, start_new_session=True, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until the condition holds. Fails when the process ends before."""
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError("ten minutes passed")


def logged(folder: Path) -> list[dict[str, str]]:
    path = folder / "log.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def killed_at_23(folder: Path, stage: str, *arguments: str) -> None:
    process = start(folder, "--stage", stage, *arguments)
    wait_for(lambda: any(row["iteration"] == "23" for row in logged(folder / f"stage{stage}")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not (folder / f"stage{stage}" / "network.safetensors").exists()


def finished(folder: Path, *arguments: str) -> None:
    process = start(folder, *arguments)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def assert_same_network(one: Path, other: Path) -> None:
    tensors, others = read_safetensors(one)[0], read_safetensors(other)[0]
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


def test_windows_of_another_stage_or_split_are_refused(built, tmp_path, capsys):
    folder = elsewhere(built, tmp_path / "run")
    windows = folder / "windows"
    shutil.copy(windows / "stage1-train.h5", windows / "stage2-train.h5")
    assert here("--run", folder, "--stage", "2") != 0
    shutil.copy(windows / "stage1-train.h5", windows / "stage1-val.h5")
    assert here("--run", folder, "--stage", "1") == 1
    assert "stage1-val.h5: holds the windows of stage 1, split train; expected stage 1, split val" in (
        capsys.readouterr().err)


@pytest.mark.slow
def test_killed_and_resumed_as_if_never_stopped(built, tmp_path, monkeypatch):
    """Both stages, from the windows files alone: interrupted by Ctrl-C, killed, resumed; bit-equal weights."""
    built_voc = built.voc_root.rename(built.voc_root.with_name("gone"))
    try:
        whole, broken = elsewhere(built, tmp_path / "whole"), elsewhere(built, tmp_path / "broken")
        monkeypatch.chdir(tmp_path)
        for stage in ("1", "2"):
            assert here("--run", whole, "--stage", stage) == 0

        process = start(broken, "--stage", "1", "--set", "train.checkpoint_every=1000")
        wait_for(lambda: any(row["iteration"] == "20" for row in logged(broken / "stage1")), process)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # a scheduler's, a terminal's
            os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 130, errors
        assert errors.rstrip().endswith("run the same command with --resume to continue") and "Traceback" not in errors
        kept = torch.load(broken / "stage1" / "last.pt", weights_only=True)
        assert 20 <= kept["iteration"] < ITERATIONS  # the iteration at work was finished and kept
        assert here("--run", broken, "--stage", "2") == 2  # not from half a stage 1

        killed_at_23(broken, "1", "--resume")
        finished(broken, "--stage", "1", "--resume")
        killed_at_23(broken, "2")
        finished(broken, "--stage", "2", "--resume")
    finally:
        built_voc.rename(built.voc_root)
    assert not (tmp_path / "data").exists()  # no synthetic set was made for want of images
    for stage in ("stage1", "stage2"):
        assert_same_network(whole / stage / "network.safetensors", broken / stage / "network.safetensors")
        rows, others = logged(whole / stage), logged(broken / stage)
        assert [row["iteration"] for row in rows] == [row["iteration"] for row in others] == ["20", "23", "40"]
        for row, other in zip(rows, others, strict=True):
            del row["images_per_second"], other["images_per_second"]
            assert row == other
    first, second = (read_safetensors(whole / stage / "network.safetensors") for stage in ("stage1", "stage2"))
    assert not torch.equal(first[0]["conv1_1.weight"], second[0]["conv1_1.weight"])
    assert second[1]["bn"] == "measured" and second[1]["origin"]["iterations"] == ITERATIONS

    assert here("--run", whole, "--stage", "1", "--resume") == 0  # all is done: changes nothing
    assert_same_network(whole / "stage1" / "network.safetensors", broken / "stage1" / "network.safetensors")


def test_an_existing_checkpoint_is_not_overwritten(built, tmp_path, capsys):
    folder = elsewhere(built, tmp_path / "run")
    (folder / "stage1").mkdir()
    (folder / "stage1" / "last.pt").write_text("precious")
    assert here("--run", folder, "--stage", "1") == 2
    assert "there is a checkpoint already: --resume continues from it" in capsys.readouterr().err
    assert (folder / "stage1" / "last.pt").read_text() == "precious"
    assert here("--run", folder, "--stage", "1", "--resume") == 1
    assert "last.pt: not a checkpoint" in capsys.readouterr().err


def test_stage_2_needs_stage_1(built, tmp_path, capsys):
    assert here("--run", elsewhere(built, tmp_path / "run"), "--stage", "2") == 2
    assert "last.pt: stage 2 starts from stage 1's checkpoint: run stage 1 first" in capsys.readouterr().err
    (tmp_path / "run/stage1").mkdir()
    (tmp_path / "run/stage1/last.pt").touch()  # of a stage 1 that was broken off
    assert here("--run", tmp_path / "run", "--stage", "2") == 2
    error = capsys.readouterr().err
    assert "stage 1 is not finished" in error and "--stage 1 --resume` finishes it" in error
    for option in ("--vgg16", "--weights"):
        assert here("--run", tmp_path / "run", "--stage", "2", option, tmp_path / "none.pth") == 2
        assert f"{option} is for stage 1: stage 2 starts from stage 1's checkpoint" in capsys.readouterr().err


def test_wrong_use(built, tmp_path, capsys):
    folder = elsewhere(built, tmp_path / "run")
    assert here("--run", folder) == 2
    assert "give --stage 1 or --stage 2" in capsys.readouterr().err
    assert here("--run", folder, "--stage", "1", "--model", "fcn8s") == 2
    assert here("--run", folder, "--stage", "1", "--set", "solver.lr=0.5") == 2
    assert "this run's recipe has solver.lr = 0.1, not 0.5" in capsys.readouterr().err
    assert here("--run", folder, "--model", "fcn8s", "--voc-root", tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    (folder / "windows" / "stage1-train.h5").unlink()
    assert here("--run", folder, "--stage", "1") == 2
    assert "no windows yet; `python -m stages.build_proposals --run" in capsys.readouterr().err


def test_windows_of_other_keys_are_refused(built, tmp_path, capsys):
    folder = elsewhere(built, tmp_path / "run")
    save_recipe(load_recipe("tiny", [*KEYS, "windows.warp=40"]), folder / "recipe.yaml")
    assert here("--run", folder, "--stage", "1") == 1
    assert "was made with windows.warp = 36, the recipe has 40" in capsys.readouterr().err
    save_recipe(load_recipe("tiny", [*KEYS, "data.classes=[background,cell]"]), folder / "recipe.yaml")
    assert here("--run", folder, "--stage", "1") == 1
    assert "was made with data.classes" in capsys.readouterr().err


def test_windows_without_crops_need_the_images(built, tmp_path, capsys):
    run = RunFolder(tmp_path / "run", built.recipe, built.voc_root)
    save_recipe(run.recipe, run.root / "recipe.yaml")
    build_windows(run, "train", 1, False, 1, "stop")
    assert here("--run", run.root, "--stage", "1") == 2
    assert "give --voc-root" in capsys.readouterr().err


@pytest.mark.slow
def test_fcn_with_dropout_resumes_bit_equal(built, tmp_path, monkeypatch):
    """32s, 16s, 8s one after the other; interrupted within the last. Dropout draws from the saved random state."""
    whole, broken = (RunFolder(tmp_path / name, built.recipe, built.voc_root) for name in ("whole", "broken"))
    torch.manual_seed(1)
    train_all(whole, asked_for(whole.recipe, "fcn8s", None), Given(), False, torch.device("cpu"))

    iterate = Training._iterate

    def stopped(self: Training, source) -> tuple[float, float]:
        if self.plan.name == "fcn8s" and self.iteration == 6:
            raise KeyboardInterrupt
        return iterate(self, source)

    monkeypatch.setattr(Training, "_iterate", stopped)
    monkeypatch.setattr(Training, "run", with_checkpoints_every(4, Training.run))
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train_all(broken, asked_for(broken.recipe, "fcn8s", None), Given(), False, torch.device("cpu"))
    monkeypatch.setattr(Training, "_iterate", iterate)
    torch.manual_seed(2)
    train_all(broken, asked_for(broken.recipe, "fcn8s", None), Given(), True, torch.device("cpu"))
    assert_same_network(whole.network("fcn8s"), broken.network("fcn8s"))


@pytest.mark.slow
def test_an_fcn32s_trained_before_is_passed_over(built, tmp_path):
    """Without --resume, which is for fcn8s's own checkpoint."""
    run = RunFolder(tmp_path / "run", built.recipe, built.voc_root)
    save_recipe(run.recipe, run.root / "recipe.yaml")
    arguments = ("--run", run.root, "--voc-root", built.voc_root, "--model")
    assert here(*arguments, "fcn32s") == 0
    before = run.network("fcn32s").read_bytes(), run.network("fcn32s").stat().st_mtime_ns
    assert here(*arguments, "fcn8s") == 0
    assert (run.network("fcn32s").read_bytes(), run.network("fcn32s").stat().st_mtime_ns) == before
    assert run.network("fcn8s").is_file() and len(logged(run.training("fcn32s"))) == 1


def with_checkpoints_every(iterations: int, run: Callable) -> Callable:
    """train.checkpoint_every changes nothing that is computed, so only the broken-off training has it."""
    def changed(self: Training) -> None:
        self.plan.checkpoint_every = iterations
        run(self)

    return changed


@pytest.mark.slow
def test_one_stage_training_needs_no_stage_1(built, tmp_path):
    """The variant that the paper argues against: stage 2's windows from the start."""
    folder = elsewhere(built, tmp_path / "run")
    recipe = load_recipe(folder / "recipe.yaml", ["train.stage2_from=nothing", "train.iterations=[2,2]"])
    save_recipe(recipe, folder / "recipe.yaml")
    assert here("--run", folder, "--stage", "2") == 0
    origin = read_safetensors(folder / "stage2" / "network.safetensors")[1]["origin"]
    assert origin["started_from"].startswith("random numbers")
