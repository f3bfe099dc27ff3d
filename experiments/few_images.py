"""A small VOC-style data set of a few classes, taken from another one: what fine-tuning is tried on."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconvnet.conventions import VOC_CLASSES, VOID
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.data.voc import VocFolder


def chosen(voc: "VocFolder", image_ids: list[str], classes: list[int], count: int) -> list[str]:
    """`count` images that show the classes, each class's first ones in the list in turn. Raises UsageError."""
    found: list[str] = []
    showing: list[list[str]] = [[] for _ in classes]
    for image_id in image_ids:
        labels = voc.read_mask(image_id)
        for place, label in enumerate(classes):
            if (labels == label).any():
                showing[place].append(image_id)
    while len(found) < count:
        before = len(found)
        for own in showing:
            one = next((image_id for image_id in own if image_id not in found), None)
            if one and len(found) < count:
                found.append(one)
        if len(found) == before:
            raise UsageError(f"{len(found)} images show the classes; expected at least {count}")
    return found


def copy(voc: "VocFolder", image_ids: list[str], classes: list[int], split: str, to: Path) -> None:
    """Copies images, and masks in which classes[i] is i + 1, void stays void, and everything else is background."""
    from deconvnet.data.palette import write_label_png

    table = np.zeros(256, np.uint8)
    table[classes], table[VOID] = np.arange(1, len(classes) + 1), VOID
    for image_id in image_ids:
        image = voc.image_path(image_id)
        (to / "JPEGImages").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, to / "JPEGImages" / image.name)
        write_label_png(to / "SegmentationClass" / f"{image_id}.png", table[voc.read_mask(image_id)])
    with atomic_write(to / "ImageSets" / "Segmentation" / f"{split}.txt") as temporary:
        temporary.write_text("".join(f"{image_id}\n" for image_id in image_ids), encoding="utf-8")


def main(options: argparse.Namespace) -> None:
    """Chooses and copies."""
    from deconvnet.data.voc import VocFolder

    names = [name.strip() for name in options.classes.split(",")]
    unknown = [name for name in names if name not in VOC_CLASSES[1:]]
    if unknown:
        raise UsageError(f"--classes: {unknown[0]!r} is not one of {', '.join(VOC_CLASSES[1:])}")
    labels = [VOC_CLASSES.index(name) for name in names]
    if options.to.exists():
        raise UsageError(f"--to {options.to}: is there already; expected a new folder")
    voc = VocFolder(options.voc_root, VOC_CLASSES)
    parts = {"train": (options.train_split, options.train), "val": (options.val_split, options.val)}
    picked = {split: chosen(voc, voc.image_ids(source), labels, count) for split, (source, count) in parts.items()}
    for split, image_ids in picked.items():
        copy(voc, image_ids, labels, split, options.to)
    print(f"{options.to}: {options.train} training and {options.val} validation images; "
          f"--set data.classes=[background,{','.join(names)}]")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.few_images", __doc__.strip(),
                         "python -m experiments.few_images --voc-root data/VOCdevkit --classes cat,dog --to data/few")
    parser.add_argument("--voc-root", type=Path, required=True, metavar="FOLDER", help="VOC-layout folder")
    parser.add_argument("--classes", required=True, metavar="NAME,NAME", help="classes of VOC, beside background")
    parser.add_argument("--train", type=int, default=20, metavar="N", help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, metavar="N", help="validation images (default: %(default)s)")
    parser.add_argument("--train-split", default="train", help="default: %(default)s")
    parser.add_argument("--val-split", default="val", help="default: %(default)s")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
