"""Labels of a photograph that was labelled smaller than it is, at its full size.

The probabilities are enlarged (bilinear), then the most probable class is taken: borders become smooth lines between
the pixels of the smaller map, where enlarged labels would have its steps. A few rows at a time: the memory that this
takes grows with the width of the photograph, not with its pixels times the classes.
"""

import cv2
import numpy as np

ROWS = 64  # at a time


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Labels, uint8 H x W, of class probabilities C x H x W."""
    return probabilities.argmax(0).astype(np.uint8)


def enlarged_labels(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels, uint8, of this size (height, width), of class probabilities float32 C x H x W of a smaller map.

    Only classes that the smaller map has somewhere: between its pixels, another one could come first by a hair.
    """
    labels = most_probable(probabilities)
    if labels.shape == size:
        return labels
    classes = np.unique(labels)
    height, width = size
    last = labels.shape[0] - 1
    places = np.clip((np.arange(height) + 0.5) * labels.shape[0] / height - 0.5, 0, last)  # of the centres of pixels
    above = places.astype(int)
    below, share = np.minimum(above + 1, last), (places - above).astype(np.float32)[:, None]
    enlarged = np.full(size, classes[0], np.uint8)
    for top in range(0, height if len(classes) > 1 else 0, ROWS):
        rows = slice(top, top + ROWS)
        place = enlarged[rows]
        best = np.zeros(place.shape, np.float32)
        for one in classes:
            plane = probabilities[one]
            lines = plane[above[rows]] * (1 - share[rows]) + plane[below[rows]] * share[rows]
            wide = cv2.resize(lines, (width, len(lines)), interpolation=cv2.INTER_LINEAR)
            place[wide > best] = one
            np.maximum(best, wide, out=best)
    return enlarged
