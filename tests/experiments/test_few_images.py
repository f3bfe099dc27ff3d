"""A few images of a few classes: which are chosen, and what their masks hold, on label maps made by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data.palette import write_label_png
from experiments.few_images import main, parse
from stages.cli import run_command

CAT, DOG, COW = 8, 12, 10
SHOWN = {"a": [CAT], "b": [COW], "c": [DOG, COW], "d": [CAT], "e": [DOG], "f": [CAT, DOG]}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for name, classes in SHOWN.items():
        labels = np.zeros((4, 6), np.uint8)
        labels[0, : len(classes)], labels[3] = classes, 255
        Image.fromarray(np.full((4, 6, 3), ord(name), np.uint8)).save(root / f"JPEGImages/{name}.png")
        write_label_png(root / f"SegmentationClass/{name}.png", labels)
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(SHOWN) + "\n")
    return root


def few(voc: Path, *arguments: object) -> int:
    return run_command(parse(), main, ["--voc-root", str(voc), *map(str, arguments)])


def test_each_class_in_turn_and_nothing_else_in_the_masks(voc, tmp_path, capsys):
    to = tmp_path / "few"
    assert few(voc, "--classes", "dog,cat", "--train", 4, "--val", 1, "--to", to) == 0
    assert (to / "ImageSets/Segmentation/train.txt").read_text().split() == ["c", "a", "e", "d"]
    assert (to / "ImageSets/Segmentation/val.txt").read_text().split() == ["c"]
    labels = np.array(Image.open(to / "SegmentationClass/c.png"))
    assert labels[0].tolist() == [1, 0, 0, 0, 0, 0] and (labels[3] == 255).all() and not labels[1:3].any()
    assert np.array(Image.open(to / "SegmentationClass/a.png"))[0, 0] == 2
    assert (to / "JPEGImages/a.png").read_bytes() == (voc / "JPEGImages/a.png").read_bytes()
    assert "--set data.classes=[background,dog,cat]" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (("--classes", "dog,ox"), "--classes: 'ox' is not one of aeroplane"),
    (("--classes", "dog", "--train", 9), "3 images show the classes; expected at least 9"),
])
def test_wrong_use_leaves_nothing(voc, tmp_path, capsys, arguments, message):
    assert few(voc, *arguments, "--to", tmp_path / "few") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "few").exists()
    (tmp_path / "few").mkdir()
    assert few(voc, "--classes", "dog", "--to", tmp_path / "few") == 2
    assert "is there already" in capsys.readouterr().err
