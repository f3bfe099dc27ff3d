"""Two predictions of the same images: the difference of their mean IoU, and how far other images might move it.

A paired bootstrap: images are drawn again with replacement, the same ones for both predictions, and the mean IoU of
each draw is computed from the sum of its images' confusion matrices, as that of the whole set is (metrics.py). What it
tells is how much the difference depends on which images were in the set. It says nothing of another training.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from deconvnet.support.errors import UsageError

BATCH = 64  # draws at a time: with 1,449 images and 21 classes about 50 MB


@dataclass(frozen=True)
class Difference:
    """The mean IoU of one prediction less that of another, as a fraction, with its interval."""

    value: float
    low: float
    high: float


def paired_difference(before: np.ndarray, after: np.ndarray, resamples: int = 2000, seed: int = 0,
                      level: float = 0.95) -> Difference:
    """Mean IoU of `after` less that of `before`, with the percentile interval of a paired bootstrap over images.

    before, after: each image's confusion matrix, N x C x C, in the same order. Raises UsageError for fewer than two
    images, which leave nothing to draw from.
    """
    if len(before) != len(after) or len(before) < 2:
        raise UsageError(f"{len(before)} and {len(after)} images: expected the same images, two at least")
    parts = [_parts(counts) for counts in (before, after)]

    def difference(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """drawn: numbers of images, ... x N."""
        one, other = (mean_iou(part[drawn].sum(axis=axis - 2)) for part in parts)
        return other - one

    everything = np.arange(len(before))
    found = stats.bootstrap((everything,), difference, n_resamples=resamples, batch=BATCH, vectorized=True,
                            confidence_level=level, method="percentile", rng=np.random.default_rng(seed))
    interval = found.confidence_interval
    return Difference(float(difference(everything)), float(interval.low), float(interval.high))


def mean_iou(parts: np.ndarray) -> np.ndarray:
    """Mean IoU (...) over the classes that occur, of hits, true and predicted pixels (... x 3 x C)."""
    hits, true, predicted = np.moveaxis(parts, -2, 0)
    union = true + predicted - hits
    occurs = union > 0
    return (hits / np.where(occurs, union, 1)).sum(-1) / occurs.sum(-1)


def _parts(counts: np.ndarray) -> np.ndarray:
    """Each image's hits, true and predicted pixels of every class: N x 3 x C of N x C x C; all that IoU is made of."""
    counts = np.asarray(counts, np.float64)  # exact up to 2^53 pixels
    return np.stack([np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)], axis=1)
