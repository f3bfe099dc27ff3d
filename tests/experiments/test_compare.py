"""Runs compared: rows and differences against NumPy, the images that changed, what differs, what is refused."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data.images import read_label_png
from deconvnet.data.palette import write_label_png
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments.compare import main, parse
from stages.cli import run_command

CLASSES = ["background", "cat", "dog"]
IDS = [f"i{number}" for number in range(5)]
LOG = ("iteration,rate,loss,pixel_accuracy,validation_loss,validation_accuracy,validation_mean_iou,images_per_second\n"
       "20,0.1,2.0,0.1,,,,9\n40,0.1,1.5,0.3,1.6,0.4,0.2,9\n60,0.1,1.0,0.5,1.2,0.6,0.3,9\n")


def truth(number: int) -> np.ndarray:
    labels = np.zeros((6, 8), np.uint8)
    labels[2:, :4], labels[0, 0] = 1 + number % 2, 255
    return labels


def predicted(number: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(10 * seed + number)
    return np.where(random.random((6, 8)) < 0.3, random.integers(0, 3, (6, 8)), truth(number) % 255).astype(np.uint8)


def make_voc(root: Path, classes_shift: int = 0) -> Path:
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("val", "train"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(IDS) + "\n")
    for number, image_id in enumerate(IDS):
        Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(root / f"JPEGImages/{image_id}.png")
        write_label_png(root / f"SegmentationClass/{image_id}.png", truth(number + classes_shift))
    return root


@cache
def recipe(*keys: str) -> Recipe:
    return load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]", *keys])


def make_run(root: Path, voc: Path, seed: int, *keys: str, rows: tuple[str, ...] = ("deconvnet-max",),
             trained: tuple[str, ...] = ("stage1",)) -> Path:
    root.mkdir()
    save_recipe(recipe(*keys), root / "recipe.yaml")
    (root / "run.json").write_text(json.dumps({"commit": f"commit{seed}"}))
    (root / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    for name in trained:
        (root / name).mkdir()
        (root / name / "log.csv").write_text(LOG)
    for row in rows:
        for number, image_id in enumerate(IDS):
            write_label_png(root / f"predictions/val/{row}/{image_id}.png", predicted(number, seed))
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


def compare(*arguments: object) -> int:
    return run_command(parse(), main, [str(one) for one in arguments])


def mean_iou(folder: Path, ids: list[str] = IDS) -> float:
    """In percent, by sets of pixels; over the classes that occur, of a single image over those of its truth."""
    pairs = [(read_label_png(folder / f"{one}.png"), truth(IDS.index(one))) for one in ids]
    labels, masks = (np.concatenate([pair[place].ravel() for pair in pairs]) for place in (0, 1))
    labels, masks = labels[masks != 255], masks[masks != 255]
    shares = [((labels == label) & (masks == label)).sum() / ((labels == label) | (masks == label)).sum()
              for label in range(3) if (masks == label).any() or len(ids) > 1 and (labels == label).any()]
    return 100 * float(np.mean(shares))


@pytest.mark.slow
def test_rows_differences_and_images(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The third run aggregates otherwise, so its folder has another name; a row that only one run has is left out."""
    runs = [make_run(tmp_path / "a", voc, 1, rows=("deconvnet-max", "fcn8s")),
            make_run(tmp_path / "b", voc, 2, "solver.lr=0.3", "network.unpooling=fixed"),
            make_run(tmp_path / "c", voc, 3, "infer.aggregate=sum", rows=("deconvnet-sum",), trained=("stage2",))]
    assert compare(*runs, "--to", tmp_path / "to", "--images", 2, "--resamples", 100, "--seed", 4) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "to/comparison.json").read_text())
    assert (tmp_path / "to/comparison.md").read_text().strip() in out
    folders = [run / "predictions/val" / name for run, name in zip(runs, ("deconvnet-max",) * 2 + ("deconvnet-sum",),
                                                                  strict=True)]
    expected = [mean_iou(folder) for folder in folders]
    assert [row["row"] for row in found["rows"]] == ["DeconvNet"]
    lines = found["rows"][0]["runs"]
    assert [100 * line["mean_iou"] for line in lines] == pytest.approx(expected)
    for line, folder, value in list(zip(lines, folders, expected, strict=True))[1:]:
        assert 100 * line["difference"] == pytest.approx(value - expected[0])
        assert line["low"] <= line["difference"] <= line["high"]
        own = {one: mean_iou(folder, [one]) - mean_iou(folders[0], [one]) for one in IDS}
        changed = {one["id"]: 100 * one["difference"] for one in line["changed"]}
        assert changed == pytest.approx({one: value for one, value in own.items() if value})
        assert list(map(abs, changed.values())) == sorted(map(abs, changed.values()), reverse=True)
        assert f"{value:.1f}" in out and f"{value - expected[0]:+.1f}" in out
    assert found["recipe"] == {"infer.aggregate": ["max", "max", "sum"], "network.unpooling": ["switches", "fixed",
                               "switches"], "solver.lr": [0.1, 0.3, 0.1]}
    assert found["interval"]["seed"] == 4 and [run["commit"] for run in found["runs"]] == ["commit1", "commit2",
                                                                                           "commit3"]
    with Image.open(tmp_path / "to/curves.png") as picture:
        assert min(picture.size) > 300
    svg = (tmp_path / "to/curves.svg").read_text()
    assert svg.startswith("<?xml") and all(f"<!-- {name} -->" in svg for name in ("a", "b", "c", "stage1", "stage2"))


def test_the_same_run_twice(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A copy, whose data set is another copy with the same files: no difference, and none is possible."""
    run = make_run(tmp_path / "a", voc, 1)
    shutil.copytree(run, tmp_path / "b")
    shutil.copytree(voc, tmp_path / "again/VOC2012")
    (tmp_path / "b/data.json").write_text(json.dumps({"voc_root": str(tmp_path / "again/VOC2012")}))
    assert compare(run, tmp_path / "b", "--to", tmp_path / "to", "--resamples", 100) == 0
    line = json.loads((tmp_path / "to/comparison.json").read_text())["rows"][0]["runs"][1]
    assert (line["difference"], line["low"], line["high"], line["changed"]) == (0, 0, 0, [])
    assert "+0.0 to +0.0" in capsys.readouterr().out


def test_a_row_made_otherwise_than_the_recipe_is_told(voc: Path, tmp_path: Path, capsys) -> None:
    runs = [make_run(tmp_path / name, voc, 1) for name in "ab"]
    made = {"recipe": {"infer.proposals": 7, "infer.aggregate": "max"}}
    (runs[1] / "predictions/val/deconvnet-max/settings.json").write_text(json.dumps(made))
    assert compare(*runs, "--to", tmp_path / "to", "--resamples", 100) == 0
    assert json.loads((tmp_path / "to/comparison.json").read_text())["rows"][0]["settings"] == {
        "infer.proposals": [50, 7]}
    assert "made otherwise" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "message"), [
    (("data.classes=[background,cat,cow]",), "b: its classes are not those of"),
    (("data.classes=[background,dog,cat]",), "in another order"),
    (("data.val_split=train",), "name one split with --split"),
])
def test_other_classes_and_splits_are_refused(voc, tmp_path, capsys, change, message) -> None:
    runs = [make_run(tmp_path / "a", voc, 1), make_run(tmp_path / "b", voc, 2, *change)]
    assert compare(*runs, "--to", tmp_path / "to") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "to").exists()


def test_other_images_are_refused(voc, tmp_path, capsys) -> None:
    other = make_voc(tmp_path / "other/VOC2012", classes_shift=1)
    runs = [make_run(tmp_path / "a", voc, 1), make_run(tmp_path / "b", other, 2)]
    assert compare(*runs, "--to", tmp_path / "to") == 2
    assert "its image or mask 'i0' is not that of" in capsys.readouterr().err
    (other / "ImageSets/Segmentation/val.txt").write_text("i0\ni1\n")
    assert compare(*runs, "--to", tmp_path / "to") == 2
    assert "its split 'val' is not that of" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, which nothing is to be written into."""
    root = tmp_path_factory.mktemp("two")
    voc = make_voc(root / "VOC2012")
    for name in "ab":
        make_run(root / name, voc, 1)
    return root


@pytest.mark.parametrize(("arguments", "message"), [
    (("a",), "one run; expected two or more"),
    (("a", "none"), "none/recipe.yaml: no such file"),
    (("a", "b", "--resamples", "3"), "--resamples 3: expected 100"),
    (("a", "b", "--images", "-1"), "--images -1"),
    (("a", "b", "--seed", "-1"), "--seed -1"),
    (("a", "b", "--split", "train"), "no row of the table was predicted on 'train'"),
])
def test_wrong_use(two, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(two)
    assert compare(*arguments) == 2
    assert message in capsys.readouterr().err and not (two / "runs").exists()
