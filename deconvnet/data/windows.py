"""Windows: the enlarged boxes around objects and proposals, the crops taken there, and their labels."""

import cv2
import numpy as np

from deconvnet.conventions import MEAN_RGB, VOID
from deconvnet.data.voc import VocObject, inside
from deconvnet.recipe import Windows
from deconvnet.support.errors import UserError

MOST_PIXELS = 1 << 27  # per window; its score map of 21 classes takes 11 GB
PAIRS_AT_ONCE = 1 << 20  # boxes compared in one step, which takes about 100 bytes per pair


def enlarge(boxes: np.ndarray, factor: float, shape: str) -> np.ndarray:
    """Windows about boxes (N x 4 int), same centres, sides times `factor` [P 6.1]; they may reach outside the image.

    shape: 'tight' enlarges both sides, 'square' makes both factor * max(w, h) [R]. Returns N x 4 int32; each side
    is rounded to the nearest pixel, so a window is never empty. Raises UserError for windows of more than MOST_PIXELS.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = boxes[:, 2:] - boxes[:, :2]
    if shape == "square":
        size = np.repeat(size.max(1, keepdims=True), 2, axis=1)
    size = np.maximum(np.floor(size * factor + 0.5), 1)
    corner = np.floor(centre - size / 2 + 0.5)
    windows = np.concatenate([corner, corner + size], axis=1)
    if size.prod(1).max(initial=0) > MOST_PIXELS or np.abs(windows).max(initial=0) >= 2**31:
        width, height = size[size.prod(1).argmax()]
        raise UserError(f"a box enlarged {factor:g} times becomes a window of {width:.0f} x {height:.0f} pixels; at "
                        f"most {MOST_PIXELS:,} pixels are possible: use a smaller image or windows.enlarge")
    return windows.astype(np.int32)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every box (N x 4) with every other (M x 4): float64, N x M."""
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(2)
    areas = [np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - intersection
    return intersection / union


def best_overlap(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each box (N x 4) the index of the other (M x 4, M > 0) of largest IoU, and that IoU: int64 N, float64 N.

    The whole matrix is never held: 2,000 proposals and 30,000 specks would take gigabytes.
    """
    rows = max(1, PAIRS_AT_ONCE // len(others))
    index, iou = np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    for first in range(0, len(boxes), rows):
        some = slice(first, first + rows)
        table = overlap(boxes[some], others)
        index[some], iou[some] = table.argmax(1), table.max(1)
    return index, iou


def cut(array: np.ndarray, window: np.ndarray, fill: np.ndarray | int) -> np.ndarray:
    """The crop of an image (H x W x 3) or mask (H x W) in a window; `fill` outside the image.

    array: uint8, float32 or int32; OpenCV pads no bool, and int64 wrongly.
    A window inside the image gives a view of it, which costs nothing.
    """
    x1, y1, x2, y2 = (int(value) for value in window)
    height, width = array.shape[:2]
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left >= right or top >= bottom:
        result = np.empty((y2 - y1, x2 - x1, *array.shape[2:]), array.dtype)
        result[:] = fill
        return result
    inner = array[top:bottom, left:right]
    if (left, top, right, bottom) == (x1, y1, x2, y2):
        return inner
    colour = np.broadcast_to(fill, array.shape[2:] or 1).tolist()
    return cv2.copyMakeBorder(inner, top - y1, y2 - bottom, left - x1, x2 - right, cv2.BORDER_CONSTANT, value=colour)


def outside_value(recipe: Windows) -> np.ndarray:
    """The colour outside the image (uint8, RGB), recipe key windows.outside."""
    return np.round(MEAN_RGB if recipe.outside == "mean" else 0 * MEAN_RGB).astype(np.uint8)


def window_picture(image: np.ndarray, window: np.ndarray, recipe: Windows) -> np.ndarray:
    """A training window's picture, warped to windows.warp: uint8, S x S x 3."""
    picture = cut(image, window, outside_value(recipe))
    side = recipe.warp
    shrinks = min(picture.shape[:2]) > side
    method = cv2.INTER_AREA if recipe.resize == "area" and shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (side, side), interpolation=method)


def window_labels(labels: np.ndarray, window: np.ndarray, side: int) -> np.ndarray:
    """A training window's labels, warped to side x side by nearest neighbour (cv2's, as [R]); void outside."""
    return cv2.resize(cut(labels, window, VOID), (side, side), interpolation=cv2.INTER_NEAREST)


def object_labels(mask: np.ndarray, item: VocObject) -> np.ndarray:
    """Stage 1 labels (uint8 H x W): the object's own pixels keep their class, void stays, the rest is background.

    "only that object's class is labelled, every other object in the window becomes background" [P 4.2]; that holds
    for other objects of the same class too.
    """
    labels = np.where(mask == VOID, mask, 0)
    inside(labels, item.box)[item.mask] = item.class_index
    return labels
