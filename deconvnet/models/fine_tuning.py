"""A network that starts from another network's file: all that fits is kept, the rest stays as it was drawn."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deconvnet.models.compact import expanded
from deconvnet.models.registry import NETWORKS
from deconvnet.models.weight_files import existing, read_safetensors
from deconvnet.models.weights import COUNTER, load_into
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)


def start_from_network(model: nn.Module, path: Path | str, kind: str, recipe: Recipe) -> set[str]:
    """Copies what fits from a network's file into `model`, a network of NETWORKS with its weights drawn.

    path: a file of stages.train or stages.import_caffe, of this kind or of another one with layers of the same names;
    or a published one that the registry reads. A tensor fits if name and shape are the same. The layers whose shapes
    depend on the number of classes (the score layers) are kept only if the class list is the same. Logs what is kept,
    what stays as drawn, and what of the file has no place here. Returns the names of the copied tensors. Raises
    UserError for another file, or one of which nothing fits.
    """
    path = existing(path)
    tensors, names = _read(path, kind, recipe)
    classes = recipe.data.classes
    anew = _of_classes(kind, recipe) if names not in (None, classes) else set()
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    kept = {name: value for name, value in tensors.items()
            if name in own and value.shape == own[name].shape and name not in anew}
    if not kept:
        raise UserError(f"{path}: none of its tensors fits a {NETWORKS[kind].title} of this recipe: expected a network "
                        "file of the same width")
    load_into(model, kept, required=kept, source=str(path))
    log.info("%s: %d of %d tensors are kept: %s", path, len(kept), len(own), _layers(own, kept))
    for what, layers in (("drawn anew", _layers(own, own.keys() - kept.keys())),
                         ("in the file, not used", _layers(tensors, tensors.keys() - kept.keys()))):
        if layers:
            log.warning("%s: %s: %s", path, what, layers)
    return set(kept)


def _read(path: Path, kind: str, recipe: Recipe) -> tuple[dict[str, Tensor], list[str] | None]:
    """A file's tensors and class names (None: it does not tell)."""
    published = NETWORKS[kind].published.get(path.suffix)
    if published:
        return published(path, recipe), None
    tensors, metadata = read_safetensors(path)
    tensors = expanded(tensors)
    found = metadata.get("kind")
    if found == "vgg16" or "kind" not in metadata and "conv1_1.weight" in tensors:
        raise UserError(f"{path}: VGG16, not a whole network: give it with --vgg16")
    if found is None:
        raise UserError(f"{path}: not a network file of this project; stages.train and stages.import_caffe write "
                        "them")
    return {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}, metadata.get("class_names")


def _of_classes(kind: str, recipe: Recipe) -> set[str]:
    """The tensors whose shapes depend on the number of classes."""
    more = replace(recipe, data=replace(recipe.data, classes=[*recipe.data.classes, "one more"]))
    with torch.device("meta"):  # shapes without memory
        one, other = (NETWORKS[kind].build(each).state_dict() for each in (recipe, more))
    return {name for name in one if one[name].shape != other[name].shape}


def _layers(ordered: Iterable[str], names: Iterable[str]) -> str:
    """The layers of the named tensors, in order."""
    wanted = set(names)
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in ordered if name in wanted))
