"""Resizing of test windows and score maps: against explicit loops, OpenCV, and MATLAB's imresize written out."""

import cv2
import numpy as np
import pytest
import torch

from deconvnet.inference import resizing
from deconvnet.inference.resizing import matlab_weights, resize_picture, resize_scores
from tests.reference_inference import bilinear, contributions

SIZES = [(8, 3), (9, 4), (31, 7), (500, 224), (225, 224), (224, 224), (1, 1), (1, 5), (5, 1), (2, 7), (3, 8), (64, 300),
         (224, 531)]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_matlab_weights_are_contributions(before: int, after: int) -> None:
    found = matlab_weights(before, after).numpy()
    np.testing.assert_allclose(found, contributions(before, after), atol=2e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.min() >= 0


def test_matlab_weights_by_hand() -> None:
    # Halving: kernel base 4, centres at 0.5 and 2.5; taps at distance .5, 1.5 weigh 3/8, 1/8; the border is mirrored.
    np.testing.assert_allclose(matlab_weights(4, 2), [[4 / 8, 3 / 8, 1 / 8, 0], [0, 1 / 8, 3 / 8, 4 / 8]], atol=1e-6)
    # Doubling: plain bilinear, the border repeated.
    np.testing.assert_allclose(matlab_weights(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(matlab_weights(5, 5), np.eye(5), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (14, 9), (3, 20), (10, 12), (1, 1)])
def test_matlab_scores(height: int, width: int) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 10, 12))
    expected = np.zeros((3, height, width))
    rows, columns = contributions(10, height), contributions(12, width)
    for y, x in np.ndindex(height, width):
        for v, u in np.ndindex(10, 12):
            expected[:, y, x] += rows[y, v] * columns[x, u] * scores[:, v, u]
    found = resize_scores(torch.from_numpy(scores).float(), height, width, "matlab")
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (14, 9), (3, 20), (10, 12), (1, 1), (23, 31)])
def test_bilinear_scores(height: int, width: int) -> None:
    scores = np.random.default_rng(1).normal(size=(3, 10, 12)).astype(np.float32)
    found = resize_scores(torch.from_numpy(scores), height, width, "bilinear").numpy()
    np.testing.assert_allclose(found, bilinear(scores, height, width), atol=1e-5)
    np.testing.assert_allclose(found, cv2.resize(scores.transpose(1, 2, 0), (width, height)).transpose(2, 0, 1),
                               atol=1e-5)
    on_a_gpu = resizing._by_torch(torch.from_numpy(scores), height, width)
    np.testing.assert_allclose(on_a_gpu, found, atol=1e-5)
    part = torch.from_numpy(np.pad(scores, ((0, 0), (2, 3), (1, 4))))[:, 2:12, 1:13]  # of a canvas, as FCN's
    np.testing.assert_array_equal(resize_scores(part, height, width, "bilinear"), found)
    if (height, width) != (10, 12):
        assert np.abs(found - bilinear(scores, height, width, align_corners=True)).max() > 0.1


@pytest.mark.parametrize(("height", "width"), [(20, 33), (64, 64), (130, 41), (7, 5), (1, 1)])
def test_pictures(height: int, width: int) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    planes = picture.transpose(2, 0, 1).astype(float)
    found = {method: resize_picture(picture, 64, method) for method in ("bilinear", "matlab")}
    for one in found.values():
        assert one.dtype == torch.float32 and one.shape == (3, 64, 64)
    assert np.abs(found["bilinear"].numpy() - bilinear(planes, 64, 64)).max() <= 1  # OpenCV rounds to whole levels
    rows, columns = contributions(height, 64), contributions(width, 64)
    expected = np.einsum("yv,cvu,xu->cyx", rows, planes, columns)
    np.testing.assert_allclose(found["matlab"], expected, atol=1e-3)
    if (height, width) == (64, 64):
        assert all(np.array_equal(one, planes) for one in found.values())


def test_shrinking_tells_the_methods_apart_and_enlarging_does_not() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255  # a quarter of the columns
    assert abs(resize_picture(stripes, 16, "matlab").mean().item() - 63.75) < 1
    assert resize_picture(stripes, 16, "bilinear").max() == 0  # between columns 1 and 2 of each four
    scores = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 9, 9))).float()
    np.testing.assert_allclose(resize_scores(scores, 20, 17, "matlab"), resize_scores(scores, 20, 17, "bilinear"),
                               atol=1e-5)
    assert (resize_scores(scores, 4, 5, "matlab") - resize_scores(scores, 4, 5, "bilinear")).abs().max() > 0.2
