"""Saving networks to and loading them from safetensors files, one each; loading ONNX files of stages.export too.

The metadata describe the network (kind, width, input or fc6_kernel, classes and their names), so that a file that does
not match a recipe is rejected with the difference; whether BN statistics were measured (bn); and the whole recipe.
"""

from itertools import zip_longest
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from deconvnet.models.build import build_network
from deconvnet.models.compact import compacted, expanded
from deconvnet.models.onnx_files import SUFFIX, OnnxNetwork
from deconvnet.models.registry import NETWORKS
from deconvnet.models.weight_files import read_safetensors, save_safetensors, shared_with, write_safetensors
from deconvnet.models.weights import COUNTER, load_into
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.support.errors import UserError

STATISTICS = ("running_mean", "running_var")


def description(kind: str, recipe: Recipe) -> dict[str, Any]:
    """What distinguishes networks of one kind; stored in the file's metadata."""
    return {"kind": kind, "classes": len(recipe.data.classes), **NETWORKS[kind].describe(recipe)}


def save_network(model: nn.Module, path: Path, kind: str, recipe: Recipe, bn: str, origin: dict[str, Any],
                 compact: bool = False, beside: Path | None = None) -> None:
    """Writes a network's file. bn: 'measured', 'unmeasured', 'running' (kept while training), 'none' (no BN).

    compact: a quarter of the size, weights rounded to one byte (compact.py). beside: a compact file of another network,
    in a folder beside this file's; weights that are the same there (of a trunk that was not trained) are left out here.
    """
    metadata = description(kind, recipe) | {
        "class_names": recipe.data.classes, "bn": bn, "origin": origin, "recipe": recipe_to_dict(recipe)}
    if not compact:
        save_safetensors(model, path, metadata)
        return
    tensors = compacted(model)
    if beside and (shared := shared_with(tensors, path, beside)):
        tensors = {name: value for name, value in tensors.items() if name not in shared["tensors"]}
        metadata["shared"] = shared
    write_safetensors(save_file, tensors, path, metadata)


def load_network(path: Path, kind: str, recipe: Recipe) -> nn.Module:
    """A network in evaluation mode, from a file of this project or one that stages.import_caffe wrote.

    An ONNX file of stages.export becomes a module that onnxruntime computes, on the CPU. NetworkSpec.published: an
    FCN-8s may also be wkentaro's fcn8s_from_caffe.pth. Raises UserError if the file has no network, one that does not
    match the recipe (naming the difference), or no measured BN statistics.
    """
    if path.suffix == SUFFIX:
        return _load_onnx(path, kind, recipe)
    published = NETWORKS[kind].published.get(path.suffix)
    if published:
        model = build_network(kind, recipe, drawn=False)
        load_into(model, published(path, recipe), source=str(path))
        return model.eval()
    model, metadata = load_unmeasured(path, kind, recipe)
    if metadata.get("bn") == "unmeasured":
        raise UserError(f"{path}: its BN statistics were never measured; run `python -m stages.bn_statistics --model "
                        f"{kind} --weights {path}`")
    return model.eval()


def load_unmeasured(path: Path, kind: str, recipe: Recipe) -> tuple[nn.Module, dict[str, Any]]:
    """As load_network, whether its BN statistics were measured or not; and the file's metadata."""
    tensors, metadata = read_safetensors(path)
    tensors = expanded(tensors)
    if "kind" not in metadata:
        raise UserError(f"{path}: not a network file of this project; stages.train and stages.import_caffe write "
                        "them")
    _check_about(metadata, path, kind, recipe)
    model = build_network(kind, recipe, drawn=False)
    left_out = (COUNTER, *STATISTICS) if metadata.get("bn") == "unmeasured" else (COUNTER,)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(left_out)}
    load_into(model, tensors, [name for name in model.state_dict() if not name.endswith(left_out)], str(path))
    return model, metadata


def _load_onnx(path: Path, kind: str, recipe: Recipe) -> nn.Module:
    network = OnnxNetwork(path)
    _check_about(network.about, path, kind, recipe)
    if (side := NETWORKS[kind].side(recipe)) != network.about["side"]:
        raise UserError(f"{path}: exported for images of side {network.about['side']}; the recipe has {side}: export "
                        "it again, with that recipe")
    return network.eval()


def _check_about(metadata: dict[str, Any], path: Path, kind: str, recipe: Recipe) -> None:
    """Raises UserError, which names the difference, unless the metadata are of this kind and recipe."""
    if metadata["kind"] != kind:
        raise UserError(f"{path}: a network of kind {metadata['kind']!r}; expected one of kind {kind!r}")
    for name, here in description(kind, recipe).items():
        if name in metadata and metadata[name] != here:
            raise UserError(f"{path}: a network with {name} = {metadata[name]!r}; the recipe has {here!r}")
    names = metadata.get("class_names", recipe.data.classes)
    for index, (there, here) in enumerate(zip_longest(names, recipe.data.classes)):
        if there != here:
            raise UserError(f"{path}: a network whose class {index} is {there!r}; the recipe has {here!r}")
