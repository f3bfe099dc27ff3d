"""The gallery's data: each image with its label maps, what it shows, and how well each label map fits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deconvnet.conventions import VOID
from deconvnet.reporting.pictures import labels_uri, photograph_uri, shrunk_size


@dataclass
class Entry:
    """An image. Pictures are data URIs; everything of a layer is in the order of Gallery.layers.

    size: width and height of the pictures. maps: None where a label map is missing. shows: a class's share of the
    labelled pixels, 0 to 1, by index, largest first. iou: percent, the mean over the image's classes; None where it was
    not measured. class_iou: percent, by class index. boxes: proposals, best first, in pixels of the pictures. notes:
    sentences about it.
    """

    name: str
    size: tuple[int, int]
    photograph: str
    maps: list[str | None]
    shows: dict[int, float]
    iou: list[float | None] = field(default_factory=list)
    class_iou: list[dict[int, float]] = field(default_factory=list)
    boxes: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Gallery:
    """What the page's script draws.

    classes: index 0 is background. layers: titles of the label maps; first: the index of the one that is shown first.
    scored: indices of the layers that have an IoU. shown: where the classes of `shows` were found, "truth" say.
    """

    title: str
    classes: list[str]
    layers: list[str]
    first: int
    scored: list[int]
    shown: str
    entries: list[Entry] = field(default_factory=list)

    def counts(self) -> dict[int, int]:
        """How many images show a class, by its index, background left out."""
        counts = Counter(label for one in self.entries for label in one.shows)
        return {label: counts[label] for label in sorted(counts) if label}

    def occurring(self) -> list[int]:
        """The classes that an image shows or a scored label map has."""
        scored = (label for one in self.entries for found in one.class_iou for label in found)
        return sorted({*self.counts(), *scored})


def shares(labels: np.ndarray) -> dict[int, float]:
    """Each class's share of the labelled pixels (uint8 H x W), largest first; void counts for nothing."""
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID]
    found = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
    return {label: round(float(counts[label] / counts.sum()), 4) for label in found}


def entry(name: str, image: np.ndarray, maps: Sequence[np.ndarray | None], shows: Mapping[int, float], side: int,
          boxes: np.ndarray | None = None) -> Entry:
    """An image's entry, without scores.

    image: RGB uint8 H x W x 3. maps: labels, uint8, of the same aspect. side: the longer one of the pictures, in
    pixels. boxes: N x 4, in pixels of the image.
    """
    height, width = shrunk_size(image, side)
    placed = [] if boxes is None else np.rint(boxes * (width / image.shape[1])).astype(int).tolist()
    return Entry(name, (width, height), photograph_uri(image, side),
                 [None if labels is None else labels_uri(labels, side) for labels in maps], dict(shows), boxes=placed)
