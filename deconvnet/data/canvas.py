"""Whole images on a square canvas of one size, as FCN sees them."""

import cv2
import numpy as np


def on_canvas(array: np.ndarray, side: int, fill: np.ndarray | int) -> np.ndarray:
    """An image or mask in the top left corner of a side x side canvas [R]; larger ones are shrunk to fit."""
    height, width = array.shape[:2]
    if max(height, width) > side:
        size = canvas_size(height, width, side)[::-1]
        array = cv2.resize(array, size, interpolation=cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST)
    canvas = np.empty((side, side, *array.shape[2:]), np.uint8)
    canvas[:] = np.round(fill)
    canvas[: array.shape[0], : array.shape[1]] = array
    return canvas


def canvas_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The height and width that an image takes on the canvas."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
