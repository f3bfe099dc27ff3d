"""Photographs a second through edges and EdgeBoxes (section 6.1): 2,000 proposals each.

The baseline is what a reader of the paper would write: one process, OpenCV with as many threads as it takes, each point
beside an edge compared.
"""

from collections.abc import Callable, Mapping
from multiprocessing.util import Finalize

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from deconvnet.recipe import Recipe
from deconvnet.support.workers import WorkerPool, default_workers
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import photographs
from proposals.build import ProposalWork
from proposals.edge_boxes import propose
from proposals.edges import FULL_STRENGTH, RIDGE_SMOOTHING, SCALES, THINNING_RADIUS, EdgeMap

Proposals = tuple[np.ndarray, np.ndarray]


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    images = photographs(settings, 4 if settings.quick else 24)
    keys, work = Recipe().proposals, ProposalWork(None, Recipe(), None)

    def plain() -> list[Proposals]:
        return [propose(plain_edges(image), keys.count, keys.alpha, keys.beta, keys.eta, keys.min_score)
                for image in images]

    def pool() -> Callable[[], list[Proposals]]:
        processes = WorkerPool(default_workers(), initializer=cv2.setNumThreads, initargs=(1,))
        Finalize(None, processes.shutdown, exitpriority=100)  # before multiprocessing closes its queues, or it hangs
        return lambda: list(processes.map(work.propose, images))

    return Benchmark("images", len(images), Variant("plain", lambda: plain),
                     (Variant("default", pool), Variant("one process", lambda: lambda: [*map(work.propose, images)])),
                     same_boxes)


def plain_edges(image: np.ndarray) -> EdgeMap:
    """Colour steps in Lab, thinned across the direction in which the surface of their heights bends most."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    strength = np.asarray(sum(_steps(lab, sigma) for sigma in SCALES)) / (len(SCALES) * FULL_STRENGTH)
    smooth = cv2.GaussianBlur(strength, (0, 0), RIDGE_SMOOTHING, borderType=cv2.BORDER_REPLICATE)
    xx, xy, yy = (cv2.Sobel(smooth, cv2.CV_32F, *order, borderType=cv2.BORDER_REPLICATE)
                  for order in ((2, 0), (1, 1), (0, 2)))
    bend = np.where(xx + yy > 0, np.float32(1), np.float32(-1))
    angle = np.mod(0.5 * np.arctan2(bend * 2 * xy, bend * (xx - yy)), np.pi).astype(np.float32)
    strength = np.clip(strength, 0, 1)
    ys, xs = np.indices(strength.shape, dtype=np.float32)
    strongest = np.zeros_like(strength)
    for step in (step for step in range(-THINNING_RADIUS, THINNING_RADIUS + 1) if step):
        points = [ys + step * np.sin(angle), xs + step * np.cos(angle)]
        strongest = np.maximum(strongest, map_coordinates(strength, points, order=1, mode="nearest"))
    return EdgeMap(np.where(strength >= strongest, strength, 0).astype(np.float32), angle)


def _steps(lab: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
              for order in ((1, 0), (0, 1)))
    return np.hypot(dx, dy).max(2) * np.float32(np.sqrt(2 * np.pi) * sigma)


def same_boxes(expected: list[Proposals], found: list[Proposals]) -> Mapping[str, float]:
    """The share of photographs whose boxes and scores are the same, all of them, in the same order."""
    same = [all(map(np.array_equal, one, other)) for one, other in zip(expected, found, strict=True)]
    return {"same boxes": float(np.mean(same))}
