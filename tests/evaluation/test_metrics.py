"""Metrics against per-pixel loops, hand-worked numbers, the VOC devkit's arithmetic and the paper's Table 1."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deconvnet.conventions import VOC_CLASSES
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.support.errors import UsageError, UserError

TABLE1 = Path(__file__).resolve().parents[2] / "experiments" / "table1_voc2012_test.csv"
NAMES = ["background", "cat", "dog", "sheep"]
Pairs = list[tuple[np.ndarray, np.ndarray]]  # (prediction, truth)


def confusion_of(pairs: Pairs, classes: list[str]) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes)
    for number, (prediction, truth) in enumerate(pairs):
        confusion.add(prediction, truth, f"image{number}")
    return confusion


def by_loops(pairs: Pairs, count: int) -> dict[str, float]:
    """The four metrics by counting pixels one by one, class by class, without a histogram."""
    hits, true, predicted = [0] * count, [0] * count, [0] * count
    for prediction, truth in pairs:
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if truth[y, x] == 255:
                    continue
                true[truth[y, x]] += 1
                predicted[prediction[y, x]] += 1
                if truth[y, x] == prediction[y, x]:
                    hits[truth[y, x]] += 1
    total = sum(true)
    accuracies = [hits[c] / true[c] for c in range(count) if true[c]]
    ious = {c: hits[c] / (true[c] + predicted[c] - hits[c]) for c in range(count) if true[c] + predicted[c]}
    nan = float("nan")
    return {
        "pixel_accuracy": sum(hits) / total if total else nan,
        "mean_accuracy": sum(accuracies) / len(accuracies) if accuracies else nan,
        "mean_iou": sum(ious.values()) / len(ious) if ious else nan,
        "frequency_weighted_iou": sum(true[c] * ious[c] for c in ious) / total if total else nan,
    }


def check_against_loops(pairs: Pairs, classes: list[str]) -> None:
    confusion = confusion_of(pairs, classes)
    for name, value in by_loops(pairs, len(classes)).items():
        measured = getattr(confusion, name)()
        assert (math.isnan(value) and math.isnan(measured)) or abs(measured - value) < 1e-9, name


def random_pairs(seed: int, count: int = 21, images: int = 4) -> Pairs:
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        size = random.integers(5, 40, 2)
        truth = random.integers(0, count, size).astype(np.uint8)
        prediction = np.where(random.random(size) < 0.6, truth, random.integers(0, count, size)).astype(np.uint8)
        truth[random.random(size) < 0.1] = 255
        pairs.append((prediction, truth))
    return pairs


def test_equals_per_pixel_loops() -> None:
    check_against_loops(random_pairs(0), VOC_CLASSES)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_per_pixel_loops_whatever_the_maps(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), max_size=3))
    labels = st.integers(0, len(NAMES) - 1)
    pairs = [(data.draw(arrays.arrays(np.uint8, size, elements=labels)),
              data.draw(arrays.arrays(np.uint8, size, elements=st.one_of(labels, st.just(255))))) for size in sizes]
    check_against_loops(pairs, NAMES)
    summary = confusion_of(pairs, NAMES).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert sum(map(sum, summary["confusion"])) == summary["pixels"] == sum(int((t != 255).sum()) for _, t in pairs)


def test_hand_worked_example() -> None:
    truth = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)
    confusion = confusion_of([(prediction, truth)], ["background", "cat", "dog"])
    # true background: 1 right, 1 taken for cat; cat: 2 right; dog: 1 taken for background; the void pixel is left out
    assert confusion.counts.dtype == np.int64
    assert confusion.counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert confusion.pixel_accuracy() == pytest.approx(3 / 5, abs=1e-12)
    assert confusion.class_accuracy() == pytest.approx([1 / 2, 1, 0], abs=1e-12)
    assert confusion.mean_accuracy() == pytest.approx(1 / 2, abs=1e-12)
    assert confusion.class_iou() == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-12)
    assert confusion.mean_iou() == pytest.approx(1 / 3, abs=1e-12)
    assert confusion.frequency_weighted_iou() == pytest.approx((2 / 3 + 4 / 3 + 0) / 5, abs=1e-12)
    assert confusion.mean_iou(["cat", "dog"]) == pytest.approx(1 / 3, abs=1e-12)
    assert confusion.mean_iou(["cat"]) == pytest.approx(2 / 3, abs=1e-12)
    assert confusion.summary()["class_iou"] == {"background": 1 / 3, "cat": 2 / 3, "dog": 0.0}
    assert confusion.summary()["images"] == 1 and confusion.summary()["pixels"] == 5


def test_one_histogram_not_a_mean_of_images() -> None:
    small = np.array([[0, 1]], np.uint8)
    large = np.array([[0] * 9 + [1]], np.uint8)
    pairs = [(small, small), (np.zeros_like(large), large)]
    images = [confusion_of([pair], NAMES[:2]).mean_iou() for pair in pairs]
    assert np.mean(images) == pytest.approx((1 + 0.45) / 2)
    assert confusion_of(pairs, NAMES[:2]).mean_iou() == pytest.approx((10 / 11 + 1 / 2) / 2, abs=1e-12)


def test_classes_that_are_absent() -> None:
    truth = np.array([[0, 0, 0, 1]], np.uint8)
    prediction = np.array([[0, 0, 2, 1]], np.uint8)  # dog is predicted but not there; sheep is in neither
    confusion = confusion_of([(prediction, truth)], NAMES)
    assert confusion.class_iou()[:3].tolist() == [2 / 3, 1, 0] and math.isnan(confusion.class_iou()[3])
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-12)
    assert confusion.mean_accuracy() == pytest.approx((2 / 3 + 1) / 2, abs=1e-12)
    assert confusion.mean_iou(["cat", "sheep"]) == 1 and math.isnan(confusion.mean_iou(["sheep"]))
    assert confusion.summary()["class_iou"]["sheep"] is None


def devkit(pairs: Pairs, nclasses: int) -> tuple[np.ndarray, float]:
    """VOCevalseg.m, line by line; nclasses without the background; percent."""
    num = nclasses + 1
    confcounts = np.zeros((num, num))
    for resim, gtim in pairs:
        resim, gtim = resim.astype(float), gtim.astype(float)
        if resim.max() > nclasses:
            raise ValueError("out of range value")
        if gtim.shape != resim.shape:
            raise ValueError("wrong size")
        locs = gtim < 255
        sumim = 1 + gtim + resim * num
        hs = np.array([(sumim[locs] == value).sum() for value in range(1, num * num + 1)])  # histc(..., 1:num*num)
        confcounts += hs.reshape(num, num, order="F")  # confcounts(:) is column-major
    accuracies = np.zeros(num)
    for j in range(num):
        gtj, resj, gtjresj = confcounts[j, :].sum(), confcounts[:, j].sum(), confcounts[j, j]
        accuracies[j] = 100 * gtjresj / (gtj + resj - gtjresj)
    return accuracies, accuracies.mean()


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_voc_devkit(seed: int) -> None:
    pairs = random_pairs(seed)
    accuracies, average = devkit(pairs, len(VOC_CLASSES) - 1)
    confusion = confusion_of(pairs, VOC_CLASSES)
    assert np.abs(100 * confusion.class_iou() - accuracies).max() < 1e-9
    assert abs(100 * confusion.mean_iou() - average) < 1e-9


def test_table1_means_are_the_means_of_their_columns() -> None:
    with TABLE1.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11 and list(rows[0])[2:-1] == VOC_CLASSES
    for row in rows:
        mean = sum(float(row[name]) for name in VOC_CLASSES) / len(VOC_CLASSES)
        assert abs(mean - float(row["mean_iou"])) <= 0.05 + 1e-9, row["method"]


@pytest.mark.parametrize("prediction, truth, message", [
    (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "2007_1.png: the prediction is 3x2; expected 2x3"),
    (np.full((1, 2), 4, np.uint8), np.zeros((1, 2), np.uint8), r"2007_1.png: predicted label 4 .*class, 3 \(sheep"),
    (np.full((1, 2), 4, np.uint8), np.full((1, 2), 255, np.uint8), "predicted label 4"),
    (np.full((1, 2), 255, np.uint8), np.zeros((1, 2), np.uint8), "predicted label 255"),
    (np.zeros((1, 2), np.uint8), np.array([[0, 4]], np.uint8), "2007_1.png: the mask has label 4"),
    (np.zeros((1, 2), np.uint8), np.array([[254, 0]], np.uint8), "the mask has label 254"),
])
def test_wrong_maps_are_refused_and_leave_the_counts(prediction: np.ndarray, truth: np.ndarray, message: str) -> None:
    confusion = ConfusionMatrix(NAMES)
    with pytest.raises(UserError, match=message):
        confusion.add(prediction, truth, "2007_1.png")
    assert not confusion.counts.any() and confusion.images == 0


def test_unknown_or_no_subset_is_refused() -> None:
    confusion = ConfusionMatrix(NAMES)
    with pytest.raises(UsageError, match="'zebra' is not in the class list; expected some of background, cat"):
        confusion.mean_iou(["cat", "zebra"])
    with pytest.raises(UsageError, match="no class"):
        confusion.mean_iou([])


def test_no_pixels_give_no_metrics() -> None:
    summary = confusion_of([(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))], NAMES).summary()
    assert summary["pixel_accuracy"] is summary["mean_accuracy"] is summary["mean_iou"] is None
    assert summary["frequency_weighted_iou"] is None


def test_an_image_is_measured_over_its_own_classes() -> None:
    """One stray pixel of another class costs a pixel, not half of the mean."""
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1
    labels = truth.copy()
    labels[9, 9] = 2
    confusion = ConfusionMatrix(["background", "cat", "dog"])
    confusion.add(labels, truth, "one")
    assert confusion.image_mean_iou() == pytest.approx((49 / 50 + 1) / 2, abs=1e-12)
    assert confusion.mean_iou() == pytest.approx((49 / 50 + 1 + 0) / 3, abs=1e-12)
    assert math.isnan(ConfusionMatrix(["background", "cat"]).image_mean_iou())
