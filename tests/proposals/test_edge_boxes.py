"""EdgeBoxes: where the boxes are, that nothing is kept between images, and the limits of its parameters."""

import cv2
import numpy as np
import pytest

from deconvnet.support.errors import UsageError
from proposals.edge_boxes import propose
from proposals.edges import GradientDetector

SETTINGS = {"alpha": 0.65, "beta": 0.75, "eta": 1.0, "min_score": 0.01}


def rectangle_image(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    image = np.full((*size, 3), 40, np.uint8)
    image[y1:y2, x1:x2] = (220, 60, 30)
    return image


def photograph(seed: int) -> np.ndarray:
    """Blurred noise: edges everywhere, in no order."""
    noise = np.random.default_rng(seed).normal(size=(120, 150, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.clip(128 + smooth * 700, 0, 255).astype(np.uint8)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes, counted pixel by pixel."""
    canvas = np.zeros((2, 400, 400), bool)
    canvas[0, a[1]:a[3], a[0]:a[2]] = True
    canvas[1, b[1]:b[3], b[0]:b[2]] = True
    return canvas.all(0).sum() / canvas.any(0).sum()


def test_a_rectangle_is_found_and_centred() -> None:
    """EdgeBoxes draws its boxes a few pixels outside the edges, the same on either side."""
    offsets = []
    for x1, y1, x2, y2 in [(50, 40, 330, 250), (61, 52, 341, 260), (70, 60, 301, 227), (84, 61, 363, 268)]:
        truth = np.array([x1, y1, x2, y2])
        boxes, _ = propose(GradientDetector()(rectangle_image(*truth, size=(310, 400))), 50, **SETTINGS)
        assert max(overlap(box, truth) for box in boxes[:3]) > 0.8
        best = max(boxes[:3], key=lambda box, truth=truth: overlap(box, truth))
        offsets.append((best[:2] + best[2:] - truth[:2] - truth[2:]) / 2)
    assert np.abs(np.mean(offsets, 0)).max() <= 1.5, offsets


def test_corners_are_0_based() -> None:
    """Boxes at the left and top border tell: OpenCV's own corners begin with 1 and never have 0."""
    edges = GradientDetector()(photograph(6))
    raw, _ = cv2.ximgproc.createEdgeBoxes(maxBoxes=2000, minScore=0.01).getBoundingBoxes(edges.strength,
                                                                                         edges.orientation)
    assert raw[:, 0].min() == 1 and raw[:, 1].min() == 1
    boxes, _ = propose(edges, 2000, **SETTINGS)
    assert boxes[:, 0].min() == 0 and boxes[:, 1].min() == 0
    as_corners = {(x - 1, y - 1, x - 1 + width, y - 1 + height) for x, y, width, height in raw.tolist()}
    assert {tuple(box) for box in boxes.tolist()} == as_corners


def test_opencv_gets_the_parameters_and_its_boxes_are_cut_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of our own tells what it was given, and answers with 1-based boxes (x, y, w, h) that stick out."""
    given = {}

    class Engine:
        def __init__(self, **parameters: float) -> None:
            given.update(parameters)

        def getBoundingBoxes(self, strength: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.array([[1, 1, 20, 10], [-4, 5, 300, 20], [150, 110, 30, 40], [200, 1, 9, 9]]), np.arange(4.0)

    monkeypatch.setattr(cv2.ximgproc, "createEdgeBoxes", Engine)
    boxes, scores = propose(GradientDetector()(photograph(1)), 7, alpha=0.6, beta=0.7, eta=0.8, min_score=0.05)
    assert given == {"alpha": 0.6, "beta": 0.7, "eta": 0.8, "minScore": 0.05, "maxBoxes": 7}
    assert boxes.tolist() == [[149, 109, 150, 120], [0, 4, 150, 24], [0, 0, 20, 10]]  # of an image 150 wide, 120 high
    assert scores.tolist() == [2, 1, 0]


def test_a_second_image_does_not_change_the_first() -> None:
    maps = [GradientDetector()(photograph(seed)) for seed in (1, 2)]
    there = [propose(edges, 300, **SETTINGS) for edges in maps]
    back = [propose(edges, 300, **SETTINGS) for edges in maps[::-1]][::-1]
    assert all(len(boxes) > 20 for boxes, _ in there)
    for (boxes, scores), (boxes_again, scores_again) in zip(there, back, strict=True):
        np.testing.assert_array_equal(boxes, boxes_again)
        np.testing.assert_array_equal(scores, scores_again)


def test_boxes_are_sorted_within_the_image_and_at_most_count() -> None:
    edges = GradientDetector()(photograph(3))
    boxes, scores = propose(edges, 25, **SETTINGS)
    assert boxes.shape == (25, 4) and boxes.dtype == np.int32
    assert scores.shape == (25,) and scores.dtype == np.float32
    assert (np.diff(scores) <= 0).all() and scores.min() >= np.float32(0.01)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes[:, 2] <= 150).all() and (boxes[:, 3] <= 120).all()


def test_count_holds_where_suppression_is_off() -> None:
    boxes, scores = propose(GradientDetector()(photograph(4)), 30, **{**SETTINGS, "beta": 1.0})
    assert len(boxes) == len(scores) == 30 and (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 3), (31, 31), (33, 33), (80, 120)])
def test_nothing_to_find(size: tuple[int, int]) -> None:
    boxes, scores = propose(GradientDetector()(np.full((*size, 3), 77, np.uint8)), 10, **SETTINGS)
    assert boxes.shape == (0, 4) and boxes.dtype == np.int32
    assert scores.shape == (0,) and scores.dtype == np.float32


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5])
def test_a_step_that_cannot_be_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="proposals.alpha"):
        propose(GradientDetector()(photograph(5)), 10, **{**SETTINGS, "alpha": alpha})
