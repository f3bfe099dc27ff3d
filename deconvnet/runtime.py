"""How the arithmetic is run, the same for training and inference: device, precision, memory layout, network input."""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet.conventions import MEAN_RGB
from deconvnet.recipe import Runtime
from deconvnet.support.errors import UsageError

log = logging.getLogger(__name__)


def network_input(pictures: Tensor) -> Tensor:
    """uint8 RGB N x 3 x H x W to the network's input: float32, minus the mean, unscaled."""
    mean = torch.from_numpy(MEAN_RGB).to(pictures.device)
    return pictures.float() - mean[:, None, None]


def to_device(pictures: Tensor, labels: Tensor, runtime: Runtime, device: torch.device) -> tuple[Tensor, Tensor]:
    """A loaded batch as network input (float32) and labels (int64) on the device."""
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    pictures = network_input(pictures.to(device, non_blocking=True)).contiguous(memory_format=layout)
    return pictures, labels.to(device, non_blocking=True).long()


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """bf16 autocast if the recipe asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def prepare(model: nn.Module, runtime: Runtime, device: torch.device) -> nn.Module:
    """Moves a network to the device, in the recipe's memory layout and matrix precision."""
    tf32 = runtime.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    layout = torch.channels_last if runtime.channels_last else torch.preserve_format
    return model.to(device).to(memory_format=layout)


def choose_device(name: str) -> torch.device:
    """'auto' is the GPU if there is one. Raises UsageError for an unknown or missing device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch can use {torch.cuda.device_count()} GPUs here")
    log.info("device: %s", f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else
             torch.cuda.get_device_name(device))
    return device


def seed_everything(seed: int) -> None:
    """Seeds the global generators, for libraries that use them; this project's code has its own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
