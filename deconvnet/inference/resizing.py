"""The two ways to resize a test window and its score map (recipe key infer.resize).

bilinear: OpenCV's, pixel centres aligned, no antialiasing. matlab: what MATLAB's imresize(..., 'bilinear') does and the
release was tested with [R]: when it shrinks, the triangle kernel is widened (antialiasing), and the image is mirrored
at its border.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_picture(picture: np.ndarray, side: int, method: str) -> Tensor:
    """A window's picture, uint8 H x W x 3, as float32 3 x side x side in 0 .. 255."""
    if method == "bilinear":
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))
    return _matlab(torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32)), side, side)


def resize_scores(scores: Tensor, height: int, width: int, method: str) -> Tensor:
    """A score map, float32 C x S x S, resized to C x height x width."""
    if method == "bilinear":
        return (_by_opencv if scores.device.type == "cpu" else _by_torch)(scores, height, width)
    return _matlab(scores, height, width)


def _by_opencv(scores: Tensor, height: int, width: int) -> Tensor:
    """The same as torch's up to rounding (torch's is the coarser one), in half of its time on a CPU."""
    resized = np.empty((len(scores), height, width), np.float32)
    for plane, to in zip(scores.float().numpy(), resized, strict=True):
        cv2.resize(plane, (width, height), dst=to, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized)


def _by_torch(scores: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]


def _matlab(planes: Tensor, height: int, width: int) -> Tensor:
    rows = matlab_weights(planes.shape[1], height).to(planes)
    columns = matlab_weights(planes.shape[2], width).to(planes)
    return rows @ planes @ columns.T


@lru_cache(maxsize=512)
def matlab_weights(before: int, after: int) -> Tensor:
    """imresize's weights for one axis: float32, after x before; each row sums to 1."""
    scale = after / before
    widening = min(scale, 1.0)  # below 1 the kernel grows to 1 / scale of its width
    reach = 1.0 / widening  # half the triangle's base
    centres = (np.arange(after) + 0.5) / scale - 0.5
    first = np.floor(centres - reach).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    weights = np.clip(1 - np.abs(taps - centres[:, None]) * widening, 0, None)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.abs((taps + before) % (2 * before) - before + 0.5) - 0.5  # ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, None], mirrored.astype(int)), weights)
    return torch.from_numpy(matrix.astype(np.float32))
