"""Labels at full size: against torch's bilinear resize of whole maps, by hand, and in bounded memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.inference.enlarging import ROWS, enlarged_labels


def softmax(shape: tuple[int, ...], seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)
    return torch.softmax(torch.from_numpy(scores), 0).numpy()


@settings(max_examples=40, deadline=None)
@given(small=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
       classes=st.integers(2, 6), seed=st.integers(0, 99))
def test_as_if_the_probabilities_were_enlarged_whole(small: tuple, size: tuple, classes: int, seed: int) -> None:
    size = max(size[0], small[0]), max(size[1], small[1])
    probabilities = softmax((classes, *small), seed)
    found = enlarged_labels(probabilities, size)
    assert found.dtype == np.uint8 and found.shape == size
    present = np.unique(probabilities.argmax(0))
    whole = F.interpolate(torch.from_numpy(probabilities)[None], size, mode="bilinear")[0].numpy()[present]
    best = np.take_along_axis(whole, np.searchsorted(present, found)[None], 0)[0]  # wrong only between equals
    np.testing.assert_allclose(best, whole.max(0), atol=1e-5)


def test_by_hand() -> None:
    """From 2 to 8 pixels: centres at -0.375, -0.125, 0.125 ... of the smaller; 0.9 and 0.3 meet 0.5 at two thirds."""
    second = np.array([[0.1, 0.7]], np.float32)
    assert enlarged_labels(np.stack([1 - second, second]), (1, 8)).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert enlarged_labels(np.stack([1 - second.T, second.T]), (8, 1)).ravel().tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    same = softmax((3, 5, 7), 0)
    np.testing.assert_array_equal(enlarged_labels(same, (5, 7)), same.argmax(0))


def test_a_class_that_is_nowhere_first_does_not_appear() -> None:
    """Half way between the two pixels the third class would be first, with 0.4 against 0.3 and 0.3."""
    probabilities = np.array([[[0.6, 0.0]], [[0.0, 0.6]], [[0.4, 0.4]]], np.float32)
    assert set(enlarged_labels(probabilities, (1, 30)).ravel()) == {0, 1}
    assert not enlarged_labels(np.array([[[0.9, 0.8]], [[0.1, 0.2]]], np.float32), (3 * ROWS, 9)).any()


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS, ROWS + 1, 3 * ROWS])
def test_a_circle_stays_one(rows: int) -> None:
    """Its border is smooth: nearer to the true circle than the labels' own steps are, across the strips too."""
    ys, xs = np.mgrid[0:24, 0:24] + 0.5
    inside = 1 / (1 + np.exp(np.hypot(ys - 12, xs - 12) - 8)).astype(np.float32)
    size = rows, rows
    found = enlarged_labels(np.stack([1 - inside, inside]), size)
    ys, xs = (np.mgrid[0:rows, 0:rows] + 0.5) * 24 / rows
    true = np.hypot(ys - 12, xs - 12) < 8
    steps = np.asarray(inside > 0.5)[(ys.astype(int), xs.astype(int))]
    assert (found != true).mean() < 0.01 < (steps != true).mean()
