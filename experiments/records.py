"""What a run folder tells of itself: recipe, record, data set, training logs."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconvnet.errors import UsageError, UserError
from deconvnet.files import read_json
from deconvnet.recipe import Recipe, load_recipe
from stages.run_folder import RunFolder
from stages.sources import find_sources


@dataclass
class Record:
    """recipe.yaml, run.json (commit, versions, machine), and the data set's folder where data.json names it."""

    recipe: Recipe
    made_with: dict[str, Any]
    voc_root: Path | None
    folder: RunFolder


def read_run(run: Path) -> Record:
    """A run folder's record. Raises UsageError for a folder that is none, UserError for a damaged one."""
    for name in ("recipe.yaml", "run.json"):
        if not (run / name).is_file():
            raise UsageError(f"{run / name}: no such file; expected a run folder, which stages.build_proposals begins")
    data = read_json(run / "data.json") if (run / "data.json").is_file() else {}
    voc_root = Path(data["voc_root"]) if isinstance(data.get("voc_root"), str) else None
    recipe = load_recipe(run / "recipe.yaml", complete=True)
    return Record(recipe, read_json(run / "run.json"), voc_root, RunFolder(run, recipe, voc_root, find_sources(run)))


def log_lines(path: Path) -> list[dict[str, str]]:
    """The whole lines of a training's log.csv; a kill may have cut the last one. Raises UserError."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if None not in line.values()]
    if lines and not {"iteration", "rate", "loss", "validation_accuracy"} <= set(lines[0]):
        raise UserError(f"{path}: not a training's log; expected the columns that stages.train writes")
    return lines
