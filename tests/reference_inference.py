"""The inference for one image written plainly in NumPy, float64: as released, as in the paper, or any mixture.

Written from the description of both, not from deconvnet/inference. Arrays of the networks are N x C x H x W,
score maps C x H x W, images RGB uint8 H x W x 3, windows (x1, y1, x2, y2) half-open.
"""

from math import ceil, floor
from typing import Any

import cv2
import numpy as np
from pydensecrf import densecrf

from tests import reference_network
from tests.reference_network import BLOCKS, convolution

MEAN = np.array([122.675, 116.669, 104.008])  # of R, G, B: the release's (104.008, 116.669, 122.675) is in BGR order
WIDE = 300  # more than any window leaves the image

Keys = dict[str, Any]  # by the names of the recipe's keys; the values are written down here, not read from the recipe
PAPER: Keys = {  # where the paper says nothing, this project's choice: mean outside the image, OpenCV's bilinear
    "network.input": 224, "network.bn_eps": 1e-5, "fcn.canvas": 500,
    "windows.enlarge": 1.2, "windows.shape": "tight", "windows.outside": "mean",
    "infer.proposals": 50, "infer.least_side": 0, "infer.resize": "bilinear", "infer.aggregate": "max",
    "infer.outside": "zero_padding", "infer.ensemble_rule": "mean",
    "crf.gaussian_sxy": 3, "crf.gaussian_weight": 3, "crf.bilateral_sxy": 20, "crf.bilateral_srgb": 3,
    "crf.bilateral_weight": 5, "crf.iterations": 10, "crf.normalization": "symmetric",
    "crf.least_probability": 0.1,
}
RELEASED: Keys = PAPER | {
    "network.bn_eps": 1e-9, "windows.shape": "square", "windows.outside": "zero", "infer.least_side": 112,
    "infer.resize": "matlab", "infer.outside": "start_zero", "infer.ensemble_rule": "product",
    "crf.normalization": "none",
}


def contributions(before: int, after: int) -> np.ndarray:
    """MATLAB's contributions() for a bilinear imresize with antialiasing, 1-based as there; dense, after x before."""
    scale = after / before
    width = 2.0 / scale if scale < 1 else 2.0

    def kernel(x: float) -> float:
        if scale < 1:
            x *= scale
        return (x + 1) * (-1 <= x < 0) + (1 - x) * (0 <= x <= 1)  # times scale there, which the sum takes out again

    auxiliary = [*range(1, before + 1), *range(before, 0, -1)]
    matrix = np.zeros((after, before))
    for x in range(1, after + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = floor(u - width / 2)
        indices = [left + p for p in range(ceil(width) + 2)]
        weights = [kernel(u - index) for index in indices]
        for index, weight in zip(indices, weights, strict=True):
            matrix[x - 1, auxiliary[(index - 1) % len(auxiliary)] - 1] += weight / sum(weights)
    return matrix


def imresize(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's imresize(..., 'bilinear') of planes C x H x W."""
    rows, columns = contributions(planes.shape[1], height), contributions(planes.shape[2], width)
    return np.stack([rows @ plane @ columns.T for plane in planes])


def bilinear(planes: np.ndarray, height: int, width: int, align_corners: bool = False) -> np.ndarray:
    """Planes C x H x W, resized: the weighted mean of the four neighbours of where a pixel's centre falls."""
    def weights(before: int, after: int) -> np.ndarray:
        matrix = np.zeros((after, before))
        for index in range(after):
            if align_corners:
                at = index * (before - 1) / max(1, after - 1)
            else:
                at = (index + 0.5) * before / after - 0.5
            at = min(max(at, 0.0), before - 1.0)
            low = int(at)
            matrix[index, low] += 1 - (at - low)
            matrix[index, min(low + 1, before - 1)] += at - low
        return matrix

    rows, columns = weights(planes.shape[1], height), weights(planes.shape[2], width)
    return np.stack([rows @ plane @ columns.T for plane in planes])


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)


def window_about(box: np.ndarray, factor: float, square: bool) -> tuple[int, int, int, int]:
    """The box times a factor, same centre; sides and corner rounded to the nearest pixel."""
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = x2 - x1, y2 - y1
    if square:
        width = height = max(width, height)
    width, height = floor(factor * width + 0.5), floor(factor * height + 0.5)
    left, top = floor((x1 + x2) / 2 - width / 2 + 0.5), floor((y1 + y2) / 2 - height / 2 + 0.5)
    return left, top, left + width, top + height


def cut_out(image: np.ndarray, window: tuple[int, int, int, int], fill: tuple[int, int, int]) -> np.ndarray:
    wide = np.stack([np.pad(image[..., channel], WIDE, constant_values=fill[channel]) for channel in range(3)], axis=2)
    x1, y1, x2, y2 = (value + WIDE for value in window)
    return wide[y1:y2, x1:x2]


def place_in_image(window_scores: np.ndarray, window: tuple[int, int, int, int], height: int, width: int,
                   around: float) -> np.ndarray:
    """A window's scores where they lie in the image, `around` elsewhere."""
    wide = np.full((len(window_scores), height + 2 * WIDE, width + 2 * WIDE), around)
    x1, y1, x2, y2 = (value + WIDE for value in window)
    wide[:, y1:y2, x1:x2] = window_scores
    return wide[:, WIDE : WIDE + height, WIDE : WIDE + width]


def deconvnet(picture: np.ndarray, state: dict[str, np.ndarray], eps: float) -> np.ndarray:
    """Scores C x S x S of a picture 3 x S x S in 0 .. 255."""
    return reference_network.forward((picture - MEAN[:, None, None])[None], state, eps, False)[0]


def fcn8s(image: np.ndarray, state: dict[str, np.ndarray], canvas: int) -> np.ndarray:
    """FCN-8s as published: image minus mean, zeros below and to the right; the scores cut back to the image."""
    height, width = image.shape[:2]
    x = np.zeros((1, 3, canvas, canvas))
    x[0, :, :height, :width] = (image - MEAN).transpose(2, 0, 1)
    pools = {}
    for block, count in BLOCKS.items():
        for i in range(1, count + 1):
            pad = 100 if (block, i) == (1, 1) else 1
            x = np.maximum(0, convolution(x, state[f"conv{block}_{i}.weight"], state[f"conv{block}_{i}.bias"], pad))
        even = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)), constant_values=-np.inf)
        x = np.max([even[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], axis=0)
        pools[block] = x
    for name in ("fc6", "fc7"):
        x = np.maximum(0, convolution(x, state[f"{name}.weight"], state[f"{name}.bias"], 0))
    x = convolution(x, state["score_fr.weight"], state["score_fr.bias"], 0)
    for name, block, offset in (("upscore2", 4, 5), ("upscore_pool4", 3, 9)):
        x = upsample(x, state[f"{name}.weight"], 2)
        skip = convolution(pools[block], state[f"score_pool{block}.weight"], state[f"score_pool{block}.bias"], 0)
        x = x + skip[:, :, offset : offset + x.shape[2], offset : offset + x.shape[3]]
    x = upsample(x, state["upscore8.weight"], 8)
    return x[0, :, 31 : 31 + height, 31 : 31 + width]


def upsample(x: np.ndarray, weight: np.ndarray, factor: int) -> np.ndarray:
    """Each input adds its weight (in x out x 2f x 2f) at f times its place."""
    side = weight.shape[2]
    height, width = x.shape[2:]
    out = np.zeros((1, weight.shape[1], (height - 1) * factor + side, (width - 1) * factor + side))
    for row in range(height):
        for column in range(width):
            added = np.einsum("i,ioyx->oyx", x[0, :, row, column], weight)
            out[0, :, row * factor : row * factor + side, column * factor : column * factor + side] += added
    return out


def window_scores(image: np.ndarray, boxes: np.ndarray, keys: Keys, state: dict[str, np.ndarray]) -> np.ndarray:
    """DeconvNet's aggregated scores of an image, from its boxes, best first."""
    height, width = image.shape[:2]
    side, matlab = keys["network.input"], keys["infer.resize"] == "matlab"
    fill = {"mean": (123, 117, 104), "zero": (0, 0, 0)}[keys["windows.outside"]]
    maps, seen = [], []
    for box in boxes:
        window = window_about(box, keys["windows.enlarge"], keys["windows.shape"] == "square")
        x1, y1, x2, y2 = window
        if min(x2 - x1, y2 - y1) < keys["infer.least_side"] or len(maps) == keys["infer.proposals"]:
            continue
        picture = cut_out(image, window, fill)
        if matlab:
            picture = imresize(picture.transpose(2, 0, 1).astype(float), side, side)
        else:
            picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1).astype(float)
        scores = (imresize if matlab else bilinear)(deconvnet(picture, state, keys["network.bn_eps"]), y2 - y1, x2 - x1)
        maps.append(place_in_image(scores, window, height, width, 0.0))
        seen.append(place_in_image(np.ones((1, y2 - y1, x2 - x1)), window, height, width, 0.0))
    if not maps:
        return np.zeros((len(state["seg_score_voc.bias"]), height, width))
    if keys["infer.aggregate"] == "sum":
        return np.sum(maps, axis=0)
    if keys["infer.aggregate"] == "mean":
        return np.sum(maps, axis=0) / np.maximum(np.sum(seen, axis=0), 1)
    return np.max(maps, axis=0, **({"initial": 0.0} if keys["infer.outside"] == "start_zero" else {}))


def together(scores: np.ndarray, fcn: np.ndarray, keys: Keys) -> np.ndarray:
    """The ensemble's probabilities, of DeconvNet's and FCN's scores."""
    if keys["infer.ensemble_rule"] == "product":
        return softmax(scores * np.maximum(0, fcn))
    return (softmax(scores) + softmax(fcn)) / 2


def crf(image: np.ndarray, probabilities: np.ndarray, keys: Keys) -> np.ndarray:
    """Labels H x W. Only classes that reach a probability somewhere, or win a pixel, are given to the library."""
    winners = probabilities.argmax(0)
    part = [c for c in range(len(probabilities))
            if probabilities[c].max() >= keys["crf.least_probability"] or (winners == c).any()]
    if len(part) == 1:
        return winners
    probabilities = probabilities[part]
    classes, height, width = probabilities.shape
    kernels = {"none": densecrf.NO_NORMALIZATION, "symmetric": densecrf.NORMALIZE_SYMMETRIC}[keys["crf.normalization"]]
    field = densecrf.DenseCRF2D(width, height, classes)
    unary = -np.log(np.maximum(probabilities, 1.17549435e-38)).reshape(classes, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=keys["crf.gaussian_sxy"], compat=keys["crf.gaussian_weight"], normalization=kernels)
    field.addPairwiseBilateral(sxy=keys["crf.bilateral_sxy"], srgb=keys["crf.bilateral_srgb"],
                               rgbim=np.ascontiguousarray(image), compat=keys["crf.bilateral_weight"],
                               normalization=kernels)
    return np.array(part)[np.argmax(field.inference(keys["crf.iterations"]), axis=0).reshape(height, width)]
