"""Labels of photographs by the DeconvNet that comes with this, in each precision (section 5, without ensemble and CRF).

What it is there for is the agreement: `scoring` has random weights, whose scores are close to each other, and networks
that have learned have not. Give --voc-root: generated scenes are nothing that this network knows.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from deconvnet.conventions import MEAN_RGB, PACKED, PRETRAINED
from deconvnet.data.windows import cut
from deconvnet.inference.networks import ImageScorer
from deconvnet.inference.resizing import resize_picture
from deconvnet.inference.scoring import scoring_windows
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.network_files import load_network
from deconvnet.recipe_files import load_recipe
from deconvnet.runtime import network_input
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import photographs
from experiments.benchmarks.plain import PlainDeconvNet, maximum_of
from proposals.build import ProposalWork

WEIGHTS = PRETRAINED / PACKED["deconvnet"] / "network.safetensors"
Maps = list[np.ndarray]


def agreement(expected: Maps, found: Maps) -> Mapping[str, float]:
    """Of score maps: the share of equal labels, of all pixels, and the share of scores within 1e-4 of the largest."""
    near = [float((np.abs(one - other) <= 1e-4 * np.abs(one).max()).mean())
            for one, other in zip(expected, found, strict=True)]
    same = sum(int((one.argmax(0) == other.argmax(0)).sum()) for one, other in zip(expected, found, strict=True))
    return {"same labels": same / sum(one[0].size for one in expected), "within 1e-4": float(np.mean(near))}


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    recipe, count = load_recipe(PRETRAINED / "recipe.yaml", complete=True), 2 if settings.quick else 12

    def proposed() -> list[tuple[np.ndarray, np.ndarray]]:
        propose = ProposalWork(None, recipe, None).propose
        return [(image, propose(image)[0]) for image in photographs(settings, count)]

    def plain() -> Callable[[], Maps]:
        network, outside = load_network(WEIGHTS, "deconvnet", recipe), MEAN_RGB.round().astype(np.uint8)
        assert isinstance(network, DeconvNet)
        plainly, given = PlainDeconvNet(network).eval(), proposed()

        def score(image: np.ndarray, windows: np.ndarray) -> np.ndarray:
            pictures = [resize_picture(cut(image, one, outside), recipe.network.input, "bilinear") for one in windows]
            scores = [plainly(network_input(one[None]))[0] for one in pictures]
            return maximum_of(scores, windows, (image.shape[0], image.shape[1])).numpy()

        @torch.no_grad()
        def call() -> Maps:
            return [score(image, scoring_windows(boxes, recipe)) for image, boxes in given]

        return call

    def ours(precision: str) -> Callable[[], Callable[[], Maps]]:
        def prepared() -> Callable[[], Maps]:
            keys = replace(recipe, runtime=replace(recipe.runtime, precision=precision))
            scorer, given = ImageScorer("deconvnet", WEIGHTS, keys, settings.device), proposed()
            scorer.open()
            return lambda: [scorer("", image, lambda boxes=boxes: boxes) for image, boxes in given]  # type: ignore[misc]

        return prepared

    return Benchmark("images", count, Variant("plain", plain),
                     (Variant("default", ours("fp32")), Variant("bf16 decoder", ours("bf16_decoder")),
                      Variant("bf16", ours("bf16"), "bf16")), agreement)
