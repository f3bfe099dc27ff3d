"""Batch normalisation that at first undoes itself, so that pretrained convolutions compute what they computed."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from deconvnet.models.vgg16 import batch_norm_name
from deconvnet.recipe import Runtime
from deconvnet.training.bn_measurement import measure_bn_statistics


def layers_to_preserve(model: nn.Module, copied: Collection[str]) -> list[str]:
    """The layers whose weights were copied into the network, but not the batch normalisation after them."""
    children = dict(model.named_children())
    return [name for name in children if f"{name}.weight" in copied and batch_norm_name(name) in children
            and f"{batch_norm_name(name)}.weight" not in copied]


@torch.no_grad()
def preserve(model: nn.Module, layers: Collection[str], batches: Iterable[tuple[Tensor, Tensor, Tensor]], count: int,
             runtime: Runtime, device: torch.device) -> None:
    """Gives the batch normalisation after each of `layers` the scale and shift that undo it.

    They are the deviation and mean of what comes in, over `count` batches of training examples, while these layers are
    not normalised at all; they are its running statistics too. The other layers' running statistics are measured
    with them.
    """
    norms = [model.get_submodule(batch_norm_name(name)) for name in layers]
    hooks = [norm.register_forward_hook(lambda norm, inputs, output: inputs[0]) for norm in norms]
    try:
        measure_bn_statistics(model, batches, count, "biased", runtime, device)
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.copy_((norm.get_buffer("running_var") + norm.eps).sqrt())
        norm.bias.copy_(norm.get_buffer("running_mean"))
