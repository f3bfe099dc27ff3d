"""The paired bootstrap of mean IoU: against a plain loop, on hand-made confusion matrices, and by its properties."""

import numpy as np
import pytest

from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.evaluation.paired import BATCH, mean_iou, paired_difference
from deconvnet.support.errors import UsageError

RESAMPLES = 2 * BATCH + 22  # more than two batches, the last one not full


def images(seed: int, count: int = 12, classes: int = 4) -> np.ndarray:
    """Confusion matrices of images, in each of which a class or two do not occur."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 300, (count, classes, classes)) + 500 * np.eye(classes, dtype=int)
    absent = random.random((count, classes)) < 0.4
    return np.where(absent[:, :, None] | absent[:, None, :], 0, counts)


def metric(counts: np.ndarray) -> float:
    """Mean IoU of one summed matrix, class by class."""
    values = []
    for label in range(len(counts)):
        union = counts[label].sum() + counts[:, label].sum() - counts[label, label]
        if union:
            values.append(counts[label, label] / union)
    return float(np.mean(values))


def test_against_a_plain_loop() -> None:
    """The draws are the generator's integers, image numbers, in batches: scipy draws them so."""
    before, after = images(1), images(2)
    found = paired_difference(before, after, RESAMPLES, seed=5)
    random, differences = np.random.default_rng(5), []
    while len(differences) < RESAMPLES:
        for drawn in random.integers(0, 12, (min(BATCH, RESAMPLES - len(differences)), 12)):
            differences.append(metric(sum(after[one] for one in drawn)) - metric(sum(before[one] for one in drawn)))
    assert found.value == pytest.approx(metric(after.sum(0)) - metric(before.sum(0)), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=1e-12)
    assert found.low < found.high


def test_by_hand() -> None:
    """Two images, two classes: the first changes from all wrong to all right, the second does not change."""
    wrong, right = np.array([[0, 4], [4, 0]]), np.array([[4, 0], [0, 4]])
    found = paired_difference(np.stack([wrong, right]), np.stack([right, right]), 4000)
    # Before: 4 hits of a union of 12 in each class. Draws: both images (a half of them): 1 - 1/3; the first twice:
    # 1 - 0; the second twice: 0. A quarter each, so the 95 % interval reaches from one end to the other.
    assert (found.value, found.low, found.high) == pytest.approx((2 / 3, 0.0, 1.0))


def test_the_same_predictions_do_not_differ() -> None:
    counts = images(3)
    found = paired_difference(counts, counts.copy(), RESAMPLES)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairs_are_kept() -> None:
    """A small gain in every image is sure, though the images themselves differ far more; unpaired it would not be."""
    random = np.random.default_rng(0)
    hits = random.integers(50, 950, 30)
    before = np.stack([[[hit, 1000 - hit], [1000 - hit, hit]] for hit in hits])
    after = np.stack([[[hit + 10, 990 - hit], [990 - hit, hit + 10]] for hit in hits])
    found = paired_difference(before, after, 500)
    assert 0 < found.low < found.value < found.high < 0.03
    other = paired_difference(before, after[random.permutation(30)], 500)
    assert other.value == pytest.approx(found.value) and other.low < 0 < other.high


def test_the_seed_decides_the_draws() -> None:
    one, two, three = (paired_difference(images(1), images(2), 200, seed) for seed in (0, 0, 1))
    assert one == two and one != three


def test_mean_iou_is_that_of_the_metrics() -> None:
    for counts in images(4):
        matrix = ConfusionMatrix(["a", "b", "c", "d"])
        matrix.counts = counts
        parts = np.stack([np.diag(counts), counts.sum(1), counts.sum(0)])
        assert float(mean_iou(parts)) == pytest.approx(matrix.mean_iou(), abs=1e-15)


@pytest.mark.parametrize(("one", "other"), [(1, 1), (3, 4)])
def test_other_or_too_few_images(one: int, other: int) -> None:
    with pytest.raises(UsageError, match=f"{one} and {other} images"):
        paired_difference(images(0, one), images(0, other))
