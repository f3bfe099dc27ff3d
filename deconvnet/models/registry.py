"""The networks by name. A new one needs a file of its own in this folder, with its NetworkSpec in SPECS, and a line
here.

Names are available without torch, which is imported when a network is first used.
"""

from collections.abc import Iterator, Mapping

from deconvnet.models.spec import NetworkSpec, TrainingSpec
from deconvnet.recipe import Recipe
from deconvnet.support.startup import import_with_torch

MODULES = {  # name: its module in this folder
    "deconvnet": "deconvnet",
    "fcn32s": "fcn",
    "fcn16s": "fcn",
    "fcn8s": "fcn",
    "segnet": "segnet",
}
PARTNERS = {  # the second network of an ensemble: its name for --ensemble, and here
    "fcn": "fcn8s",
}


class Networks(Mapping[str, NetworkSpec]):
    """The specs, each imported when first used."""

    def __getitem__(self, name: str) -> NetworkSpec:
        module = import_with_torch(f"deconvnet.models.{MODULES[name]}")
        return {spec.name: spec for spec in module.SPECS}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


NETWORKS = Networks()


def training_specs(recipe: Recipe) -> dict[str, TrainingSpec]:
    """Every training in the recipe, by the name of its folder."""
    return {training.name: training for spec in NETWORKS.values() for training in spec.trainings(recipe)}


def partner_name(network: str) -> str:
    """A network's name for --ensemble; empty for one that is no partner."""
    return next((name for name, partner in PARTNERS.items() if partner == network), "")


def sections_of_others(name: str) -> tuple[str, ...]:
    """Prefixes of the recipe keys in the sections of other networks."""
    own = NETWORKS[name].recipe_section
    return tuple({f"{spec.recipe_section}.": None for spec in NETWORKS.values() if spec.recipe_section != own})
