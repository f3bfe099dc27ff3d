"""The networks by name. A new one is a file of its own beside this, and a line here."""

import os

import torch
from torch import nn

from deconvnet.models import deconvnet, fcn
from deconvnet.models.spec import NetworkSpec, TrainingSpec
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.support.errors import UserError

NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec for spec in (
        deconvnet.SPEC,
        *fcn.SPECS,
    )
}


def training_specs(recipe: Recipe) -> dict[str, TrainingSpec]:
    """Every training that the recipe knows, by its folder's name."""
    return {training.name: training for spec in NETWORKS.values() for training in spec.trainings(recipe)}


def sections_of_others(name: str) -> tuple[str, ...]:
    """Prefixes of the recipe keys in other networks' own sections."""
    own = NETWORKS[name].recipe_section
    return tuple({f"{spec.recipe_section}.": None for spec in NETWORKS.values() if spec.recipe_section != own})


def make_network(name: str, recipe: Recipe) -> nn.Module:
    """A network of NETWORKS, its weights drawn from the recipe's seed.

    Raises UserError where its weights alone are more than the machine's memory: torch would be killed filling them.
    """
    spec = NETWORKS[name]
    with torch.device("meta"):  # sizes without memory
        size = sum(value.nbytes for value in spec.build(recipe).parameters())
    if size > machine_memory():
        width = f"{spec.recipe_section}.width"
        raise UserError(f"recipe key {width} is {recipe_to_dict(recipe)[width]:g}: the weights take {size / 1e9:.0f} "
                        f"GB, this machine has {machine_memory() / 1e9:.0f} GB: lower it")
    model = spec.build(recipe)
    model.initialise(torch.Generator().manual_seed(recipe.seed))
    return model


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
