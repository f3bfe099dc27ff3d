"""What a run folder tells of itself: recipe, record, data set, training logs."""

import json
from dataclasses import dataclass
from pathlib import Path

from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder, recorded_voc_root
from deconvnet.run_sources import find_sources
from deconvnet.schemas import FigureRecord, RunRecord, checked, read_json
from deconvnet.support.errors import UsageError, UserError
from deconvnet.training.log_file import read_log


@dataclass
class Record:
    """recipe.yaml, run.json (commit, versions, machine), and the data set's folder where data.json names it."""

    recipe: Recipe
    made_with: RunRecord
    voc_root: Path | None
    folder: RunFolder


def read_run(run: Path) -> Record:
    """A run folder's record. Raises UsageError if it is not a run folder, UserError for a damaged one."""
    for name in ("recipe.yaml", "run.json"):
        if not (run / name).is_file():
            raise UsageError(f"{run / name}: no such file; expected a run folder, which stages.build_proposals starts")
    voc_root = recorded_voc_root(run, sources := find_sources(run))
    recipe = load_recipe(run / "recipe.yaml", complete=True)
    folder = RunFolder(run, recipe, voc_root, sources)
    return Record(recipe, read_json(run / "run.json", RunRecord), voc_root, folder)


def log_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a training's log.csv; a kill may have cut the last one. Raises UserError for a damaged one."""
    lines, damaged = read_log(path)
    if damaged:
        raise UserError(f"{path}: line {damaged[0]} is damaged; remove it, or train on: stages.train --resume does so")
    return lines


def listed_figures(path: Path) -> list[FigureRecord]:
    """The figures that experiments.figures has drawn, of figures.json; none without it. Raises UserError."""
    if not path.is_file():
        return []
    remedy = "run experiments.figures again"
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}; {remedy}") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: damaged: not a list of figures; {remedy}")
    return [checked(FigureRecord, one, path, remedy) for one in content]
