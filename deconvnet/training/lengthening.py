"""A longer training (train.iterations, fcn.iterations, ...): what is recorded, what is rejected, what becomes outdated.

The lengthened training is, bit for bit, the one that was as long from the start where its former end was a multiple of
train.validate_every; else the validation at that end counts too, for best.pt and the plateau rule.
"""

import copy
import logging
from pathlib import Path
from typing import Any

from deconvnet.models.registry import training_specs
from deconvnet.models.spec import TrainingSpec
from deconvnet.recipe import recipe_difference, recipe_to_dict
from deconvnet.recipe_files import save_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UsageError
from deconvnet.training.checkpoint import load_checkpoint

log = logging.getLogger(__name__)


def done(run: RunFolder, name: str) -> int | None:
    """The iterations that a training has done; None without a checkpoint."""
    last = run.training(name) / "last.pt"
    return load_checkpoint(last, None, "meta")["iteration"] if last.is_file() else None


def check_iterations(run: RunFolder) -> None:
    """Raises UsageError where --set gives a training fewer iterations than it has done."""
    before = training_specs(run.recorded)
    for name, training in training_specs(run.recipe).items():
        count = training.iterations
        if count != before[name].iterations and (so_far := done(run, name) or 0) > count:
            raise UsageError(f"{run.root}: {training.iterations_key} gives {training.title} {count}, but {so_far} are "
                             "done; expected as many or more, or another --run folder")


def record_iterations(run: RunFolder) -> None:
    """Writes the numbers of iterations, which --set may change within a run, into its recipe.yaml."""
    new, values = copy.deepcopy(run.recorded), recipe_to_dict(run.recipe)
    keys = {training.iterations_key for training in training_specs(run.recipe).values()}
    names = sorted(keys & recipe_difference(recipe_to_dict(new), values).keys())
    for name in names:
        section, _, key = name.partition(".")
        setattr(getattr(new, section), key, values[name])
    if names:
        save_recipe(new, run.root / "recipe.yaml")
        run.recorded = new
        log.info("%s: now %s", run.root / "recipe.yaml", ", ".join(f"{name} = {values[name]}" for name in names))


def start_name(run: RunFolder, start: Path, content: dict[str, Any]) -> str:
    """What a training started from, for the record: a checkpoint of the training before it."""
    return f"{training_specs(run.recipe)[start.parent.name].title}'s {start.name}, iteration {content['iteration']}"


def warn_of_older_start(run: RunFolder, spec: TrainingSpec, origin: str, start: Path) -> None:
    """Warns if the checkpoint that a training started from has been trained further since. origin: the training's."""
    title = training_specs(run.recipe)[start.parent.name].title
    if not start.is_file() or not origin.startswith(f"{title}'s {start.name}, iteration"):
        return
    now = start_name(run, start, load_checkpoint(start, None, "meta"))
    if origin != now:
        log.warning("!!! %s started from %s; now there is %s: to start from that, remove the folder %s and train again",
                    spec.title, origin, now, spec.name)
