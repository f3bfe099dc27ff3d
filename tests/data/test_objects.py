"""Objects of a mask: from object masks, from boxes, from connected components."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from deconvnet.data.palette import write_label_png
from deconvnet.data.voc import VocObject
from tests.data.small_voc import CAT, DOG, HEIGHT, WIDTH, annotate, class_mask, listed, make_folder, refused, voc


def whole(item: VocObject, shape: tuple[int, int]) -> np.ndarray:
    """The object's pixels as a mask of the image."""
    mask = np.zeros(shape, bool)
    mask[item.box[1] : item.box[3], item.box[0] : item.box[2]] = item.mask
    return mask


def test_objects_from_the_object_mask(folder: Path) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[class_mask() == DOG] = 3
    numbers[1:4, 1:5], numbers[4:6, 5:8] = 7, 1
    numbers[class_mask() == 255] = 255
    (folder / "SegmentationObject").mkdir()
    write_label_png(folder / "SegmentationObject" / "a.png", numbers)
    annotate(folder, "a", [("person", (1, 1, 2, 2))])  # the object mask goes first
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [5, 4, 8, 6], 6), (DOG, [9, 7, 14, 10], 15), (CAT, [1, 1, 5, 4], 12)]
    np.testing.assert_array_equal(whole(objects[2], numbers.shape), numbers == 7)


def test_an_object_keeps_the_pixels_of_its_class_alone(folder: Path) -> None:
    """Void, background and another class's stray pixels in an object's area are not its own."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[0:7, 0:12] = 1  # 12 + 6 cat pixels, background, and void
    numbers[7, 9] = 1  # one dog pixel
    (folder / "SegmentationObject").mkdir()
    write_label_png(folder / "SegmentationObject" / "a.png", numbers)
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [1, 1, 8, 6], 18)]
    np.testing.assert_array_equal(whole(objects[0], numbers.shape), class_mask() == CAT)


def test_object_mask_of_another_size(folder: Path) -> None:
    (folder / "SegmentationObject").mkdir()
    path = folder / "SegmentationObject" / "a.png"
    write_label_png(path, np.zeros((3, 3), np.uint8))
    refused(lambda: voc(folder).objects("a"), path, "3x3", "14x10")


def test_objects_from_boxes_are_the_class_mask_inside(folder: Path) -> None:
    """1-based inclusive 2..5 is 0-based half-open 1..5."""
    annotate(folder, "a", [("cat", (2, 2, 5, 4)), ("cat", (5, 4, 9, 8)), ("dog", (10, 7, 14, 10))])
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [1, 1, 5, 4], 12), (CAT, [4, 3, 9, 8], 7), (DOG, [9, 6, 14, 10], 15)]
    for item, (x1, y1, x2, y2) in zip(objects, [(2, 2, 5, 4), (5, 4, 9, 8), (10, 7, 14, 10)], strict=True):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                inside = x1 <= x + 1 <= x2 and y1 <= y + 1 <= y2
                assert whole(item, class_mask().shape)[y, x] == (inside and class_mask()[y, x] == item.class_index)


def test_a_class_without_any_box_gives_components(folder: Path) -> None:
    annotate(folder, "a", [("dog", (10, 8, 14, 10))])
    # the two cats touch at a corner: one component of 8 neighbours
    assert listed(voc(folder).objects("a")) == [(DOG, [9, 7, 14, 10], 15), (CAT, [1, 1, 8, 6], 18)]


def test_without_object_mask_and_boxes_all_are_components(folder: Path) -> None:
    assert listed(voc(folder).objects("a")) == [(CAT, [1, 1, 8, 6], 18), (DOG, [9, 7, 14, 10], 15)]
    assert listed(voc(folder).objects("a", least_pixels=16)) == [(CAT, [1, 1, 8, 6], 18)]
    assert listed(voc(folder).objects("a", np.zeros((HEIGHT, WIDTH), np.uint8))) == []


@settings(max_examples=40, deadline=None)
@given(mask=arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, CAT, CAT, DOG, 255])))
def test_components_are_scipys(mask: np.ndarray, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("voc")
    (root / "JPEGImages").mkdir()
    expected = []
    for class_index in (CAT, DOG):
        numbers, _ = ndimage.label(mask == class_index, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            box = [columns.start, rows.start, columns.stop, rows.stop]
            expected.append((class_index, box, int((numbers == number).sum())))
    assert sorted(listed(voc(root).objects("a", mask))) == sorted(expected)


@settings(max_examples=40, deadline=None)
@given(mask=arrays(np.uint8, (7, 9), elements=st.sampled_from([0, CAT, CAT, DOG, 255])),
       numbers=arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 9, 254, 255])), least=st.integers(1, 4))
def test_object_masks_by_loops(mask: np.ndarray, numbers: np.ndarray, least: int, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("voc")
    (root / "JPEGImages").mkdir()
    (root / "SegmentationObject").mkdir()
    write_label_png(root / "SegmentationObject" / "a.png", numbers)
    expected = []
    for number in (1, 2, 9, 254):
        places = [(y, x) for y in range(7) for x in range(9) if numbers[y, x] == number and mask[y, x] not in (0, 255)]
        cats = sum(mask[place] == CAT for place in places)
        class_index = CAT if cats >= len(places) - cats else DOG
        own = [place for place in places if mask[place] == class_index]
        if len(own) >= least:
            expected.append((class_index, own))
    found = [(item.class_index, [tuple(place) for place in np.argwhere(whole(item, (7, 9))).tolist()])
             for item in voc(root).objects("a", mask, least)]
    assert found == expected
    for item in voc(root).objects("a", mask, least):
        assert item.mask.any(0)[[0, -1]].all() and item.mask.any(1)[[0, -1]].all()  # the box is tight


def specks(side: int, count: int, size: int) -> np.ndarray:
    """A mask of `count` squares on a grid, cats and dogs in turn."""
    step = math.isqrt(side * side // count)
    mask = np.zeros((side, side), np.uint8)
    for number in range(count):
        y, x = (place * step for place in divmod(number, side // step))
        mask[y : y + size, x : x + size] = CAT if number % 2 else DOG
    return mask


def rings(side: int) -> np.ndarray:
    """A mask of rings of one pixel, one inside the other: each one's box holds all that are inside it."""
    distance = np.abs(np.arange(side) - side // 2)
    return np.where(np.maximum(distance[:, None], distance) % 2, CAT, 0).astype(np.uint8)


@pytest.mark.parametrize(("mask", "least", "count"), [
    (specks(2000, 500, 40), 1, 500), (specks(2000, 30_000, 5), 1, 30_000), (specks(2000, 30_000, 5), 26, 0),
    (rings(2000), 1, 500)], ids=["nuclei", "specks", "specks that are too small", "rings"])
def test_memory_does_not_grow_with_the_objects(folder: Path, mask: np.ndarray, least: int, count: int) -> None:
    """Masks of the whole image would be 2 GB for 500 nuclei of 2000 x 2000, and 120 GB for the specks."""
    tracemalloc.start()
    try:
        found = voc(folder).objects("a", mask, least)
        for item in found[:3]:
            assert (mask[item.box[1] : item.box[3], item.box[0] : item.box[2]][item.mask] == item.class_index).all()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == count
    assert held < 50e6 and peak < 120e6


def test_boxes_that_lie_outside_or_are_empty(folder: Path) -> None:
    for corners in ((15, 2, 18, 4), (2, 11, 5, 12), (-5, 2, 0, 4), (5, 2, 4, 4), (5, 4, 9, 3)):
        path = annotate(folder, "a", [("cat", (2, 2, 5, 4)), ("cat", corners)])
        refused(lambda: voc(folder).objects("a"), path, "cat", "14x10")


def test_a_box_that_reaches_over_the_border_is_cut_there(folder: Path) -> None:
    annotate(folder, "a", [("dog", (10, 8, 16, 12)), ("cat", (0, -3, 5, 4))])
    assert listed(voc(folder).objects("a")) == [(DOG, [9, 7, 14, 10], 15), (CAT, [0, 0, 5, 4], 12)]


def test_fractions_are_rounded(folder: Path) -> None:
    """Some of VOC 2011's corners have fractions."""
    annotate(folder, "a", [("cat", (2.4, "1.6", 4.6, 4.0)), ("dog", (10, 8, 14, 10))])
    assert listed(voc(folder).objects("a"))[0] == (CAT, [1, 1, 5, 4], 12)


@pytest.mark.parametrize("corners", [("", 1, 2, 2), ("x", 1, 2, 2), ("nan", 1, 2, 2), (1, 1, "inf", 2), (1, 1, 1e20, 2)
                                     ], ids=str)
def test_corners_that_are_no_numbers(folder: Path, corners: tuple) -> None:
    path = annotate(folder, "a", [("cat", corners)])
    refused(lambda: voc(folder).objects("a"), path)


def test_unknown_object_names(folder: Path) -> None:
    path = annotate(folder, "a", [("unicorn", (1, 1, 2, 2))])
    refused(lambda: voc(folder).objects("a"), path, "'unicorn'", "aeroplane")


@pytest.mark.parametrize("text", ["", "not XML", "<annotation>", "<annotation><object></object></annotation>", "\0\1",
                                  '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><object><name>&f;'
                                  "</name></object></annotation>"])
def test_files_that_are_no_annotations(folder: Path, text: str) -> None:
    path = annotate(folder, "a", [])
    path.write_text(text)
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")


def test_exploding_entities_are_an_error_not_a_hang(folder: Path) -> None:
    """Ten entities, each ten times the one before: 10^10 characters for an unprotected parser."""
    laughs = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 11))
    path = annotate(folder, "a", [])
    path.write_text(f"<!DOCTYPE a [{laughs}]><annotation><object><name>&l10;</name></object></annotation>")
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")
    long = f'<!ENTITY long "{"ha" * 50_000}">'
    path.write_text(f"<!DOCTYPE a [{long}]><annotation><object><name>{'&long;' * 50_000}</name></object></annotation>")
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")


def test_own_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "cells")
    mask = np.where(class_mask() == CAT, 1, np.where(class_mask() == DOG, 2, class_mask())).astype(np.uint8)
    write_label_png(root / "SegmentationClass" / "a.png", mask)
    annotate(root, "a", [("nucleus", (10, 8, 14, 10))])
    own = voc(root, ["background", "membrane", "nucleus"])
    np.testing.assert_array_equal(own.read_mask("a"), mask)
    assert listed(own.objects("a")) == [(2, [9, 7, 14, 10], 15), (1, [1, 1, 8, 6], 18)]
    refused(lambda: voc(root).objects("a"), "'nucleus'")
