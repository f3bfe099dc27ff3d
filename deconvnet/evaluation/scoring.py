"""A folder of label maps against the masks of a split: all images together, and each by itself."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.images import read_label_png
from deconvnet.evaluation.metrics import ConfusionMatrix, or_none
from deconvnet.schemas import PredictionRecord, read_json
from deconvnet.support.engines import Engine, LocalEngine, Work
from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.progress import progress

SCORE_FILES = ("metrics.json", "images.json", "images.csv")  # what stages.evaluate writes beside label maps


@dataclass(frozen=True)
class ImageScore:
    """How one image was labelled, as fractions; NaN where there is nothing to measure (an image of void alone).

    mean_iou: over the classes that its truth has. class_iou: float64 C; NaN for classes that occur in
    neither truth nor prediction.
    """

    image_id: str
    pixel_accuracy: float
    mean_iou: float
    class_iou: np.ndarray


def read_class_list(path: Path) -> list[str]:
    """Class names from a text file, one per line, background first. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such class list; expected a text file with one class name per line, background "
                         "first")
    try:  # a byte order mark does not belong to the first name
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    named = all(name.isprintable() and len(name) <= 200 for name in names)
    if not 2 <= len(names) <= 255 or len(set(names)) < len(names) or not named:
        raise UsageError(f"{path}: expected a text file (UTF-8) of 2 to 255 different class names, one per line, "
                         "background first")
    return names


def recorded_classes(folder: Path) -> list[str] | None:
    """The class list that stages.infer wrote beside its predictions; None for predictions from elsewhere."""
    marker = folder / "settings.json"
    return read_json(marker, PredictionRecord).classes if marker.is_file() else None


def prediction_classes(folder: Path) -> list[str]:
    """The class list that stages.infer wrote beside its predictions; VOC's for predictions from elsewhere."""
    return recorded_classes(folder) or VOC_CLASSES


def check_predictions(folder: Path, image_ids: list[str]) -> None:
    """Raises UserError, which names the first one and their number, if predictions are missing."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected one with a prediction ID.png per image")
    missing = [image_id for image_id in image_ids if not (folder / f"{image_id}.png").is_file()]
    if missing:
        raise UserError(f"{folder / missing[0]}.png: no such prediction, and {len(missing)} of the split's "
                        f"{len(image_ids)} are missing; run stages.infer for this split first")


def has_masks(voc: SegmentationDataset, image_ids: list[str]) -> bool:
    """Whether any image of the split has a mask; those of the VOC test split are not public."""
    return any(mask for _, mask, _ in voc.files(image_ids))


@dataclass(frozen=True)
class Comparison(Work[str, ConfusionMatrix]):
    """An image's own confusion matrix, from its label map in the folder and its mask."""

    voc: SegmentationDataset
    folder: Path

    def __call__(self, image_id: str) -> ConfusionMatrix:
        path = self.folder / f"{image_id}.png"
        own = ConfusionMatrix(self.voc.classes)
        own.add(read_label_png(path), self.voc.read_mask(image_id), str(path))
        return own


def confusions(voc: SegmentationDataset, image_ids: list[str], folder: Path,
               engine: Engine | None = None) -> Iterator[ConfusionMatrix]:
    """Each image's own confusion matrix, in the order of the ids. engine: None: one by one, in this process."""
    work, made = Comparison(voc, folder), dict[str, ConfusionMatrix]()
    with progress(total=len(image_ids), desc="evaluate", unit="image", disable=None) as bar:
        for image_id, own in (engine or LocalEngine(0)).map(work, image_ids):
            if isinstance(own, UserError):
                raise own
            made[image_id] = own
            bar.update()
    yield from map(made.pop, image_ids)


def score(voc: SegmentationDataset, image_ids: list[str], folder: Path,
          engine: Engine | None = None) -> tuple[ConfusionMatrix, list[ImageScore]]:
    """The confusion matrix of all predictions in a folder, and each image's own score, in the order of the ids.

    engine: as for confusions.
    """
    confusion, images = ConfusionMatrix(voc.classes), []
    for image_id, own in zip(image_ids, confusions(voc, image_ids, folder, engine), strict=True):
        confusion.include(own)
        images.append(ImageScore(image_id, own.pixel_accuracy(), own.image_mean_iou(), own.class_iou()))
    return confusion, images


def image_mean(images: list[ImageScore]) -> float:
    """The mean of the images' own mean IoU, a fraction; NaN without any image that has one."""
    own = [one.mean_iou for one in images if not np.isnan(one.mean_iou)]
    return float(np.mean(own)) if own else float("nan")


def images_summary(images: list[ImageScore], classes: list[str]) -> list[dict[str, Any]]:
    """One entry for each image, for a JSON file; None where there is nothing to measure."""
    return [{"id": one.image_id, "pixel_accuracy": or_none(one.pixel_accuracy), "mean_iou": or_none(one.mean_iou),
             "class_iou": {name: or_none(value) for name, value in zip(classes, one.class_iou, strict=True)}}
            for one in images]


def images_csv(images: list[ImageScore], classes: list[str]) -> str:
    """The same as a table, one line for each image; empty where there is nothing to measure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "pixel_accuracy", "mean_iou", *classes])
    for one in images:
        writer.writerow([one.image_id, *map(or_none, (one.pixel_accuracy, one.mean_iou, *one.class_iou))])
    return buffer.getvalue()
