"""A small VOC-layout folder whose pixels are known by construction."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import write_label_png
from deconvnet.data.voc import VocFolder, VocObject
from deconvnet.support.errors import UserError

CAT, DOG = 8, 12
HEIGHT, WIDTH = 10, 14


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def class_mask() -> np.ndarray:
    """Two cats that touch at a corner, one dog, void between."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:4, 1:5] = CAT
    mask[4:6, 5:8] = CAT
    mask[7:10, 9:14] = DOG
    mask[6, 9:14] = 255
    return mask


def make_folder(root: Path, ids: list[str] | None = None) -> Path:
    """A VOC2012 folder whose images are PNGs, so that pixels are known exactly."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for number, image_id in enumerate(ids or ["a"]):
        Image.fromarray(picture(seed=number)).save(root / "JPEGImages" / f"{image_id}.png")
        write_label_png(root / "SegmentationClass" / f"{image_id}.png", class_mask())
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(ids or ["a"]) + "\n")
    return root


def annotate(root: Path, image_id: str, boxes: list[tuple[str, tuple]]) -> Path:
    """An annotation file; corners as VOC writes them, 1-based and inclusive."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>" for name, (x1, y1, x2, y2) in boxes
    )
    path = root / "Annotations" / f"{image_id}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation>{objects}</annotation>")
    return path


def voc(root: Path, classes: list[str] = VOC_CLASSES) -> VocFolder:
    return VocFolder(root, classes)


def refused(call, *words: object, kind: type = UserError) -> str:
    """Asserts a one-line error with the words in it."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message


def listed(objects: list[VocObject]) -> list[tuple[int, list[int], int]]:
    for item in objects:
        assert item.mask.dtype == bool and item.box.dtype == np.int32
        assert item.mask.shape == (item.box[3] - item.box[1], item.box[2] - item.box[0])
    return [(item.class_index, item.box.tolist(), int(item.mask.sum())) for item in objects]
