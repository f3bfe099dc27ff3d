"""Photographs a second through the dense CRF (section 5), of the probabilities of the FCN-8s that comes with this.

The baseline is what a reader of the paper would write: one process, all classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.util import Finalize

import numpy as np

from crf.dense import CrfParameters, dense_crf
from crf.pool import CrfPool
from deconvnet.conventions import PRETRAINED
from deconvnet.inference.enlarging import most_probable
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.segmenter import Segmenter
from deconvnet.support.workers import WorkerPool, default_workers
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import photographs

Job = tuple[str, np.ndarray, np.ndarray]


def jobs(settings: Settings) -> list[Job]:
    """Name, photograph and probabilities of each."""
    segmenter = Segmenter.from_run(PRETRAINED, model="fcn8s", device="cpu")
    return [(str(number), image, segmenter(image).probabilities)
            for number, image in enumerate(photographs(settings, count(settings)))]


def count(settings: Settings) -> int:
    """How many photographs a call does."""
    return 4 if settings.quick else 12


def agreement(expected: list[np.ndarray], found: list[np.ndarray]) -> Mapping[str, float]:
    """Of label maps: the share of equal pixels, of all, and of the photograph that has fewest."""
    equal = [float((one == other).mean()) for one, other in zip(expected, found, strict=True)]
    return {"same labels": float(np.mean(equal)), "same labels, least": min(equal)}


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    ours = CrfParameters(**asdict(Recipe().crf))

    def here(parameters: CrfParameters) -> Callable[[], Callable[[], list[np.ndarray]]]:
        def prepared() -> Callable[[], list[np.ndarray]]:
            waiting = jobs(settings)
            return lambda: [most_probable(dense_crf(image, probabilities, parameters))
                            for _, image, probabilities in waiting]
        return prepared

    def pool(parameters: CrfParameters) -> Callable[[], Callable[[], list[np.ndarray]]]:
        def prepared() -> Callable[[], list[np.ndarray]]:
            waiting = jobs(settings)
            processes = CrfPool(parameters, default_workers(), WorkerPool)
            Finalize(None, processes.__exit__, exitpriority=100)  # before multiprocessing closes its queues
            return lambda: [labels for _, labels in processes.map(iter(waiting))]
        return prepared

    box = load_recipe(PRETRAINED / "recipe.yaml", complete=True)
    everything = CrfParameters(**{**asdict(ours), "least_probability": 0.0})
    return Benchmark("images", count(settings), Variant("plain", here(everything)),
                     (Variant("default", pool(ours)), Variant("one process", here(ours)),
                      Variant("the box's", pool(CrfParameters(**asdict(box.crf))))), agreement)
