"""The inference for one image written plainly in NumPy, float64: as released, and as in the paper.

Written from the description of both, not from deconvnet.scoring or aggregate. Arrays of the networks are N x C x H x W,
score maps C x H x W, images RGB uint8 H x W x 3, windows (x1, y1, x2, y2) half-open.
"""

from math import ceil, floor

import cv2
import numpy as np
from pydensecrf import densecrf

from tests import reference_network
from tests.reference_network import BLOCKS, convolution

MEAN = np.array([122.675, 116.669, 104.008])  # of R, G, B: the release's (104.008, 116.669, 122.675) is in BGR order
WIDE = 1000  # more than any window leaves the image


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
    """Planes C x H x W, pixel by pixel: the weighted mean of the four neighbours of where a pixel's centre falls."""
    def place(index: int, before: int, after: int) -> tuple[int, int, float]:
        if align_corners:
            at = index * (before - 1) / max(1, after - 1)
        else:
            at = (index + 0.5) * before / after - 0.5
        at = min(max(at, 0.0), before - 1.0)
        low = int(at)
        return low, min(low + 1, before - 1), at - low

    out = np.zeros((len(planes), height, width))
    for y in range(height):
        top, bottom, down = place(y, planes.shape[1], height)
        for x in range(width):
            left, right, along = place(x, planes.shape[2], width)
            out[:, y, x] = ((1 - down) * ((1 - along) * planes[:, top, left] + along * planes[:, top, right])
                            + down * ((1 - along) * planes[:, bottom, left] + along * planes[:, bottom, right]))
    return out


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)


def window_about(box: np.ndarray, square: bool) -> tuple[int, int, int, int]:
    """1.2 times the box, same centre; sides and corner rounded to the nearest pixel."""
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = x2 - x1, y2 - y1
    if square:
        width = height = max(width, height)
    width, height = floor(1.2 * width + 0.5), floor(1.2 * height + 0.5)
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


def crf(image: np.ndarray, probabilities: np.ndarray, kernels: int) -> np.ndarray:
    """The release's parameters; labels H x W."""
    classes, height, width = probabilities.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    unary = -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).reshape(classes, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    field.addPairwiseGaussian(sxy=3, compat=3, normalization=kernels)
    field.addPairwiseBilateral(sxy=20, srgb=3, rgbim=np.ascontiguousarray(image), compat=5, normalization=kernels)
    return np.argmax(field.inference(10), axis=0).reshape(height, width)


def released(image: np.ndarray, boxes: np.ndarray, count: int, side: int, canvas: int, state: dict[str, np.ndarray],
             fcn_state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The release: scores, FCN's scores, probabilities and labels of an image, from its boxes, best first."""
    height, width = image.shape[:2]
    total: np.ndarray | float = 0.0
    used = 0
    for box in boxes:
        window = window_about(box, square=True)
        x1, y1, x2, y2 = window
        if min(x2 - x1, y2 - y1) < 112 or used == count:
            continue
        used += 1
        picture = cut_out(image, window, (0, 0, 0)).transpose(2, 0, 1).astype(float)
        scores = deconvnet(imresize(picture, side, side), state, 1e-9)
        scores = imresize(scores, y2 - y1, x2 - x1)
        total = np.maximum(total, place_in_image(scores, window, height, width, 0.0))
    fcn = fcn8s(image, fcn_state, canvas)
    probabilities = softmax(total * np.maximum(0, fcn))
    return {"scores": total, "fcn": fcn, "probabilities": probabilities,
            "labels": crf(image, probabilities, densecrf.NO_NORMALIZATION)}


def paper(image: np.ndarray, boxes: np.ndarray, count: int, side: int, canvas: int, state: dict[str, np.ndarray],
          fcn_state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The paper, and where it says nothing this project's choices: mean outside the image, OpenCV's bilinear."""
    height, width = image.shape[:2]
    maps = []
    for box in boxes[:count]:
        window = window_about(box, square=False)
        x1, y1, x2, y2 = window
        picture = cv2.resize(cut_out(image, window, (123, 117, 104)), (side, side), interpolation=cv2.INTER_LINEAR)
        scores = deconvnet(picture.transpose(2, 0, 1).astype(float), state, 1e-5)
        maps.append(place_in_image(bilinear(scores, y2 - y1, x2 - x1), window, height, width, 0.0))
    total = np.max(maps, axis=0)
    fcn = fcn8s(image, fcn_state, canvas)
    probabilities = (softmax(total) + softmax(fcn)) / 2
    return {"scores": total, "fcn": fcn, "probabilities": probabilities,
            "labels": crf(image, probabilities, densecrf.NORMALIZE_SYMMETRIC)}
