"""A network built from a recipe, with random weights."""

import os

import torch
from torch import nn

from deconvnet.models.registry import NETWORKS
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UsageError, UserError


def build_network(name: str, recipe: Recipe, drawn: bool = True) -> nn.Module:
    """A network of NETWORKS, its weights drawn from the recipe's seed.

    drawn: False where all weights are about to be read from a file: `load_into` gives such a network the file's tensors
    themselves. Raises UsageError for another name, UserError if its weights alone need more than the machine's memory:
    the process would be killed.
    """
    if name not in NETWORKS:
        raise UsageError(f"network {name!r}: expected one of {', '.join(NETWORKS)}")
    spec = NETWORKS[name]
    with torch.device("meta"):  # sizes without memory
        model = spec.build(recipe)
        size = sum(value.nbytes for value in model.parameters())
    if size > machine_memory():
        keys = ", ".join(f"{key} {value}" for key, value in spec.describe(recipe).items())
        raise UserError(f"recipe section {spec.recipe_section} ({keys}): {name}'s weights need {size / 1e9:.0f} GB, "
                        f"this machine has {machine_memory() / 1e9:.0f} GB: make it smaller there")
    if not drawn:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # its statistics, which a file may lack, are 0 and 1
                module.load_state_dict(nn.BatchNorm2d(module.num_features).state_dict(), assign=True)
        return model
    model = spec.build(recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    model.initialise(generator)  # type: ignore[operator]  # build's networks have it; nn.Module says nothing of it
    return model


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
