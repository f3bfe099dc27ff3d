"""Aggregation and ensemble against explicit loops over pixels and windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.inference.aggregation import Aggregation
from deconvnet.inference.ensemble import ensemble, softmax
from tests.reference_inference import bilinear

HEIGHT, WIDTH, CLASSES, SIDE = 13, 17, 4, 8
CPU = torch.device("cpu")
RULES = [("max", "zero_padding"), ("max", "start_zero"), ("sum", "zero_padding"), ("mean", "zero_padding")]
INSIDE, ACROSS, CORNER = (3, 2, 11, 10), (10, -3, 21, 9), (-4, -5, 4, 3)
OUTSIDE, LEFT_OF, BELOW, WHOLE = (18, 2, 25, 9), (-9, 1, 0, 8), (2, 13, 9, 20), (-2, -1, 19, 15)


def aggregated(windows: list, maps: list[np.ndarray], rule: str, outside: str = "zero_padding") -> np.ndarray:
    total = Aggregation(CLASSES, HEIGHT, WIDTH, rule, outside, CPU)
    for window, scores in zip(windows, maps, strict=True):
        total.add(torch.from_numpy(scores), np.array(window, np.int32), "bilinear")
    return total.result().numpy()


def by_loops(windows: list, maps: list[np.ndarray], rule: str, outside: str) -> np.ndarray:
    """Each pixel of each class from all the windows' scores there."""
    resized = [bilinear(scores, y2 - y1, x2 - x1)
               for (x1, y1, x2, y2), scores in zip(windows, maps, strict=True)]
    result = np.zeros((CLASSES, HEIGHT, WIDTH))
    for label, y, x in np.ndindex(result.shape):
        covered = [one[label, y - y1, x - x1] for (x1, y1, x2, y2), one in zip(windows, resized, strict=True)
                   if x1 <= x < x2 and y1 <= y < y2]
        padded = covered + [0.0] * (len(windows) - len(covered))
        if rule == "max":
            result[label, y, x] = max([0.0, *covered] if outside == "start_zero" else padded or [0.0])
        elif rule == "sum":
            result[label, y, x] = sum(padded)
        elif covered:
            result[label, y, x] = sum(covered) / len(covered)
    return result


def score_maps(count: int, seed: int = 0, shift: float = -1.0) -> list[np.ndarray]:
    """Mostly negative, so that the rules for what lies outside a window matter."""
    random = np.random.default_rng(seed)
    return [(random.normal(size=(CLASSES, SIDE, SIDE)) + shift).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("rule", "outside"), RULES)
@pytest.mark.parametrize("windows", [
    [INSIDE], [ACROSS], [CORNER], [OUTSIDE], [LEFT_OF, BELOW], [WHOLE], [WHOLE, (-3, -3, 18, 14)], [],
    [INSIDE, ACROSS, CORNER, OUTSIDE, WHOLE], [INSIDE, INSIDE, (5, 5, 6, 6)],
], ids=str)
def test_equals_explicit_loops(windows: list, rule: str, outside: str) -> None:
    maps = score_maps(len(windows))
    found = aggregated(windows, maps, rule, outside)
    assert found.dtype == np.float32 and found.shape == (CLASSES, HEIGHT, WIDTH)
    np.testing.assert_allclose(found, by_loops(windows, maps, rule, outside), atol=1e-5)


boxes = st.tuples(st.integers(-6, 20), st.integers(-6, 16), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]))


@settings(max_examples=40, deadline=None)
@given(windows=st.lists(boxes, max_size=4), case=st.sampled_from(RULES), seed=st.integers(0, 99), data=st.data())
def test_any_windows_in_any_order(windows: list, case: tuple[str, str], seed: int, data: st.DataObject) -> None:
    maps = score_maps(len(windows), seed)
    found = aggregated(windows, maps, *case)
    np.testing.assert_allclose(found, by_loops(windows, maps, *case), atol=1e-5)
    order = data.draw(st.permutations(range(len(windows))))
    other = aggregated([windows[i] for i in order], [maps[i] for i in order], *case)
    np.testing.assert_allclose(other, found, atol=1e-5)


def constant(*scores: float) -> np.ndarray:
    return np.broadcast_to(np.array(scores, np.float32)[:, None, None], (len(scores), SIDE, SIDE)).copy()


def test_what_lies_outside_tells_the_two_starts_apart() -> None:
    """One window over everything, all scores below zero: they stay with zero padding, and are lost with start 0."""
    scores = [constant(-3, -1, -2, -4)]
    assert (aggregated([WHOLE], scores, "max", "zero_padding")[:, 5, 5] == [-3, -1, -2, -4]).all()
    assert (aggregated([WHOLE], scores, "max", "start_zero")[:, 5, 5] == 0).all()
    # A window that does not cover the pixel counts as zero there, even one that does not touch the image.
    two = [constant(-3, -1, -2, -4), constant(9, 9, 9, 9)]
    for other in (CORNER, OUTSIDE):
        assert (aggregated([WHOLE, other], two, "max", "zero_padding")[:, 8, 8] == 0).all()


def test_by_hand() -> None:
    """Two windows that share the middle columns; class 1 wins by max, class 2 by sum, and none where nothing is."""
    windows = [(0, 0, 8, 5), (4, 0, 12, 5)]
    maps = [constant(0, 5, 3, -1), constant(0, -4, 3, -1)]
    at = {"left": 2, "both": 6, "right": 10, "none": 14}
    expected = {
        "max": {"left": (0, 5, 3, 0), "both": (0, 5, 3, -1), "right": (0, 0, 3, 0), "none": (0, 0, 0, 0)},
        "sum": {"left": (0, 5, 3, -1), "both": (0, 1, 6, -2), "right": (0, -4, 3, -1), "none": (0, 0, 0, 0)},
        "mean": {"left": (0, 5, 3, -1), "both": (0, .5, 3, -1), "right": (0, -4, 3, -1), "none": (0, 0, 0, 0)},
    }
    for rule, places in expected.items():
        found = aggregated(windows, maps, rule)
        for place, values in places.items():
            np.testing.assert_allclose(found[:, 2, at[place]], values, atol=1e-6, err_msg=f"{rule}, {place}")
        assert (found[:, 5:] == 0).all() and (found.argmax(0)[5:] == 0).all()  # background


def test_max_is_over_scores_not_over_probabilities() -> None:
    """The window that is surer, relative to its own other classes, need not have the higher score."""
    sure, high = (0.0, 4.0, 0.0, 0.0), (9.0, 8.0, 10.0, 9.0)
    found = aggregated([WHOLE, WHOLE], [constant(*sure), constant(*high)], "max")[:, 6, 6]
    assert tuple(found) == high and found.argmax() == 2
    probabilities = np.maximum(*(np.exp(one) / np.exp(one).sum() for one in (np.array(sure), np.array(high))))
    assert probabilities.argmax() == 1


@pytest.mark.parametrize("rule", ["max", "sum", "mean"])
def test_memory_does_not_grow_with_the_windows(rule: str) -> None:
    total = Aggregation(CLASSES, HEIGHT, WIDTH, rule, "zero_padding", CPU)

    def held() -> int:
        return sum(value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 1
                   for value in vars(total).values() if not isinstance(value, str))

    before, names = held(), set(vars(total))
    for scores in score_maps(20):
        total.add(torch.from_numpy(scores), np.array(ACROSS), "bilinear")
    assert held() == before and set(vars(total)) == names


def test_half_precision_scores_are_added_in_full() -> None:
    total = Aggregation(1, 4, 4, "sum", "zero_padding", CPU)
    for value in (2048.0, 1.0, 1.0):  # 2048 + 1 is no float16
        total.add(torch.full((1, 4, 4), value, dtype=torch.float16), np.array((0, 0, 4, 4)), "bilinear")
    assert (total.result() == 2050).all()


def explicit_softmax(scores: np.ndarray) -> np.ndarray:
    result = np.empty(scores.shape)
    for y, x in np.ndindex(scores.shape[1:]):
        powers = np.exp(scores[:, y, x].astype(float) - scores[:, y, x].max())
        result[:, y, x] = powers / powers.sum()
    return result


def test_softmax() -> None:
    scores = np.random.default_rng(4).normal(0, 20, (CLASSES, 5, 6)).astype(np.float32)
    scores[:, 0, 0] = 1000, 0, -1000, 999
    np.testing.assert_allclose(softmax(scores), explicit_softmax(scores), atol=1e-6)
    assert softmax(scores.astype(np.float16)).dtype == np.float32


def test_ensembles() -> None:
    random = np.random.default_rng(5)
    one, other = (random.normal(0, 3, (CLASSES, 6, 7)).astype(np.float32) for _ in range(2))
    mean = (explicit_softmax(one) + explicit_softmax(other)) / 2
    product = np.empty(one.shape)
    for place in np.ndindex(one.shape):
        product[place] = one[place] * max(0.0, other[place])
    np.testing.assert_allclose(ensemble(one, other, "mean"), mean, atol=1e-6)
    np.testing.assert_allclose(ensemble(one, other, "product"), explicit_softmax(product), atol=1e-5)
    assert (mean.argmax(0) != product.argmax(0)).any()
    swapped = ensemble(other, one, "product")  # only FCN's negative scores are cut
    assert np.abs(swapped - ensemble(one, other, "product")).max() > 0.1


def test_ensemble_by_hand() -> None:
    """DeconvNet 2, 1; FCN -1, 3: the mean of (.731, .269) and (.018, .982); the product's scores are 0 and 3."""
    one, other = (np.array(values, np.float32).reshape(2, 1, 1) for values in ((2, 1), (-1, 3)))
    np.testing.assert_allclose(ensemble(one, other, "mean").ravel(), (0.37452, 0.62548), atol=1e-5)
    np.testing.assert_allclose(ensemble(one, other, "product").ravel(), (0.04743, 0.95257), atol=1e-5)


def test_ensemble_of_different_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        ensemble(np.zeros((2, 3, 4), np.float32), np.zeros((2, 4, 3), np.float32), "mean")


@pytest.mark.parametrize("outside", ["zero_padding", "start_zero"])
def test_the_map_is_finished_in_place(outside: str) -> None:
    """A large image's map is gigabytes."""
    total = Aggregation(3, 8, 9, "max", outside, torch.device("cpu"))
    for window in ((0, 0, 9, 8), (2, 3, 9, 8)):
        total.add(torch.full((3, 4, 4), -1.0), np.array(window), "bilinear")
    before = total.map.data_ptr()
    assert total.result().data_ptr() == before
    expected = np.zeros((8, 9)) if outside == "start_zero" else np.where(
        (np.arange(8)[:, None] >= 3) & (np.arange(9) >= 2), -1.0, 0.0)
    for plane in total.result().numpy():
        assert plane.tolist() == expected.tolist()
