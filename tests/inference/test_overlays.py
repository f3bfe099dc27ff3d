"""The overlay, pixel by pixel where that can be said by hand; the legend by the colours that stand in it."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from deconvnet.conventions import VOC_CLASSES
from deconvnet.inference.overlays import overlay, percent_of

CAT, DOG, PERSON = (VOC_CLASSES.index(name) for name in ("cat", "dog", "person"))
COLOURS = {CAT: (64, 0, 0), DOG: (64, 0, 128), PERSON: (192, 128, 128)}  # the devkit's
HEIGHT, WIDTH = 60, 400


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A dog, a person twice as large, and a cat of a few pixels."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:50, 100:150], labels[10:50, 200:300], labels[30:34, 10:14] = DOG, PERSON, CAT
    return image, labels


def places(strip: np.ndarray, index: int) -> np.ndarray:
    """Rows and columns of a class's colour in a legend."""
    return np.argwhere((strip == COLOURS[index]).all(2))


def test_the_background_stays_and_each_region_has_its_colour() -> None:
    image, labels = scene()
    before = image.copy()
    found = overlay(image, labels, VOC_CLASSES, legend=False)
    assert found.dtype == np.uint8 and found.shape == image.shape
    np.testing.assert_array_equal(image, before)
    far = ~binary_dilation(labels > 0, iterations=3)
    np.testing.assert_array_equal(found[far], image[far])
    for index, colour in COLOURS.items():
        inside = binary_erosion(labels == index, iterations=3) if index != CAT else np.zeros_like(far)
        expected = image[inside] * 0.45 + np.array(colour) * 0.55
        assert np.abs(found[inside].astype(float) - expected).max(initial=0) < 1.01
    for y, x in ((10, 125), (49, 250), (30, 100), (20, 299)):  # on the borders: white
        assert found[y, x].min() > 200


def test_the_legend_names_what_is_found_by_area() -> None:
    image, labels = scene()
    whole = overlay(image, labels, VOC_CLASSES)
    strip = whole[HEIGHT:]
    np.testing.assert_array_equal(whole[:HEIGHT], overlay(image, labels, VOC_CLASSES, legend=False))
    assert whole.shape[1] == WIDTH and 10 < len(strip) < 60 and (strip[0] == 255).all()
    starts = [places(strip, index)[:, 1].min() for index in (PERSON, DOG, CAT)]
    assert starts == sorted(starts)
    ends = [*starts[1:], WIDTH]
    for index, start, end in zip((PERSON, DOG, CAT), starts, ends, strict=True):  # letters beside each colour
        right = places(strip, index)[:, 1].max() + 3
        assert start < right and (strip[:, right:end].max(2) < 100).sum() > 50
    other = [*VOC_CLASSES]
    other[PERSON] = "somebody"
    assert not np.array_equal(overlay(image, labels, other)[HEIGHT:], strip)
    for missing in {*range(1, 21)} - {CAT, DOG, PERSON}:
        alone = np.where(labels == DOG, missing, 0).astype(np.uint8)
        assert not len(places(overlay(image, alone, VOC_CLASSES)[HEIGHT:], DOG)), VOC_CLASSES[missing]


def test_the_share_is_the_one_of_the_labels() -> None:
    """Twice the area, other letters; one pixel more, the same ones."""
    image, labels = scene()
    strips = []
    for rows in (slice(0, 30), slice(0, 60), slice(0, 30)):
        labels[:] = 0
        labels[rows] = DOG
        labels[59, 0] = DOG if len(strips) == 2 else labels[59, 0]
        strips.append(overlay(image, labels, VOC_CLASSES)[HEIGHT:])
    assert not np.array_equal(strips[0], strips[1]) and np.array_equal(strips[0], strips[2])


@pytest.mark.parametrize("width", [120, 240])
def test_a_narrow_image_has_more_rows_in_its_legend(width: int) -> None:
    image, labels = scene()
    labels = np.roll(labels, -100, 1)[:, :width].copy()
    labels[5:9, :6] = CAT
    labels[:, 110:118] = PERSON
    whole = overlay(np.ascontiguousarray(image[:, :width]), labels, VOC_CLASSES)
    assert whole.shape[1] == width
    lines = [places(whole[HEIGHT:], index)[:, 0].min() for index in (DOG, PERSON, CAT)]
    assert lines == sorted(lines) and len(set(lines)) >= 2


def test_an_image_narrower_than_its_legend_stands_in_the_middle() -> None:
    image, labels = np.full((9, 9, 3), 7, np.uint8), np.full((9, 9), PERSON, np.uint8)
    whole = overlay(image, labels, VOC_CLASSES)
    left = (whole.shape[1] - 9) // 2
    assert whole.shape[1] > 40 and (whole[:9, :left] == 255).all() and (whole[:9, left + 9 :] == 255).all()
    np.testing.assert_array_equal(whole[:9, left : left + 9], overlay(image, labels, VOC_CLASSES, legend=False))


def test_nothing_but_background() -> None:
    image, labels = scene()
    whole = overlay(image, np.zeros_like(labels), VOC_CLASSES)
    np.testing.assert_array_equal(whole[:HEIGHT], image)
    assert (whole[HEIGHT:].max(2) < 100).sum() > 50  # which is said


def test_shares_in_words_are_those_of_the_report() -> None:
    assert [percent_of(share) for share in (0, 0.0099, 0.01, 0.236, 1)] == ["< 1 %", "< 1 %", "1 %", "24 %", "100 %"]
