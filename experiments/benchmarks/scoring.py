"""Windows scored a second: the forward pass of DeconvNet, full width, random weights (section 5, without aggregation).

The baseline is what a reader of the paper would write: eager, float32, NCHW, one proposal at a time, batch
normalisation by itself, all score maps of an image kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deconvnet.inference.scoring import forward
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.folding import fold_batch_norm, lower_precision
from deconvnet.recipe import Network, Recipe
from deconvnet.runtime import network_input, prepare
from experiments.benchmarks.base import Benchmark, Settings, Variant, Work, shaped
from experiments.benchmarks.floor import counted
from experiments.benchmarks.plain import PlainDeconvNet, random_statistics


def network(settings: Settings) -> tuple[DeconvNet, Recipe]:
    """A DeconvNet with random weights and BN statistics that are not 0 and 1, in evaluation mode, and its recipe."""
    recipe = shaped(settings)
    model = DeconvNet(replace(recipe.network, conv_std=0.0, deconv_std=0.0), len(recipe.data.classes))
    model.initialise(torch.Generator().manual_seed(0))
    random_statistics(model)
    return model.eval(), recipe


def windows_of(settings: Settings) -> int:
    """How many windows a call scores."""
    return 8 if settings.device == "cpu" else 400


def windows(settings: Settings, keys: Network) -> Tensor:
    """Pictures, N x 3 x S x S in 0 .. 255: blurred noise, since white noise is nothing that a network sees."""
    coarse = np.random.default_rng(0).uniform(0, 255, (windows_of(settings), 3, keys.input // 8, keys.input // 8))
    small = torch.from_numpy(coarse.astype(np.float32))
    return F.interpolate(small, size=(keys.input, keys.input), mode="bilinear", align_corners=False)


def agreement(expected: Tensor, found: Tensor) -> Mapping[str, float]:
    """Of scores N x C x S x S: differences over the largest score, and the share of equal labels.

    Where two activations of a pooling window differ by less than rounding, any other order of summation may turn the
    switch, and the scores around it are others. So the largest difference is that of a turned switch, where there is
    one; all other scores are within 1e-4.
    """
    difference = (expected - found).abs() / expected.abs().max()
    return {"largest difference": float(difference.max()),
            "within 1e-4": float((difference <= 1e-4).double().mean()),
            "same labels": float((expected.argmax(1) == found.argmax(1)).double().mean())}


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""

    def plain() -> Callable[[], Tensor]:
        model, recipe = network(settings)
        pictures, plainly = windows(settings, recipe.network), PlainDeconvNet(model).eval().to(settings.device)

        @torch.no_grad()
        def call() -> Tensor:
            inputs = network_input(pictures.to(settings.device))
            return torch.cat([plainly(one[None]) for one in inputs]).cpu()

        return call

    def ours(batch: int, precision: str) -> Callable[[], Callable[[], Tensor]]:
        def prepared() -> Callable[[], Tensor]:
            model, recipe = network(settings)
            recipe.runtime.precision = precision
            pictures, device = windows(settings, recipe.network), torch.device(settings.device)
            opened = prepare(lower_precision(fold_batch_norm(model), precision), recipe.runtime, device)

            @torch.inference_mode()
            def call() -> Tensor:
                return torch.cat([forward(opened, part, recipe, device).cpu() for part in pictures.split(batch)])

            return call

        return prepared

    def work() -> Work:
        recipe = shaped(settings)
        with torch.device("meta"):  # shapes alone; all windows in one pass, which reads the weights once
            model = DeconvNet(recipe.network, len(recipe.data.classes)).eval()
            pictures = torch.zeros(count, 3, recipe.network.input, recipe.network.input)
        with torch.no_grad(), counted() as steps:
            model(pictures)
        return Work(tuple(steps))

    count = windows_of(settings)
    batch = Recipe().infer.window_batch if settings.device == "cpu" else 50
    variants: tuple[Variant, ...] = (Variant("default", ours(batch, "fp32")),
                                     Variant("bf16 decoder", ours(batch, "bf16_decoder")),
                                     Variant("bf16", ours(batch, "bf16"), "bf16"))
    if settings.device != "cpu":
        variants += (Variant(f"bf16, {count} a pass", ours(count, "bf16"), "bf16"),)
    return Benchmark("windows", count, Variant("plain", plain), variants, agreement, work)
