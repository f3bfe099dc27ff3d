"""From an image to scores: which windows, what the network is shown, where its scores land."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconvnet.inference.scoring import score_image, score_windows, scoring_windows, window_scores
from deconvnet.models.build import build_network
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from tests.reference_inference import MEAN, bilinear, imresize, window_about

CPU = torch.device("cpu")
SMALL = ["network.width=0.0625", "network.input=32", "windows.warp=32", "data.classes=[background,red,green,blue]"]


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("paper", [*SMALL, *overrides])


class Colours(nn.Module):
    """A network whose scores are known: class 0 a constant, classes 1 to 3 what it is shown in red, green and blue."""

    def __init__(self, constant: float = -1000.0) -> None:
        super().__init__()
        self.constant = constant
        self.batches: list[int] = []

    def forward(self, pictures: Tensor) -> Tensor:
        assert pictures.dtype == torch.float32
        self.batches.append(len(pictures))
        return torch.cat([torch.full_like(pictures[:, :1], self.constant), pictures], dim=1)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    corner = np.stack([random.integers(0, width - 4, count), random.integers(0, height - 4, count)], axis=1)
    size = random.integers(2, 60, (count, 2))
    return np.concatenate([corner, np.minimum(corner + size, [width, height])], axis=1).astype(np.int32)


@pytest.mark.parametrize("shape", ["tight", "square"])
@pytest.mark.parametrize("least", [0, 30, 112])
@pytest.mark.parametrize("count", [1, 5, 500])
def test_windows_by_loop(shape: str, least: int, count: int) -> None:
    recipe = small_recipe(f"windows.shape={shape}", f"infer.least_side={least}", f"infer.proposals={count}")
    boxes = random_boxes(60, 150, 200)
    expected = []
    for box in boxes:
        window = window_about(box, 1.2, shape == "square")
        if min(window[2] - window[0], window[3] - window[1]) >= least and len(expected) < count:
            expected.append(window)
    found = scoring_windows(boxes, recipe)
    assert found.dtype == np.int32 and found.shape == (len(expected), 4)
    assert [tuple(window) for window in found] == expected


def test_small_windows_are_skipped_before_the_first_are_taken() -> None:
    """The shorter side of the window counts, after the box was enlarged: 93 * 1.2 is 112, 92 * 1.2 is 110."""
    boxes = np.array([(0, 0, 92, 400), (5, 5, 98, 98), (0, 0, 10, 10), (0, 0, 100, 100), (0, 0, 200, 200)], np.int32)
    skipping = scoring_windows(boxes, small_recipe("infer.least_side=112", "infer.proposals=2"))
    assert [tuple(window) for window in skipping] == [(-4, -4, 108, 108), (-10, -10, 110, 110)]
    taking_all = scoring_windows(boxes, small_recipe("infer.proposals=2"))
    assert [tuple(window) for window in taking_all] == [(-9, -40, 101, 440), (-4, -4, 108, 108)]
    square = small_recipe("infer.least_side=112", "infer.proposals=1", "windows.shape=square")
    assert [tuple(window) for window in scoring_windows(boxes, square)] == [(-194, -40, 286, 440)]  # 480 x 480


def test_no_proposals() -> None:
    nothing = np.zeros((0, 4), np.int32)
    for least in (0, 112):
        assert scoring_windows(nothing, small_recipe(f"infer.least_side={least}")).shape == (0, 4)
    model = Colours()
    scores = score_windows(model, picture(9, 11), nothing, small_recipe(), CPU)
    assert scores.shape == (4, 9, 11) and not scores.any() and model.batches == []
    assert (scores.argmax(0) == 0).all()  # background


@pytest.mark.parametrize("aggregate", ["max", "sum", "mean"])
def test_batches_do_not_change_the_scores(aggregate: str) -> None:
    image, windows = picture(40, 50), random_boxes(7, 40, 50)
    model = build_network("deconvnet", small_recipe("network.deconv_std=0")).eval()
    found = [score_windows(model, image, windows, small_recipe(f"infer.window_batch={size}",
                                                               f"infer.aggregate={aggregate}"), CPU)
             for size in (1, 3, 7, 50)]
    assert found[0].std() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)
    model = Colours()
    score_windows(model, image, windows, small_recipe("infer.window_batch=3"), CPU)
    assert model.batches == [3, 3, 1]


def test_scores_lie_plane_by_plane() -> None:
    """As torch resizes them without a second copy; the network's own are in channels_last."""
    model = build_network("deconvnet", small_recipe()).eval().to(memory_format=torch.channels_last)
    found = window_scores(model, picture(40, 50), random_boxes(3, 40, 50), small_recipe(), CPU)
    assert all(scores.is_contiguous() for _, scores in found)


def test_a_window_of_the_networks_size_returns_its_own_pixels() -> None:
    """No resampling at all: what the network is shown is the picture minus the mean, RGB, unscaled."""
    image = picture(40, 50)
    window = np.array([[6, 3, 38, 35]], np.int32)
    scores = score_windows(Colours(), image, window, small_recipe(), CPU).numpy()
    expected = image[3:35, 6:38].transpose(2, 0, 1) - MEAN[:, None, None]
    np.testing.assert_allclose(scores[1:, 3:35, 6:38], expected, atol=1e-4)
    assert (scores[0, 3:35, 6:38] == -1000).all()
    outside = np.ones((40, 50), bool)
    outside[3:35, 6:38] = False
    assert (scores[:, outside] == 0).all()


@pytest.mark.parametrize(("outside", "fill"), [("mean", (123, 117, 104)), ("zero", (0, 0, 0))])
def test_what_the_network_is_shown_outside_the_image(outside: str, fill: tuple) -> None:
    shown = []

    class Seeing(Colours):
        def forward(self, pictures: Tensor) -> Tensor:
            shown.append(pictures.numpy())
            return super().forward(pictures)

    image = picture(40, 50)
    score_windows(Seeing(), image, np.array([[-10, -8, 22, 24]]), small_recipe(f"windows.outside={outside}"), CPU)
    expected = np.broadcast_to(np.array(fill)[:, None, None] - MEAN[:, None, None], (3, 32, 32)).copy()
    expected[:, 8:, 10:] = image[:24, :22].transpose(2, 0, 1) - MEAN[:, None, None]
    np.testing.assert_allclose(shown[0][0], expected, atol=1e-4)


@pytest.mark.parametrize("resize", ["bilinear", "matlab"])
def test_resampled_windows(resize: str) -> None:
    """Windows larger and smaller than the network, inside and across the border: resized there and back, maximum."""
    image = picture(40, 60)
    windows = [(2, 5, 58, 37), (-6, 10, 20, 27), (30, -9, 75, 31)]
    total = np.full((3, 40, 60), -np.inf)
    times = np.zeros((40, 60), int)
    for x1, y1, x2, y2 in windows:
        crop = np.empty((3, y2 - y1, x2 - x1))
        for y, x in np.ndindex(crop.shape[1:]):
            inside = 0 <= y + y1 < 40 and 0 <= x + x1 < 60
            crop[:, y, x] = image[y + y1, x + x1] if inside else (123, 117, 104)
        method = imresize if resize == "matlab" else bilinear
        scores = method(method(crop, 32, 32) - MEAN[:, None, None], y2 - y1, x2 - x1)
        for y, x in np.ndindex(crop.shape[1:]):
            if 0 <= y + y1 < 40 and 0 <= x + x1 < 60:
                total[:, y + y1, x + x1] = np.maximum(total[:, y + y1, x + x1], scores[:, y, x])
                times[y + y1, x + x1] += 1
    total = np.where(times < 3, np.maximum(total, 0), total)
    found = score_windows(Colours(), image, np.array(windows), small_recipe(f"infer.resize={resize}"), CPU).numpy()
    tolerance = 1.1 if resize == "bilinear" else 1e-3  # OpenCV rounds a picture to whole levels
    assert np.abs(found[1:] - total).max() < tolerance


def test_fcn_sees_the_image_in_the_corner_and_nothing_around() -> None:
    shown = []

    class Seeing(Colours):
        def forward(self, pictures: Tensor) -> Tensor:
            shown.append(pictures.numpy())
            return super().forward(pictures)

    image = picture(40, 30)
    scores = score_image(Seeing(), image, small_recipe(), CPU, 64)
    expected = np.zeros((3, 64, 64))  # minus the mean, then zeros [R]
    expected[:, :40, :30] = image.transpose(2, 0, 1) - MEAN[:, None, None]
    np.testing.assert_allclose(shown[0][0], expected, atol=1e-4)
    np.testing.assert_allclose(scores[1:], expected[:, :40, :30], atol=1e-4)
    assert scores.shape == (4, 40, 30)


@pytest.mark.parametrize(("height", "width"), [(100, 130), (65, 20), (64, 200)])
def test_fcn_on_a_larger_image(height: int, width: int) -> None:
    """Shrunk to the canvas and back: a smooth image comes back as it was, at its own size."""
    ys, xs = np.mgrid[:height, :width]
    image = np.stack([ys * 250 / height, xs * 250 / width, (ys + xs) * 125 / (height + width) + 50], axis=2)
    scores = score_image(Colours(), image.astype(np.uint8), small_recipe(), CPU, 64).numpy()
    assert scores.shape == (4, height, width)
    assert np.abs(scores[1:] + MEAN[:, None, None] - image.transpose(2, 0, 1)).max() < 8
