"""Windows against explicit loops over pixels: where they lie, what they show, how they are labelled."""

import math
import tracemalloc
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import WindowRows, read_rows, write_rows
from deconvnet.data.voc import VocFolder, VocObject
from deconvnet.data.windows import (
    best_overlap,
    cut,
    enlarge,
    object_labels,
    outside_value,
    overlap,
    window_labels,
    window_picture,
)
from deconvnet.recipe import Recipe
from deconvnet.recipe import Windows as Keys
from deconvnet.recipe_files import load_recipe
from tests.row_files import attributes

corner = st.integers(-60, 60)
boxes = st.tuples(corner, corner, st.integers(1, 90), st.integers(1, 90)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


# Independent truth: one pixel at a time


def explicit_crop(image: np.ndarray, window: tuple[int, ...], fill: tuple[int, ...]) -> np.ndarray:
    """The window's pixels, copied one by one; `fill` where the image has none."""
    height, width = len(image), len(image[0])
    x1, y1, x2, y2 = (int(value) for value in window)
    rows = []
    for y in range(y1, y2):
        row = []
        for x in range(x1, x2):
            row.append(tuple(image[y][x]) if 0 <= y < height and 0 <= x < width else fill)
        rows.append(row)
    return np.array(rows, np.uint8)


def explicit_bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear resampling between pixel centres, the border repeated: exact values, float64."""
    height, width = image.shape[:2]
    result = np.zeros((side, side, 3))
    for i in range(side):
        y = min(max((i + 0.5) * height / side - 0.5, 0), height - 1)
        top = min(int(y), max(height - 2, 0))
        below = min(top + 1, height - 1)
        for j in range(side):
            x = min(max((j + 0.5) * width / side - 0.5, 0), width - 1)
            left = min(int(x), max(width - 2, 0))
            right = min(left + 1, width - 1)
            v, u = y - top, x - left
            result[i, j] = (
                (1 - v) * ((1 - u) * image[top, left] + u * image[top, right])
                + v * ((1 - u) * image[below, left].astype(float) + u * image[below, right])
            )
    return result


def explicit_nearest(labels: np.ndarray, side: int) -> np.ndarray:
    """OpenCV's rule: output pixel i shows input pixel floor(i * size / side), in its order of float64 operations.

    Where i * size / side is whole, that order may make it one less: 36 * 14 / 72 = 7 becomes 6.
    """
    height, width = labels.shape
    rows = [math.floor(i * (1 / (side / height))) for i in range(side)]
    columns = [math.floor(j * (1 / (side / width))) for j in range(side)]
    return np.array([[labels[y][x] for x in columns] for y in rows], np.uint8)


def explicit_labels(mask: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    x1, y1, x2, y2 = (int(value) for value in window)
    return np.array([[mask[y][x] if 0 <= y < len(mask) and 0 <= x < len(mask[0]) else 255 for x in range(x1, x2)]
                     for y in range(y1, y2)], np.uint8)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PLACES = {
    "inside": (5, 4, 31, 22),
    "across the left": (-7, 3, 20, 19),
    "across the right and bottom": (25, 17, 49, 47),
    "around everything": (-11, -6, 55, 38),
    "one pixel": (39, 29, 40, 30),
    "touching from outside": (40, 0, 52, 10),
    "beyond, left": (-30, 5, -10, 20),
    "beyond, below": (3, 31, 33, 52),
}


# Where windows lie


@pytest.mark.parametrize(("box", "factor", "shape", "window"), [
    ((10, 20, 30, 50), 1.2, "tight", (8, 17, 32, 53)),
    ((10, 20, 30, 50), 1.2, "square", (2, 17, 38, 53)),
    ((10, 20, 30, 50), 1.0, "tight", (10, 20, 30, 50)),
    ((10, 20, 30, 50), 1.0, "square", (5, 20, 35, 50)),
    ((0, 0, 5, 1), 1.2, "tight", (0, 0, 6, 1)),  # 6 x 1.2 -> 6 x 1; from -0.5, rounded up to 0
    ((0, 0, 500, 375), 1.2, "tight", (-50, -37, 550, 413)),  # from -37.5, rounded up to -37
    ((0, 0, 500, 375), 1.2, "square", (-50, -112, 550, 488)),
    ((7, 7, 8, 8), 1.2, "tight", (7, 7, 8, 8)),
    ((-20, -8, -10, 2), 1.2, "tight", (-21, -9, -9, 3)),
])
def test_enlarge_by_hand(box: tuple, factor: float, shape: str, window: tuple) -> None:
    found = enlarge(np.array([box]), factor, shape)
    assert found.dtype == np.int32 and found.tolist() == [list(window)]


@given(box=boxes, factor=st.sampled_from([Fraction(1), Fraction(6, 5), Fraction(3, 2), Fraction(7, 3)]))
def test_enlarge_keeps_centre_and_proportion(box: tuple, factor: Fraction) -> None:
    for shape in ("tight", "square"):
        x1, y1, x2, y2 = (int(value) for value in enlarge(np.array([box]), float(factor), shape)[0])
        longer = max(box[2] - box[0], box[3] - box[1])
        for low, high, a, b in ((x1, x2, box[0], box[2]), (y1, y2, box[1], box[3])):
            side = factor * (longer if shape == "square" else b - a)
            assert high - low == math.floor(side + Fraction(1, 2))
            assert abs(Fraction(low + high, 2) - Fraction(a + b, 2)) <= Fraction(1, 2)
            assert low <= a and b <= high


def test_enlarge_of_nothing() -> None:
    assert enlarge(np.zeros((0, 4), np.int32), 1.2, "tight").shape == (0, 4)
    assert enlarge([], 1.2, "square").shape == (0, 4)


small = st.tuples(st.integers(-4, 6), st.integers(-4, 6), st.integers(1, 7), st.integers(1, 7)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(first=st.lists(small, max_size=4), second=st.lists(small, min_size=1, max_size=4))
def test_overlap_counts_pixels(first: list[tuple], second: list[tuple]) -> None:
    def pixels(box: tuple) -> set:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    found = overlap(np.array(first, np.int32).reshape(-1, 4), np.array(second, np.int32))
    assert found.shape == (len(first), len(second))
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            assert found[i, j] == len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))


def test_best_overlap_of_more_pairs_than_are_compared_at_once(monkeypatch) -> None:
    """2,000 proposals x 30,000 specks at once would be 6 GB; the whole table is the truth here."""
    random = np.random.default_rng(0)
    corners = random.integers(0, 30, (40, 2, 2))
    some = np.concatenate([corners[:, 0], corners[:, 0] + corners[:, 1] % 9 + 1], axis=1).astype(np.int32)
    boxes, others = some[:27], some[27:]
    table = np.array([[overlap(box[None], other[None])[0, 0] for other in others] for box in boxes])
    for pairs in (1, len(others), 5 * len(others) + 1, 27 * len(others), 1 << 20):
        monkeypatch.setattr("deconvnet.data.windows.PAIRS_AT_ONCE", pairs)
        index, iou = best_overlap(boxes, others)
        assert index.tolist() == [row.tolist().index(max(row)) for row in table]
        assert iou.tolist() == [max(row) for row in table.tolist()]
    tracemalloc.start()
    try:
        best_overlap(np.tile(boxes, (8, 1)), np.tile(others, (2300, 1)))  # 216 x 29,900: 650 MB
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()
    assert len(best_overlap(boxes[:0], others)[0]) == 0


# What they show


@pytest.mark.parametrize("window", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("outside", "fill"), [("mean", (123, 117, 104)), ("zero", (0, 0, 0))])
def test_window_equals_explicit_pixels(window: tuple, outside: str, fill: tuple) -> None:
    image, keys = picture(30, 40), Keys(warp=33, outside=outside)
    assert outside_value(keys).tolist() == list(fill)
    crop = explicit_crop(image, window, fill)
    np.testing.assert_array_equal(cut(image, np.array(window), outside_value(keys)), crop)
    found = window_picture(image, np.array(window), keys)
    assert found.shape == (33, 33, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, cv2.resize(crop, (33, 33), interpolation=cv2.INTER_LINEAR))
    assert np.abs(found - explicit_bilinear(crop, 33)).max() <= 1  # OpenCV's weights have 11 bits


@pytest.mark.parametrize("window", PLACES.values(), ids=PLACES)
def test_labels_equal_explicit_pixels(window: tuple) -> None:
    mask = np.random.default_rng(1).choice([0, 3, 8, 255], (30, 40)).astype(np.uint8)
    crop = explicit_labels(mask, window)
    np.testing.assert_array_equal(window_labels(mask, np.array(window), 33), explicit_nearest(crop, 33))


@settings(max_examples=60, deadline=None)
@given(window=boxes, seed=st.integers(0, 99))
def test_any_window_equals_explicit_pixels(window: tuple, seed: int) -> None:
    image = picture(37, 29, seed)
    mask = np.random.default_rng(seed).integers(0, 21, (37, 29), dtype=np.uint8)
    np.testing.assert_array_equal(cut(image, np.array(window), np.uint8([1, 2, 3])),
                                  explicit_crop(image, window, (1, 2, 3)))
    np.testing.assert_array_equal(cut(mask, np.array(window), 255), explicit_labels(mask, window))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 45), width=st.integers(1, 45), side=st.integers(8, 24), seed=st.integers(0, 9))
def test_warp_is_bilinear_and_nearest(height: int, width: int, side: int, seed: int) -> None:
    image = picture(height, width, seed)
    labels = np.random.default_rng(seed).integers(0, 21, (height, width), dtype=np.uint8)
    whole = np.array([0, 0, width, height])
    found = window_picture(image, whole, Keys(warp=side))
    assert np.abs(found - explicit_bilinear(image, side)).max() <= 1
    np.testing.assert_array_equal(window_labels(labels, whole, side), explicit_nearest(labels, side))


def test_area_averages_where_linear_picks() -> None:
    image = picture(32, 48)
    window = np.array([0, 0, 48, 32])
    means = image.reshape(16, 2, 16, 3, 3).mean((1, 3))
    assert np.abs(window_picture(image, window, Keys(warp=16, resize="area")) - means).max() <= 0.51
    assert np.abs(window_picture(image, window, Keys(warp=16, resize="linear")) - means).max() > 20
    for key in ("area", "linear"):  # not shrunk: the same
        larger = window_picture(image, window, Keys(warp=64, resize=key))
        assert np.abs(larger - explicit_bilinear(image, 64)).max() <= 1


# How they are labelled


def test_stage_1_labels_pixel_by_pixel() -> None:
    random = np.random.default_rng(2)
    mask = random.choice([0, 8, 8, 12, 255], (20, 25)).astype(np.uint8)
    own = (mask == 8) & (random.random((20, 25)) < 0.5)  # the other cat pixels are another cat's
    own[:4] = own[15:] = own[:, :3] = own[:, 22:] = False
    found = object_labels(mask, VocObject(8, np.array([3, 4, 22, 15], np.int32), own[4:15, 3:22], True))
    assert found.dtype == np.uint8
    for y in range(20):
        for x in range(25):
            expected = 255 if mask[y, x] == 255 else 8 if own[y, x] else 0
            assert found[y, x] == expected
    assert set(np.unique(found)) == {0, 8, 255} and ((mask == 8) & (found == 0)).any()


def crops(path: Path, voc: VocFolder, recipe: Recipe, stage: int, image_id: str,
          windows: list[tuple[tuple, int]]) -> WindowCrops:
    """The pipeline's windows: rows (window, object's index) through a windows file."""
    count = len(windows)
    objects = voc.objects(image_id, least_pixels=recipe.data.least_object_pixels)
    rows = WindowRows(
        window=np.array([window for window, _ in windows], np.int32), box=np.full((count, 4), [0, 0, 1, 1], np.int32),
        source=np.zeros(count, np.uint8), object=np.array([number for _, number in windows], np.int32),
        class_index=np.array([objects[number].class_index for _, number in windows], np.uint8),
        overlap=np.ones(count, np.float32), score=np.ones(count, np.float32),
    )
    write_rows(path, [image_id], [{"size": np.array(voc.read_mask(image_id).shape, np.int32), **vars(rows)}],
               attributes("windows", stage=stage, classes=voc.classes))
    return WindowCrops(read_rows(path, "windows"), voc, recipe, augment=False, seed=(0,))


def own_pixels(item: VocObject, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for y, row in enumerate(item.mask, start=item.box[1]):
        for x, own in enumerate(row, start=item.box[0]):
            mask[y, x] = own
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("windows.stage1_labels=all",), ("windows.outside=zero",)], ids=str)
def test_real_windows_equal_an_independent_cut(voc_subset: Path, tmp_path: Path, overrides: tuple) -> None:
    """Real images with object masks and with boxes alone; windows inside, across and beyond the border; stages 1, 2."""
    recipe = load_recipe("voc_subset", overrides)
    voc = VocFolder(voc_subset, VOC_CLASSES)
    fill = (0, 0, 0) if recipe.windows.outside == "zero" else (123, 117, 104)
    side, seen = recipe.windows.warp, 0
    with_masks, with_boxes = voc.image_ids("instances")[:2], voc.image_ids("train_aug")[-1:]
    for image_id in with_masks + with_boxes:
        image, mask = voc.read_pair(image_id)
        height, width = mask.shape
        objects = voc.objects(image_id, mask, recipe.data.least_object_pixels)
        places = [(tuple(enlarge(item.box[None], 1.2, "tight")[0]), number) for number, item in enumerate(objects)]
        places += [((width // 4, height // 4, width // 2, height // 2), 0), ((-20, -30, width // 3, height // 2), 0),
                   ((width // 2, height // 3, width + 25, height + 5), 0), ((width, 5, width + 40, 60), 0)]
        for stage in (1, 2):
            examples = crops(tmp_path / f"{image_id}-{stage}.h5", voc, recipe, stage, image_id, places)
            for row, (window, number) in enumerate(places):
                expected = mask
                if stage == 1 and not overrides[:1] == ("windows.stage1_labels=all",):
                    expected = np.array([[255 if label == 255 else label if own else 0
                                          for label, own in zip(*pair, strict=True)]
                                         for pair in zip(mask, own_pixels(objects[number], mask.shape), strict=True)],
                                        np.uint8)
                found, labels = examples.cut(row)
                crop = explicit_crop(image, window, fill)
                np.testing.assert_array_equal(found, cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR))
                np.testing.assert_array_equal(labels, explicit_nearest(explicit_labels(expected, window), side))
                seen += 1
        assert np.abs(found - explicit_bilinear(crop, side)).max() <= 1
    assert seen >= 30
