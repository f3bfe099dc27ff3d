"""A network built from a recipe, with random weights."""

import os

import torch
from torch import nn

from deconvnet.models.registry import NETWORKS
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UsageError, UserError


def build_network(name: str, recipe: Recipe, drawn: bool = True) -> nn.Module:
    """A network of NETWORKS, its weights drawn from the recipe's seed.

    drawn: False where all weights are about to be read from a file. Raises UsageError for another name, UserError if
    its weights alone need more than the machine's memory: the process would be killed.
    """
    if name not in NETWORKS:
        raise UsageError(f"network {name!r}: expected one of {', '.join(NETWORKS)}")
    spec = NETWORKS[name]
    with torch.device("meta"):  # sizes without memory
        size = sum(value.nbytes for value in spec.build(recipe).parameters())
    if size > machine_memory():
        keys = ", ".join(f"{key} {value}" for key, value in spec.describe(recipe).items())
        raise UserError(f"recipe section {spec.recipe_section} ({keys}): {name}'s weights need {size / 1e9:.0f} GB, "
                        f"this machine has {machine_memory() / 1e9:.0f} GB: make it smaller there")
    model = spec.build(recipe)
    if drawn:
        generator = torch.Generator().manual_seed(recipe.seed)
        model.initialise(generator)  # type: ignore[operator]  # build's networks have it; nn.Module says nothing of it
    return model


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
