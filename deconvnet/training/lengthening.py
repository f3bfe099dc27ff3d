"""A longer train.iterations or fcn.iterations: what is written down, what is refused, what is no longer the newest.

The lengthened training is, bit for bit, the one that was as long from the start where its former end was a multiple of
train.validate_every; else the validation at that end counts too, for best.pt and the plateau rule.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconvnet.recipe import Recipe
from deconvnet.recipe_files import save_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UsageError
from deconvnet.training.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

NAMES = {"stage1": "stage 1", "stage2": "stage 2", "fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s"}


def planned(recipe: Recipe) -> dict[str, int]:
    """The iterations of each training."""
    return dict(zip(NAMES, [*recipe.train.iterations, *recipe.fcn.iterations], strict=True))


def done(run: RunFolder, name: str) -> int | None:
    """The iterations that a training has done; None without a checkpoint."""
    last = run.training(name) / "last.pt"
    return load_checkpoint(last, None, "meta")["iteration"] if last.is_file() else None


def check_iterations(run: RunFolder) -> None:
    """Raises UsageError where --set gives a training fewer iterations than it has done."""
    before = planned(run.recorded)
    for name, count in planned(run.recipe).items():
        if count != before[name] and (so_far := done(run, name) or 0) > count:
            key = "fcn.iterations" if name.startswith("fcn") else "train.iterations"
            raise UsageError(f"{run.root}: {key} gives {NAMES[name]} {count}, but {so_far} are done; expected as many "
                             "or more, or another --run folder")


def record_iterations(run: RunFolder) -> None:
    """Writes train.iterations and fcn.iterations, which --set may change within a run, into its recipe.yaml."""
    new = replace(run.recorded, train=replace(run.recorded.train, iterations=run.recipe.train.iterations),
                  fcn=replace(run.recorded.fcn, iterations=run.recipe.fcn.iterations))
    if new != run.recorded:
        save_recipe(new, run.root / "recipe.yaml")
        run.recorded = new
        log.info("%s: train.iterations is now %s, fcn.iterations %s", run.root / "recipe.yaml", new.train.iterations,
                 new.fcn.iterations)


def start_name(start: Path, content: dict[str, Any]) -> str:
    """What a training started from, for the record: a checkpoint of the training before it."""
    return f"{NAMES[start.parent.name]}'s {start.name}, iteration {content['iteration']}"


def warn_of_older_start(name: str, origin: str, start: Path) -> None:
    """Says it loudly when the checkpoint that a training started from has gone on since. origin: the training's."""
    if not start.is_file() or not origin.startswith(f"{NAMES[start.parent.name]}'s {start.name}, iteration"):
        return
    now = start_name(start, load_checkpoint(start, None, "meta"))
    if origin != now:
        log.warning("!!! %s started from %s; now there is %s: to start from that, remove the folder %s and train again",
                    NAMES[name], origin, now, name)
