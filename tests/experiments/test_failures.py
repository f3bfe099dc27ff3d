"""The worst images: which, in what order, and what is said and drawn of them; hand-made label maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments.failures import main, parse, told
from stages.cli import run_command

CLASSES = ["background", "cat", "dog"]
TRUTH = np.repeat([0, 0, 1, 1], 10).reshape(4, 10).astype(np.uint8)  # the lower half is a cat


def half_right() -> np.ndarray:
    """Every cat's row but one: IoU of background 2 / 3, of cat 1 / 2."""
    found = TRUTH.copy()
    found[2] = 0
    return found


PREDICTED = {
    "right": TRUTH,
    "half": half_right(),
    "dog": np.where(TRUTH == 1, 2, 0).astype(np.uint8),  # background 1, cat 0; dog is not in the truth
    "nothing": np.zeros_like(TRUTH),  # background 1 / 2, cat 0
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    voc, run = tmp_path / "VOC2012", tmp_path / "run"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(PREDICTED) + "\n")
    (voc / "JPEGImages").mkdir()
    for name, labels in PREDICTED.items():
        Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(voc / f"JPEGImages/{name}.png")
        write_label_png(voc / f"SegmentationClass/{name}.png", TRUTH)
        write_label_png(run / f"predictions/val/fcn8s/{name}.png", labels)
    save_recipe(load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]"]), run / "recipe.yaml")
    (run / "run.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    return run


def failures(*arguments: object) -> int:
    return run_command(parse(), main, [str(one) for one in arguments])


def test_the_worst_come_first(run, capsys):
    assert failures(run, "--prediction", "fcn8s", "--count", 3) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "1. nothing, mean IoU 25.0: shows cat 50 %; labelled background only",
        "2. dog, mean IoU 50.0: shows cat 50 %; labelled dog 50 %",
        "3. half, mean IoU 58.3: shows cat 50 %; labelled cat 25 %",
    ]
    picture = np.asarray(Image.open(run / "report/failures-fcn8s.png").convert("RGB")).reshape(-1, 3)
    drawn = {tuple(map(int, colour)) for colour in np.unique(picture, axis=0)}
    assert all(tuple(map(int, voc_palette()[label])) in drawn for label in (0, 1, 2))


def test_void_is_not_counted():
    labels = np.array([[255, 255, 1, 0]], np.uint8)
    assert told(labels, CLASSES) == "cat 50 %"


@pytest.mark.parametrize(("arguments", "message"), [
    (("--prediction", "none"), "predictions/val/none: no such folder"),
    (("--prediction", "fcn8s", "--count", "0"), "--count 0: expected 1 or more"),
    (("--prediction", "fcn8s", "--out", "x.jpg"), "--out x.jpg: expected a file name that ends in .png"),
])
def test_wrong_use(run, capsys, arguments, message):
    assert failures(run, *arguments) == 2
    assert message in capsys.readouterr().err
