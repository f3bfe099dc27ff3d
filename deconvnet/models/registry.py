"""The networks of a run by name: made from a recipe, saved to and loaded from one safetensors file.

The file's metadata say what network it is (kind, width, input or fc6_kernel, classes and their names), so that a file
which does not fit a recipe is refused by name; whether BN statistics were measured (bn); and the whole recipe.
"""

import logging
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.fcn import Fcn
from deconvnet.models.weight_files import read_safetensors, save_safetensors
from deconvnet.models.weights import COUNTER, initialise, load_fcn8s, load_into
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)

STATISTICS = ("running_mean", "running_var")
KINDS = ("deconvnet", "fcn32s", "fcn16s", "fcn8s")


def make_network(kind: str, recipe: Recipe) -> nn.Module:
    """A network with weights drawn from the recipe's seed. kind: one of KINDS.

    Raises UserError where its weights alone are more than the machine's memory: torch would be killed filling them.
    """
    with torch.device("meta"):  # sizes without memory
        size = sum(value.nbytes for value in _built(kind, recipe).parameters())
    if size > machine_memory():
        section = "network" if kind == "deconvnet" else "fcn"
        raise UserError(f"recipe key {section}.width is {getattr(recipe, section).width:g}: the weights take "
                        f"{size / 1e9:.0f} GB, this machine has {machine_memory() / 1e9:.0f} GB: lower it")
    model, network = _built(kind, recipe), recipe.network
    generator = torch.Generator().manual_seed(recipe.seed)
    shift = network.bn_shift if kind == "deconvnet" else 0.0
    initialise(model, network.conv_std, network.deconv_std, generator, shift)
    return model


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _built(kind: str, recipe: Recipe) -> nn.Module:
    classes = len(recipe.data.classes)
    if kind == "deconvnet":
        return DeconvNet(recipe.network, classes)
    return Fcn(int(kind.removeprefix("fcn").removesuffix("s")), classes, recipe.fcn)


def description(kind: str, recipe: Recipe) -> dict[str, Any]:
    """What tells networks of a kind apart; the metadata of its file."""
    own = ({"width": recipe.network.width, "input": recipe.network.input, "unpooling": recipe.network.unpooling}
           if kind == "deconvnet" else {"width": recipe.fcn.width, "fc6_kernel": recipe.fcn.fc6_kernel})
    return {"kind": kind, "classes": len(recipe.data.classes), **own}


def save_network(model: nn.Module, path: Path, kind: str, recipe: Recipe, bn: str, origin: dict[str, Any]) -> None:
    """Writes a network's file. bn: 'measured', 'unmeasured', 'running' (kept while training), 'none' (no BN)."""
    save_safetensors(model, path, description(kind, recipe) | {
        "class_names": recipe.data.classes, "bn": bn, "origin": origin, "recipe": recipe_to_dict(recipe)})


def load_network(path: Path, kind: str, recipe: Recipe) -> nn.Module:
    """A network in evaluation mode, from a file of this project or one that stages.import_caffe wrote.

    An FCN-8s may also be wkentaro's fcn8s_from_caffe.pth. Raises UserError when the file is not a network's, not of
    this recipe's network (naming the difference), or without measured BN statistics.
    """
    if kind == "fcn8s" and path.suffix == ".pth":
        model = make_network(kind, recipe)
        load_into(model, load_fcn8s(path, recipe.fcn), source=str(path))
        return model.eval()
    model, metadata = load_unmeasured(path, kind, recipe)
    if metadata.get("bn") == "unmeasured":
        raise UserError(f"{path}: its BN statistics were never measured; `python -m stages.bn_statistics --weights "
                        f"{path}` does it")
    return model.eval()


def load_unmeasured(path: Path, kind: str, recipe: Recipe) -> tuple[nn.Module, dict[str, Any]]:
    """As load_network, whether its BN statistics were measured or not; and the file's metadata."""
    tensors, metadata = read_safetensors(path)
    if "kind" not in metadata:
        raise UserError(f"{path}: not a network's file of this project; stages.train and stages.import_caffe write "
                        "them")
    for name, here in description(kind, recipe).items():
        if name in metadata and metadata[name] != here:
            raise UserError(f"{path}: a network with {name} = {metadata[name]!r}; the recipe has {here!r}")
    names = metadata.get("class_names", recipe.data.classes)
    for index, (there, here) in enumerate(zip_longest(names, recipe.data.classes)):
        if there != here:
            raise UserError(f"{path}: a network whose class {index} is {there!r}; the recipe has {here!r}")
    model = make_network(kind, recipe)
    left_out = (COUNTER, *STATISTICS) if metadata.get("bn") == "unmeasured" else (COUNTER,)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(left_out)}
    load_into(model, tensors, [name for name in model.state_dict() if not name.endswith(left_out)], str(path))
    return model, metadata
