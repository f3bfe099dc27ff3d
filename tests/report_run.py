"""A small run folder whose label maps have a known IoU, with names that would be markup if they were not escaped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deconvnet.data.palette import write_label_png
from deconvnet.data.row_files import write_rows
from deconvnet.data.voc import VocFolder
from deconvnet.recipe_files import load_recipe, save_recipe
from stages import evaluate
from stages.cli import run_command

HOSTILE = "<script>document.title='taken'</script>"
CLASSES = ["background", "cat", HOSTILE, "</script><img src=x onerror=alert(1)> \"'&amp;{{7*7}}"]
IDS = ["one", "<b>two&amp;\"'", "three", "four"]
SIZES = {"one": (40, 60), IDS[1]: (60, 40), "three": (40, 60), "four": (30, 90)}  # height, width
CLASS_OF = {"one": 1, IDS[1]: 2, "three": 1, "four": 3}
# An object of 20 columns, labelled so many columns too far to the right: IoU of its class (20 - n) / (20 + n).
SHIFT = {"fcn8s": {"one": 10, IDS[1]: 0, "three": 5, "four": 20},
         "deconvnet-max": {"one": 0, IDS[1]: 4, "three": 2, "four": 8}}
BOXES = np.array([[4, 5, 24, 25], [0, 0, 30, 28], [2, 2, 9, 9]], np.int32)


def object_labels(image_id: str, shift: int) -> np.ndarray:
    """The image's one object, 20 x 20, its left edge at 4 + shift."""
    labels = np.zeros(SIZES[image_id], np.uint8)
    labels[5:25, 4 + shift : 24 + shift] = CLASS_OF[image_id]
    return labels


def class_iou(row: str, image_id: str) -> float:
    """In percent, by hand."""
    shift = SHIFT[row][image_id]
    return 100 * (20 - shift) / (20 + shift)


def make_run(root: Path, classes: list[str] = CLASSES) -> Path:
    """A run of two rows, predicted and scored on four images; the data set is beside it."""
    voc, run = root / "voc", root / "run"
    for name in ("JPEGImages", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    for image_id in IDS:
        picture = Image.new("RGB", SIZES[image_id][::-1], "navy")
        picture.paste("orange", (4, 5, 24, 25))
        picture.save(voc / "JPEGImages" / f"{image_id}.png")
        write_label_png(voc / "SegmentationClass" / f"{image_id}.png", object_labels(image_id, 0))
        for row, shifts in SHIFT.items():
            path = run / "predictions/val" / row / f"{image_id}.png"
            write_label_png(path, object_labels(image_id, shifts[image_id]))
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(IDS) + "\n")
    recipe = load_recipe("tiny")
    recipe.data.classes = classes
    save_recipe(recipe, run / "recipe.yaml")
    (run / "run.json").write_text(json.dumps({"commit": "abc123", "packages": {}, "machine": "a <i>machine</i>"}))
    (run / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    _write_proposals(run, VocFolder(voc, classes))
    assert run_command(evaluate.parse(), evaluate.main, ["--run", str(run)]) == 0
    return run


def _write_proposals(run: Path, voc: VocFolder) -> None:
    parts = ({"size": np.array(SIZES[image_id]), "boxes": BOXES, "scores": np.array([0.9, 0.5, 0.1], np.float32)}
             for image_id in IDS)
    write_rows(run / "proposals/val.h5", IDS, parts, {
        "format": "proposals", "split": "val", "fingerprint": voc.fingerprint("val"), "classes": voc.classes,
        "recipe": {}, "shaped_by": {}, "edges": "gradient"})


def photographs(root: Path) -> tuple[Path, dict[str, Path], dict[str, dict[str, Any]]]:
    """Two photographs whose upper left is a cat: the label maps' folder, the files, and what labels.json says."""
    sizes = {"small": (40, 60), "summer/<i>large": (600, 900)}
    files, images = {}, {}
    for number, (name, size) in enumerate(sizes.items()):
        files[name] = root / f"{number}.jpg"
        Image.new("L", size[::-1], 90 * number).save(files[name])
        labels = np.zeros(size, np.uint8)
        labels[: size[0] // 2, : size[1] // (2 - number)] = 1
        write_label_png(root / f"labels/{name}.png", labels)
        share = float(labels.mean())
        images[name] = {"conversions": ["grey"], "classes": {
            "background": {"index": 0, "share": 1 - share}, "cat": {"index": 1, "share": share}}}
    return root / "labels", files, images
