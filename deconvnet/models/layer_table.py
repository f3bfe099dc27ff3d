"""Table 2 of the paper, from a forward pass of the real network; no memory is needed for weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.unpooling import Pool, Unpool
from deconvnet.models.vgg16 import batch_norm_name
from deconvnet.recipe import Network

PAPER_NAMES = {"fc6_deconv": "deconv-fc6", "seg_score_voc": "output"}  # names in Table 2 that differ by more than '-'


@dataclass
class Layer:
    """A table row of Table 2. parameters: weights, biases, BN's scales and shifts. flops: of the (de)convolution alone.
    """

    name: str
    kernel: int | None
    stride: int | None
    pad: int | None
    height: int
    width: int
    channels: int
    parameters: int = 0
    flops: int = 0


def layer_table(recipe: Network, class_count: int) -> list[Layer]:
    """The table rows for a forward pass of one window, in the order of the layers.

    FLOPs: a multiplication and an addition count as two (torch's counter); BN, ReLU and pooling are not counted.
    Weights and window are on torch's meta device, which computes only shapes.
    """
    with torch.device("meta"):
        model, window = DeconvNet(recipe, class_count).eval(), torch.empty(1, 3, recipe.input, recipe.input)
    rows = [Layer("input", None, None, None, *_size(window))]

    def convolved(name: str, layer: nn.Conv2d | nn.ConvTranspose2d, output: Tensor) -> None:
        own = [layer] + ([getattr(model, batch_norm_name(name))] if hasattr(model, batch_norm_name(name)) else [])
        count = sum(values.numel() for module in own for values in module.parameters())
        flops = sum(counter.get_flop_counts()[f"DeconvNet.{name}"].values())
        rows.append(Layer(PAPER_NAMES.get(name, name.replace("_", "-")), layer.kernel_size[0], layer.stride[0],
                          int(layer.padding[0]), *_size(output), count, flops))

    def resized(name: str, before: Tensor, after: Tensor) -> None:
        side = max(before.shape[-1] // after.shape[-1], after.shape[-1] // before.shape[-1])
        rows.append(Layer(name, side, side, 0, *_size(after)))  # the windows neither overlap nor leave gaps

    for name, module in model.named_children():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda layer, _, output, name=name: convolved(name, layer, output))
        elif isinstance(module, Pool):
            module.register_forward_hook(lambda _, inputs, output, name=name: resized(name, inputs[0], output[0]))
        elif isinstance(module, Unpool):
            module.register_forward_hook(lambda _, inputs, output, name=name: resized(name, inputs[0], output))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(window)
    return rows


def _size(output: Tensor) -> tuple[int, int, int]:
    return output.shape[2], output.shape[3], output.shape[1]
