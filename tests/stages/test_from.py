"""A run begun on another's proposals and windows (--from), and a training that is to be longer (train.iterations)."""

import json
import logging
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from deconvnet.data.synthetic import generate
from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe import recipe_difference, recipe_to_dict
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments import reproduce
from stages import build_proposals, infer, train
from stages.cli import run_command

KEYS = ["network.width=0.0625", "network.input=32", "windows.warp=36", "train.batch=4", "train.micro_batch=4",
        "train.iterations=[8,8]", "train.validate_every=4", "train.validate_windows=4", "train.checkpoint_every=4",
        "train.workers=0", "network.deconv_std=0", "bn_statistics.batches=2", "bn_statistics.batch=4",
        "proposals.count=40", "infer.proposals=3", "solver.rate_rule=plateau", "solver.lr_patience=1",
        "fcn.width=0.03125", "fcn.canvas=96", "fcn.iterations=[2,2,2]", "fcn.staged=true", "fcn.batch=2",
        "fcn.micro_batch=2", "fcn.validate_images=2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with proposals and windows, no training."""
    folder = tmp_path_factory.mktemp("source")
    voc_root = generate(folder / "voc", train=4, val=2, seed=0, side=96)
    sets = [word for key in KEYS for word in ("--set", key)]
    assert command(build_proposals, folder / "run", "--recipe", "tiny", *sets, "--voc-root", voc_root,
                   "--workers", 0) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stage 1 of 8 iterations."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert command(train, run, "--from", source, "--stage", 1, "--device", "cpu") == 0
    return run


def command(module, run: Path, *arguments: object) -> int:
    """The command in this process: its exit status."""
    return run_command(module.parse(), module.main, ["--run", str(run), *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture, status: int, *words: object) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1, (status, lines)
    for word in words:
        assert str(word) in lines[0], lines[0]


def tensors(run: Path, name: str = "stage1") -> dict[str, torch.Tensor]:
    return read_safetensors(run / name / "network.safetensors")[0]


def origin(run: Path, name: str = "stage1") -> dict:
    return read_safetensors(run / name / "network.safetensors")[1]["origin"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def differences(run: Path, source: Path) -> dict:
    one, other = (recipe_to_dict(load_recipe(folder / "recipe.yaml", complete=True)) for folder in (source, run))
    return recipe_difference(one, other)


# --from


@pytest.mark.slow
def test_as_if_proposals_and_windows_had_been_copied(source, trained, tmp_path, caplog):
    before, new, copied = files(source), tmp_path / "new", tmp_path / "copied"
    assert command(train, new, "--from", source, "--set", "solver.lr=0.02", "--set", "windows.balance=none",
                   "--stage", 1, "--device", "cpu") == 0
    assert differences(new, source) == {"solver.lr": (0.1, 0.02), "windows.balance": ("repeat", "none")}
    assert json.loads((new / "run.json").read_text())["from"] == str(source)
    assert (new / "data.json").read_text() == (source / "data.json").read_text()

    for name in ("proposals", "windows"):
        shutil.copytree(source / name, copied / name)
    changed = load_recipe(source / "recipe.yaml", ["solver.lr=0.02", "windows.balance=none"])
    save_recipe(changed, copied / "recipe.yaml")
    shutil.copy(source / "data.json", copied)
    assert command(train, copied, "--stage", 1, "--device", "cpu") == 0
    assert equal(tensors(new), tensors(copied)) and not equal(tensors(new), tensors(trained))

    # Later commands need no --from; those that repeat it, as a command that is run again does, may.
    for run, more in ((new, ()), (copied, ()), (new, ("--from", source, "--resume"))):
        assert command(train, run, "--stage", 2, "--device", "cpu", *more) == 0
    assert equal(tensors(new, "stage2"), tensors(copied, "stage2"))
    caplog.set_level(logging.INFO)
    for run in (new, copied):
        assert command(infer, run, "--device", "cpu") == 0
    assert "proposals are made as they are needed" not in caplog.text
    one, other = (sorted((run / "predictions/val/deconvnet-max").glob("*.png")) for run in (new, copied))
    assert len(one) == 2 and [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert files(source) == before and not (new / "proposals").exists() and not (new / "windows").exists()


def test_the_report_tells_of_the_windows_used(source, tmp_path, capsys):
    new = tmp_path / "new"
    assert command(build_proposals, new, "--from", source, "--set", "windows.balance=none", "--workers", 0) == 0
    assert run_command(reproduce.parse(), reproduce.main, [str(new)]) == 0
    with h5py.File(source / "windows" / "stage2-train.h5") as file:
        rows = len(file["class_index"])
    out = capsys.readouterr().out
    assert f"Windows, stage 2: {rows} from 4 images, balanced: none" in out
    assert "Proposals: 40 per image, edges: gradient-v1" in out


def test_build_proposals_makes_what_the_source_lacks(source, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    before, new = files(source), tmp_path / "new"
    assert command(build_proposals, new, "--from", source, "--set", "seed=3", "--workers", 0) == 0
    assert caplog.text.count("already complete") == 6 and not list(new.rglob("*.h5"))
    capsys.readouterr()
    refused(capsys, command(build_proposals, new, "--materialize", "--workers", 0), source / "windows/stage1-train.h5",
            "materialize", "without --from")
    lists = Path(json.loads((source / "data.json").read_text())["voc_root"]) / "ImageSets" / "Segmentation"
    shutil.copy(lists / "val.txt", lists / "extra.txt")
    try:
        assert command(build_proposals, new, "--split", "extra", "--stage", "none", "--workers", 0) == 0
    finally:
        (lists / "extra.txt").unlink()
    assert [path.relative_to(new) for path in new.rglob("*.h5")] == [Path("proposals/extra.h5")]
    assert files(source) == before


@pytest.mark.parametrize("change", ["windows.enlarge=1.5", "proposals.count=41", "data.least_object_pixels=3",
                                    "data.classes=[background,one]", "windows.stage2_top=3"])
def test_a_key_that_shaped_them_cannot_be_another(source, change, tmp_path, capsys):
    name, _, value = change.partition("=")
    refused(capsys, command(train, tmp_path / "new", "--from", source, "--set", change, "--stage", 1), f"{name} is",
            source, "without --from")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_source_that_was_made_anew(source, tmp_path, capsys):
    """With other keys, or away: one line."""
    shutil.copytree(source, tmp_path / "old")
    new = tmp_path / "new"
    assert command(train, new, "--from", tmp_path / "old", "--stage", 1, "--device", "cpu") == 0
    save_recipe(load_recipe(source / "recipe.yaml", ["proposals.count=9"]), tmp_path / "old" / "recipe.yaml")
    refused(capsys, command(train, new, "--stage", 1, "--resume"), "proposals.count is 40 here, but 9 in")
    save_recipe(load_recipe(source / "recipe.yaml"), tmp_path / "old" / "recipe.yaml")

    refused(capsys, command(train, new, "--from", source, "--stage", 1), "was started from", tmp_path / "old", source)
    (tmp_path / "old").rename(tmp_path / "moved")
    refused(capsys, command(train, new, "--stage", 1, "--resume"), tmp_path / "old", "was it moved?", "--from")
    assert command(train, new, "--from", tmp_path / "moved", "--stage", 1, "--resume", "--device", "cpu") == 0
    assert command(train, new, "--stage", 1, "--resume", "--device", "cpu") == 0
    (tmp_path / "moved/windows/stage1-val.h5").unlink()
    refused(capsys, command(train, new, "--stage", 1, "--resume"), "stage1-val.h5: no windows yet")


def test_from_of_from(source, trained, tmp_path, capsys):
    new = tmp_path / "new"
    assert command(train, new, "--from", trained, "--stage", 1, "--device", "cpu") == 0
    assert equal(tensors(new), tensors(trained)) and not (new / "windows").exists()
    refused(capsys, command(train, tmp_path / "other", "--from", trained, "--set", "windows.enlarge=2", "--stage", 1),
            "windows.enlarge")


def test_wrong_sources(source, trained, tmp_path, capsys):
    new = tmp_path / "new"
    refused(capsys, command(train, new, "--from", tmp_path / "none", "--stage", 1), tmp_path / "none",
            "no such run folder")
    refused(capsys, command(train, new, "--from", new, "--stage", 1), "leads back")
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        shutil.copy(source / "recipe.yaml", tmp_path / one)
        (tmp_path / one / "run.json").write_text(json.dumps({"from": str(tmp_path / other)}))
    refused(capsys, command(train, tmp_path / "a", "--stage", 1), "leads back")
    shutil.copytree(source, tmp_path / "own")
    refused(capsys, command(train, tmp_path / "own", "--from", trained, "--stage", 1), "started on proposals and "
            "windows of its own")
    assert not new.exists()
    (tmp_path / "own" / "run.json").write_text('{"from": 3}')
    assert command(train, tmp_path / "own", "--stage", 1) == 1
    assert "run.json: damaged: from: Input should be a valid string (found 3)" in capsys.readouterr().err


def test_another_recipe_of_a_run_is_told_of_from(source, capsys):
    refused(capsys, command(train, source, "--set", "solver.lr=0.5", "--stage", 1), "solver.lr = 0.1, not 0.5",
            f"--from {source} starts one")


# A longer training


def longer(run: Path, iterations: str, *arguments: object) -> int:
    return command(train, run, "--set", f"train.iterations={iterations}", "--device", "cpu", *arguments)


@pytest.mark.slow
def test_lengthened_is_as_long_from_the_start(trained, tmp_path, caplog):
    lengthened, whole = tmp_path / "lengthened", tmp_path / "whole"
    shutil.copytree(trained, lengthened)
    assert longer(whole, "[12,8]", "--from", trained, "--stage", 1) == 0
    with caplog.at_level(logging.INFO):
        assert longer(lengthened, "[12,8]", "--stage", 1, "--resume") == 0
    assert f"{lengthened / 'recipe.yaml'}: now train.iterations = [12, 8]" in caplog.messages  # and nothing else
    assert equal(tensors(lengthened), tensors(whole)) and not equal(tensors(lengthened), tensors(trained))
    assert origin(lengthened) == origin(whole) and origin(whole)["iterations"] == 12
    assert differences(lengthened, trained) == {"train.iterations": ([8, 8], [12, 8])}
    one, other = ((run / "stage1/log.csv").read_text().splitlines() for run in (lengthened, whole))
    assert [line.rpartition(",")[0] for line in one] == [line.rpartition(",")[0] for line in other] and len(one) == 4

    # Killed before it wrote the longer training's network: that one is still to be written.
    shutil.copy(trained / "stage1/network.safetensors", lengthened / "stage1/network.safetensors")
    assert command(train, lengthened, "--stage", 1, "--resume", "--device", "cpu") == 0
    assert equal(tensors(lengthened), tensors(whole))
    before = files(lengthened / "stage1")
    assert command(train, lengthened, "--stage", 1, "--resume", "--device", "cpu") == 0
    assert files(lengthened / "stage1") == before


def test_only_iterations_are_written_down(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert longer(run, "[9,8]", "--stage", 1, "--resume", "--set", "train.checkpoint_every=3", "--set",
                  "infer.proposals=9") == 0
    assert differences(run, trained) == {"train.iterations": ([8, 8], [9, 8])}


@pytest.mark.slow
def test_fewer_than_are_done(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for stage, iterations in ((1, "[7,8]"), (2, "[7,9]")):
        refused(capsys, longer(run, iterations, "--stage", stage, "--resume"), "train.iterations gives stage 1 7",
                "8 are done")
    refused(capsys, longer(run, "[12,8]", "--stage", 1), "--resume continues")
    assert differences(run, trained) == {}
    save_recipe(load_recipe(trained / "recipe.yaml", ["train.iterations=[7,8]"]), run / "recipe.yaml")  # by hand
    assert command(train, run, "--stage", 1, "--resume", "--device", "cpu") == 1
    assert "last.pt: 8 iterations are done, more than the recipe's 7" in capsys.readouterr().err
    save_recipe(load_recipe(trained / "recipe.yaml", ["train.iterations=[90,8]"]), run / "recipe.yaml")
    assert longer(run, "[8,8]", "--stage", 1, "--resume") == 0  # fewer than were planned, not than are done
    assert differences(run, trained) == {} and origin(run)["iterations"] == 8


@pytest.mark.slow
def test_stage_2_of_a_shorter_stage_1_is_told(trained, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    sets = ("--set", "train.stage2_from=last")
    refused(capsys, longer(run, "[10,8]", "--stage", 2), "8 of train.iterations' 10 are done", "--stage 1 --resume")
    assert command(train, run, *sets, "--stage", 2, "--device", "cpu") == 0
    assert origin(run, "stage2")["started_from"] == "stage 1's last.pt, iteration 8"
    assert "now there is" not in caplog.text
    said = ("!!! stage 2 started from stage 1's last.pt, iteration 8; now there is stage 1's last.pt, iteration 10: to "
            "start from that, remove the folder stage2")
    assert longer(run, "[10,8]", *sets, "--stage", 1, "--resume") == 0
    assert said in caplog.text
    caplog.clear()
    assert longer(run, "[10,9]", *sets, "--stage", 2, "--resume") == 0
    assert said in caplog.text and origin(run, "stage2")["iterations"] == 9


@pytest.mark.slow
def test_a_longer_fcn(source, tmp_path, caplog, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    more = ("--resume", "--model", "fcn16s", "--device", "cpu", "--set")
    for folder, iterations in ((run, "[2,2,2]"), (whole, "[2,4,2]")):
        assert command(train, folder, *more, f"fcn.iterations={iterations}", "--from", source, "--set",
                       "fcn.batch_norm=true", "--set", "train.validate_every=2") == 0
    assert origin(run, "fcn16s")["started_from"] == "FCN-32s's last.pt, iteration 2"
    assert command(train, run, *more, "fcn.iterations=[2,4,2]") == 0
    assert equal(tensors(run, "fcn16s"), tensors(whole, "fcn16s")) and "now there is" not in caplog.text
    assert differences(run, whole) == {}
    assert command(train, run, *more, "fcn.iterations=[3,4,2]") == 0
    assert "!!! FCN-16s started from FCN-32s's last.pt, iteration 2; now there is" in caplog.text
    refused(capsys, command(train, run, *more, "fcn.iterations=[3,3,2]"),
            "fcn.iterations gives FCN-16s 3, but 4 are done")
