"""Tensors by name, checked and put into a network."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # torch's BN counter: unused here, missing from other programs' files


def load_into(
    model: nn.Module, tensors: dict[str, Tensor], required: Collection[str] | None = None, source: str = "weights"
) -> None:
    """Copies tensors into a model's parameters and buffers of the same names, or puts them in the place of those that
    have sizes alone (torch's device "meta").

    required: names that must be present; None: all of the model's. Nothing is changed unless everything fits. Raises
    UserError, naming tensor and source, for a missing, unknown, misshapen or non-finite one.
    """
    own = model.state_dict()
    if required is None:
        required = [name for name in own if not name.endswith(COUNTER)]
    for name in required:
        if name not in tensors:
            raise UserError(f"{source}: {name} is missing, expected a tensor of shape {tuple(own[name].shape)}")
    for name, value in tensors.items():
        if name not in own:
            raise UserError(f"{source}: {name} is not a tensor of this network; the file is of another network")
        check_shape(name, value, tuple(own[name].shape), source)
        if value.is_floating_point() != own[name].is_floating_point():
            raise UserError(f"{source}: {name} is {value.dtype}, expected {own[name].dtype}")
        check_finite(name, value, source)
    with torch.no_grad():
        for name, value in tensors.items():
            if not own[name].is_meta:
                own[name].copy_(value)
    instead = {name: value.to(own[name].dtype) for name, value in tensors.items() if own[name].is_meta}
    model.load_state_dict(instead, strict=False, assign=True)


def check_shape(name: str, value: Any, shape: tuple[int, ...], source: str) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested or value.is_meta:
        raise UserError(f"{source}: {name} is not a dense tensor")
    if tuple(value.shape) != shape:
        raise UserError(f"{source}: {name} has shape {tuple(value.shape)}, expected {shape}")


def check_finite(name: str, value: Tensor, source: str) -> None:
    # A finite sum has only finite terms, and takes a tenth of the time; that of large ones may overflow.
    if not value.sum().isfinite() and not value.isfinite().all():
        raise UserError(f"{source}: {name} holds NaN or infinity: the file is damaged, fetch it again")
