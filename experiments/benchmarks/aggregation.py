"""Photographs a second from the scores of their 50 windows to one map of the photograph (section 5.1).

The baseline keeps all maps, each as large as the photograph, and takes their maximum at the end.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from deconvnet.inference.aggregation import Aggregation
from deconvnet.inference.scoring import scoring_windows
from deconvnet.recipe import Recipe
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import photographs
from experiments.benchmarks.plain import maximum_of
from proposals.build import ProposalWork


def agreement(expected: Tensor, found: Tensor) -> Mapping[str, float]:
    """Of two maps, the largest difference over the largest score."""
    return {"largest difference": float((expected - found).abs().max() / expected.abs().max())}


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    recipe, image = Recipe(), photographs(settings, 1)[0]
    windows = scoring_windows(ProposalWork(None, recipe, None).propose(image)[0], recipe)
    size = (image.shape[0], image.shape[1])
    classes, side = len(recipe.data.classes), 64 if settings.quick else recipe.network.input
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(windows), classes, side, side, generator=generator)

    def ours() -> Callable[[], Tensor]:
        def call() -> Tensor:
            total = Aggregation(classes, *size, "max", "zero_padding", torch.device("cpu"))
            for own, window in zip(scores, windows, strict=True):
                total.add(own, window, "bilinear")
            return total.result()

        return call

    def plain() -> Callable[[], Tensor]:
        return partial(maximum_of, list(scores), windows, size)

    return Benchmark("images", 1, Variant("plain", plain), (Variant("default", ours),), agreement)
