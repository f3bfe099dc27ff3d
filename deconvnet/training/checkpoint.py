"""Checkpoints: everything a training needs to resume as if it had never stopped."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from deconvnet.models.registry import sections_of_others, training_specs
from deconvnet.models.weight_files import load_torch_file
from deconvnet.recipe import (
    CHECKPOINTS,
    PROPOSALS,
    WINDOWS,
    Recipe,
    recipe_difference,
    recipe_to_dict,
    shaping,
    with_added_keys,
)
from deconvnet.schemas import Count, Schema, Text, checked
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UserError

FORMAT = "deconvnet-checkpoint-1"


RecipeValue = bool | int | float | str | list[int | float | str] | None


class SgdState(Schema):
    """What solver.ScheduledSgd resumes from; checked in its load_state."""

    optimizer: dict[str, Any]
    rule: dict[str, Any]


class Sums(Schema):
    """What the next line of the log is the mean of."""

    model_config = ConfigDict(extra="forbid")

    losses: list[float]
    accuracies: list[float]
    rate: float
    images: Count
    seconds: Annotated[float, Field(ge=0)]


class Checkpoint(Schema):
    """The entries of a checkpoint; shapes are checked where the tensors are used."""

    recipe: dict[str, RecipeValue]
    training: Text
    iteration: Count
    position: Count  # examples seen
    best: Annotated[float, Field(ge=-1, le=1)]  # validation accuracy; -1 before the first
    origin: str
    model: dict[str, Tensor]
    descent: SgdState
    random: Tensor
    since: Sums | None = None  # older checkpoints lack this and the next two
    unvalidated: bool = False
    examples: str = ""  # what tells the examples from others
    random_cuda: Tensor | None = None


def save_checkpoint(path: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all. content: tensors, numbers, strings, and lists or dicts of them.

    Raises UserError when it cannot be written; a checkpoint that was there before stays.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, "recipe": recipe_to_dict(recipe), **content}, temporary)
        except RuntimeError as error:  # what torch's writer makes of a full disk names neither file nor disk
            raise UserError(f"{path}: cannot be written (is the disk full?): free some space and run again; torch "
                            f"says: {str(error).splitlines()[0]}") from None


def load_checkpoint(path: Path, recipe: Recipe | None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed.

    recipe: must agree with the checkpoint's in every key that shapes what is computed up to here, the
    sections of other networks apart; None: any. Raises UserError for a file that is missing, cut,
    not a checkpoint of this project, or of another recipe.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = load_torch_file(path, device)
    except Exception:  # torch and pickle raise many kinds for a file that is cut or something else
        raise UserError(f"{path}: not a checkpoint, cut short or damaged") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (expected format {FORMAT})")
    checked(Checkpoint, content, path, "remove it: best.pt beside it may be whole")
    if recipe is not None:
        here_all = recipe_to_dict(recipe)
        free = here_all.keys() - shaping(recipe, PROPOSALS, WINDOWS, CHECKPOINTS).keys()
        free |= {name for name in here_all if name.startswith(_others(content["training"], recipe))}
        for name, (there, here) in recipe_difference(with_added_keys(content["recipe"]), here_all).items():
            if name not in free:
                raise UserError(f"{path}: a checkpoint of another recipe: {name} is {there!r} there, {here!r} here")
    return content


def _others(training: str, recipe: Recipe) -> tuple[str, ...]:
    """The sections of networks that have no part in a training; DeconvNet's conv_std draws every network's weights."""
    found = training_specs(recipe).get(training)
    return tuple(set(sections_of_others(found.network)) - {"network."}) if found else ()
