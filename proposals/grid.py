"""Boxes that depend only on the image's size: the baseline for sources that look at the image."""

from pathlib import Path

import numpy as np

from deconvnet.recipe import Recipe

SCALES = [0.9, 0.64, 0.45, 0.32, 0.22, 0.16, 0.11]  # square root of a box's share of the image's area
RATIOS = [1.0, 0.5, 2.0]  # width : height
STEP = 0.5  # from one box to the next at most, as a share of its side


class Grid:
    """Boxes of fixed scales and aspect ratios, evenly over the image, large ones first: about 2,000 of a photograph."""

    def __init__(self, recipe: Recipe, _: Path | None) -> None:
        self.count = recipe.proposals.count

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ProposalSource. The scores, 1, 1/2, 1/3, ..., only give the order."""
        height, width = image.shape[:2]
        boxes = [box for scale in SCALES for ratio in RATIOS for box in _boxes(height, width, scale, ratio)]
        boxes = list(dict.fromkeys(boxes))[: self.count]  # in a small image several are rounded to the same
        return np.array(boxes, np.int32), (1 / np.arange(1, len(boxes) + 1)).astype(np.float32)

    def shaped_by(self) -> dict[str, object]:
        """See ProposalSource."""
        return {"proposals.source": "grid", "proposals.count": self.count, "grid": [SCALES, RATIOS, STEP]}


def _boxes(height: int, width: int, scale: float, ratio: float) -> list[tuple[int, int, int, int]]:
    """The boxes of one scale and ratio, row by row; a side longer than the image's is cut to it."""
    side = scale * (height * width) ** 0.5
    w, h = min(max(round(side * ratio**0.5), 1), width), min(max(round(side / ratio**0.5), 1), height)
    return [(x, y, x + w, y + h) for y in _places(height, h) for x in _places(width, w)]


def _places(whole: int, length: int) -> list[int]:
    """Where boxes of `length` begin in 0 .. whole: evenly, the first at the one end, the last at the other."""
    count = int(np.ceil((whole - length) / (STEP * length))) + 1
    return np.linspace(0, whole - length, count).round().astype(int).tolist()
