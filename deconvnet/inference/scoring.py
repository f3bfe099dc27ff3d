"""From an image to a score map: over windows, as DeconvNet (section 5), or over the whole image, as FCN."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet.conventions import MEAN_RGB
from deconvnet.data.canvas import canvas_size, on_canvas
from deconvnet.data.windows import cut, enlarge, outside_value
from deconvnet.inference.aggregation import Aggregation
from deconvnet.inference.resizing import resize_picture, resize_scores
from deconvnet.recipe import Recipe
from deconvnet.runtime import autocast, network_input


def scoring_windows(boxes: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The windows (int32 N x 4) that an image is scored in: its best proposals, enlarged.

    boxes: proposals (int32 M x 4) by decreasing objectness. Windows with a shorter side under infer.least_side are
    skipped first, then the first infer.proposals are taken [R].
    """
    windows = enlarge(boxes, recipe.windows.enlarge, recipe.windows.shape)
    shorter = (windows[:, 2:] - windows[:, :2]).min(1, initial=np.iinfo(np.int32).max)
    return windows[shorter >= recipe.infer.least_side][: recipe.infer.proposals]


@torch.inference_mode()
def score_windows(model: nn.Module, image: np.ndarray, windows: np.ndarray, recipe: Recipe,
                  device: torch.device) -> Tensor:
    """The aggregated scores of an image by a network that sees windows, float32 C x H x W on the device.

    image: RGB uint8 H x W x 3; windows: int32 N x 4, may leave the image. They pass through the network
    infer.window_batch at a time, in their own order.
    """
    keys = recipe.infer
    height, width = image.shape[:2]
    total = Aggregation(len(recipe.data.classes), height, width, keys.aggregate, keys.outside, device)
    for window, scores in window_scores(model, image, windows, recipe, device):
        total.add(scores, window, keys.resize)
    return total.result()


@torch.inference_mode()
def window_scores(model: nn.Module, image: np.ndarray, windows: np.ndarray, recipe: Recipe,
                  device: torch.device) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Each window with its own scores, float32 C x S x S on the device, before they are aggregated."""
    keys, fill = recipe.infer, outside_value(recipe.windows)
    for first in range(0, len(windows), keys.window_batch):
        batch = windows[first : first + keys.window_batch]
        pictures = torch.stack([resize_picture(cut(image, window, fill), recipe.network.input, keys.resize)
                                for window in batch])
        yield from zip(batch, forward(model, pictures, recipe, device), strict=True)


@torch.inference_mode()
def score_image(model: nn.Module, image: np.ndarray, recipe: Recipe, device: torch.device, side: int) -> Tensor:
    """The scores of an image by a network that sees it whole, as FCN does: float32 C x H x W on the device.

    side: of its canvas. The image stands in the canvas's top left corner, with zeros around it once the mean is off,
    and the scores are cut back [R]; a larger image is shrunk to the canvas and its scores are enlarged again.
    """
    height, width = image.shape[:2]
    rows, columns = canvas_size(height, width, side)
    pictures = torch.from_numpy(MEAN_RGB)[None, :, None, None].repeat(1, 1, side, side)
    pictures[0, :, :rows, :columns] = torch.from_numpy(
        on_canvas(image, side, MEAN_RGB)[:rows, :columns].transpose(2, 0, 1).copy())
    scores = forward(model, pictures, recipe, device)[0, :, :rows, :columns]
    return scores if (rows, columns) == (height, width) else resize_scores(scores, height, width, "bilinear")


def forward(model: nn.Module, pictures: Tensor, recipe: Recipe, device: torch.device) -> Tensor:
    """The network's scores, float32 N x C x H x W on the device, of pictures N x 3 x H x W in 0 .. 255."""
    layout = torch.channels_last if recipe.runtime.channels_last else torch.contiguous_format
    inputs = network_input(pictures.to(device)).contiguous(memory_format=layout)
    with autocast(recipe.runtime, device):
        return model(inputs).float().contiguous()  # resized in channels_last, they would take twice the memory
