"""The networks by name. A new one is a file of its own beside this, with its NetworkSpec in SPECS, and a line here.

Names are known without torch, which is imported with the first network that is asked for.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

from deconvnet.models.spec import NetworkSpec, TrainingSpec
from deconvnet.recipe import Recipe

MODULES = {  # name: the module in this folder that has it
    "deconvnet": "deconvnet",
    "fcn32s": "fcn",
    "fcn16s": "fcn",
    "fcn8s": "fcn",
    "segnet": "segnet",
}


class Networks(Mapping[str, NetworkSpec]):
    """The specs, each imported when it is looked at."""

    def __getitem__(self, name: str) -> NetworkSpec:
        module = import_module(f"deconvnet.models.{MODULES[name]}")
        return {spec.name: spec for spec in module.SPECS}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


NETWORKS = Networks()


def training_specs(recipe: Recipe) -> dict[str, TrainingSpec]:
    """Every training that the recipe knows, by its folder's name."""
    return {training.name: training for spec in NETWORKS.values() for training in spec.trainings(recipe)}


def partners() -> dict[str, str]:
    """The networks that another one may be in an ensemble with, by their name for --ensemble: {"fcn": "fcn8s"}."""
    return {spec.partner: spec.name for spec in NETWORKS.values() if spec.partner}


def sections_of_others(name: str) -> tuple[str, ...]:
    """Prefixes of the recipe keys in other networks' own sections."""
    own = NETWORKS[name].recipe_section
    return tuple({f"{spec.recipe_section}.": None for spec in NETWORKS.values() if spec.recipe_section != own})
