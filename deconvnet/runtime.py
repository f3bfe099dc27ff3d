"""How the arithmetic is run, the same for training and inference: device, precision, memory layout, network input."""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet.conventions import MEAN_RGB
from deconvnet.recipe import Runtime
from deconvnet.support.errors import UsageError
from deconvnet.support.freed_memory import keep_freed_memory

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
    if device.type == "cpu":
        keep_freed_memory()
    tf32 = runtime.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    layout = torch.channels_last if runtime.channels_last else torch.preserve_format
    return model.to(device).to(memory_format=layout)


def choose_device(name: str, training: bool = False) -> torch.device:
    """'auto' is the NVIDIA GPU if there is one, else the CPU. Raises UsageError for an unknown or missing device.

    mps, Apple's GPU, is for labelling: trainings and BN statistics are summed up in float64, which it does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and training:
        raise UsageError(f"--device {name}: Apple's GPU labels images, but has no float64 for trainings and BN "
                         "statistics: use cpu or cuda")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: torch finds no Apple GPU here (it needs macOS on Apple silicon)")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch can use {torch.cuda.device_count()} GPUs here")
    if device.type == "cuda":
        title = torch.cuda.get_device_name(device)
    else:
        title = "Apple's GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"
    log.info("device: %s", title)
    return device


def seed_everything(seed: int) -> None:
    """Seeds the global generators, for libraries that use them; this project's code has its own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
