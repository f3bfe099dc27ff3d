"""Which networks are in files of weights, and the recipe that they stand for."""

from dataclasses import replace
from pathlib import Path

from deconvnet.models.registry import NETWORKS, PARTNERS
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe, recipe_from_dict
from deconvnet.support.errors import UsageError, UserError


def networks_of_files(paths: list[Path], recipe: Recipe | Path | str | None) -> tuple[list[str], Recipe]:
    """The network of each file, by its name in NETWORKS, and the recipe of all.

    paths: one file, or the two of an ensemble. recipe: None: the one that the first file carries; each further file
    brings its own network's section. Raises UsageError for a file that is not there, carries no recipe where one is
    needed, or is no ensemble partner; UserError for one that is no network.
    """
    kinds, carried = [], []
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such weights")
        kind, own = _read(path)
        kinds.append(kind)
        carried.append(own)
    if len(kinds) == 2 and (kinds[1] not in PARTNERS.values() or kinds[0] == kinds[1]):
        raise UsageError(f"{paths[1]}: a network of kind {kinds[1]!r}: no partner of {kinds[0]!r} in an ensemble")
    if recipe is not None:
        return kinds, recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if not carried[0]:
        raise UsageError(f"{paths[0]}: carries no recipe: give one, recipe='released' say")
    found = recipe_from_dict(carried[0], str(paths[0]))
    for kind, path, own in zip(kinds[1:], paths[1:], carried[1:], strict=True):
        if own:
            section = NETWORKS[kind].recipe_section
            found = replace(found, **{section: getattr(recipe_from_dict(own, str(path)), section)})
    return kinds, found


def _read(path: Path) -> tuple[str, dict[str, object]]:
    """A file's network and the recipe in it, {} where it has none."""
    from deconvnet.models.onnx_files import SUFFIX, read_about
    from deconvnet.models.weight_files import read_metadata

    published = [spec.name for spec in NETWORKS.values() if path.suffix in spec.published]
    if published:
        return published[0], {}
    about = read_about(path) if path.suffix == SUFFIX else read_metadata(path)
    if about.get("kind") not in NETWORKS:
        raise UserError(f"{path}: not a network's file of this project; stages.train and stages.import_caffe write "
                        "them")
    return about["kind"], about.get("recipe", {})
