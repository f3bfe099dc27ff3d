"""Images trained a second: forward, loss, backward and the step of SGD, of DeconvNet, full width, micro-batch 8.

The baseline is what a reader of the paper would write: eager, float32, NCHW, torch's SGD.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconvnet.conventions import VOID
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.recipe import Recipe
from deconvnet.runtime import autocast, network_input, prepare, to_device
from deconvnet.training.solver import ScheduledSgd
from deconvnet.training.trainer import pixel_loss
from experiments.benchmarks.base import Benchmark, Settings, Variant, Work, shaped
from experiments.benchmarks.floor import counted
from experiments.benchmarks.plain import PlainDeconvNet


def network(recipe: Recipe) -> DeconvNet:
    """A new DeconvNet, in training mode."""
    model = DeconvNet(replace(recipe.network, conv_std=0.0, deconv_std=0.0), len(recipe.data.classes))
    model.initialise(torch.Generator().manual_seed(0))
    return model.train()


def batch(settings: Settings, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Pictures, uint8 N x 3 x S x S, and labels, uint8 N x S x S, a tenth of them void."""
    count = 8 if settings.device == "cpu" else 64
    generator, side = torch.Generator().manual_seed(0), recipe.network.input
    pictures = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, len(recipe.data.classes), (count, side, side), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    return pictures, labels


def agreement(expected: float, found: float) -> Mapping[str, float]:
    """Of the losses. The learning rate is 0, so that every step computes the same."""
    return {"largest difference": abs(expected - found) / abs(expected)}


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    recipe = shaped(settings)
    count = len(batch(settings, recipe)[0])

    def plain() -> Callable[[], float]:
        model = PlainDeconvNet(network(recipe)).to(settings.device)
        descent = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
        pictures, labels = batch(settings, recipe)

        def call() -> float:
            inputs, truth = network_input(pictures.to(settings.device)), labels.to(settings.device).long()
            loss = F.cross_entropy(model(inputs), truth, ignore_index=VOID)
            descent.zero_grad()
            loss.backward()
            descent.step()
            return loss.item()

        return call

    def ours(precision: str, compiled: bool = False) -> Callable[[], Callable[[], float]]:
        def prepared() -> Callable[[], float]:
            keys, device = replace(recipe.runtime, precision=precision), torch.device(settings.device)
            model = prepare(network(recipe), keys, device)
            forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
            descent = ScheduledSgd(model, replace(recipe.solver, lr=0.0), 1, 1)
            loaded = batch(settings, recipe)

            def call() -> float:
                pictures, labels = to_device(*loaded, keys, device)
                with autocast(keys, device):
                    scores = forward(pictures)
                loss = pixel_loss(scores, labels)
                loss.backward()
                descent.step()
                return loss.item()

            return call

        return prepared

    def work() -> Work:
        with torch.device("meta"):  # shapes alone
            model = DeconvNet(recipe.network, len(recipe.data.classes)).train()
            pictures = torch.zeros(count, 3, recipe.network.input, recipe.network.input)
        with counted() as steps:
            model(pictures).sum().backward()
        return Work(tuple(steps))

    variants: tuple[Variant, ...] = (Variant("default", ours("fp32")), Variant("bf16", ours("bf16"), "bf16"))
    if settings.device != "cpu":
        variants += (Variant("bf16, compiled", ours("bf16", compiled=True), "bf16"),)
    return Benchmark("images", count, Variant("plain", plain), variants, agreement, work)
