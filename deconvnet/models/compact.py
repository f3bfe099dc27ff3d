"""Network files of a quarter of the size: convolution weights of one byte, with a scale for each output channel."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SCALE = ".scale"  # behind a weight's name: its scales, of a shape that multiplies it


def compacted(model: nn.Module) -> dict[str, Tensor]:
    """A network's state with the weights of its (transposed) convolutions as int8.

    w is stored as round(w / s) with s = max |w| / 127 over an output channel's weights, so that no weight moves by more
    than s / 2; an output channel of zeros has s = 1. Everything else (biases, BN: a few thousand numbers) is float32.
    """
    state = {name: value.detach().cpu().float() if value.is_floating_point() else value.cpu()
             for name, value in model.state_dict().items()}
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            name = f"{layer}.weight"
            others = (0, 2, 3) if isinstance(module, nn.ConvTranspose2d) else (1, 2, 3)
            scale = state[name].abs().amax(others, keepdim=True) / 127
            scale[scale == 0] = 1
            state[name + SCALE] = scale
            state[name] = (state[name] / scale).round().to(torch.int8)
    return state


def expanded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file with int8 weights multiplied by their scales; those of any other file as they are."""
    return {name: value * tensors[name + SCALE] if name + SCALE in tensors and value.dtype == torch.int8
            else value for name, value in tensors.items() if not name.endswith(SCALE)}
