"""Aggregation of the windows' score maps into one map of the image (section 5.1)."""

import numpy as np
import torch
from torch import Tensor

from deconvnet.inference.resizing import resize_scores


class Aggregation:
    """One image's score map, into which windows are folded one by one: memory does not grow with their number.

    max [P eq. 1], sum [P eq. 2], or mean over the windows that cover a pixel. A window's map counts as zero outside
    the window [P: "zero padding"]. So for max a pixel's score is at least 0, unless every window covers it; with
    outside = 'start_zero' it is at least 0 everywhere [R: the map starts at 0]. A pixel that no window covers has
    score 0 for every class, and so becomes background.
    """

    def __init__(self, classes: int, height: int, width: int, rule: str, outside: str, device: torch.device) -> None:
        self.rule = rule
        start = -torch.inf if rule == "max" and outside == "zero_padding" else 0.0
        self.map = torch.full((classes, height, width), start, device=device)
        self.covering = torch.zeros((height, width), dtype=torch.int32, device=device)
        self.windows = 0

    def add(self, scores: Tensor, window: np.ndarray, method: str) -> None:
        """Folds in one window: scores float32 C x S x S, resized to the window (x1, y1, x2, y2), cut to the image."""
        x1, y1, x2, y2 = (int(value) for value in window)
        height, width = self.covering.shape
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        self.windows += 1
        if left >= right or top >= bottom:
            return
        scores = resize_scores(scores.float(), y2 - y1, x2 - x1, method)
        visible = scores[:, top - y1 : bottom - y1, left - x1 : right - x1]
        place = self.map[:, top:bottom, left:right]
        self.covering[top:bottom, left:right] += 1
        if self.rule == "max":
            torch.maximum(place, visible, out=place)
        else:
            place += visible

    def result(self) -> Tensor:
        """The aggregated scores, float32 C x H x W."""
        if self.rule == "max":
            if not self.windows:
                return self.map.zero_()
            uncovered = self.covering < self.windows
            for plane in self.map:  # one after the other: a second map of this size is never held
                plane.copy_(torch.where(uncovered, plane.clamp(min=0), plane))
            return self.map
        if self.rule == "mean":
            return self.map / self.covering.clamp(min=1)
        return self.map
