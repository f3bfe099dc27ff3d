"""`python -m stages.bn_statistics`: measures a network's BN statistics over the run's training windows or images."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.models.registry import NETWORKS
from deconvnet.models.spec import MEASURED, TrainingSpec
from deconvnet.recipe import CHECKPOINTS, PROPOSALS, WINDOWS, Recipe
from deconvnet.support.atomic import remove_leftovers
from deconvnet.support.errors import UsageError
from stages.cli import add_run_arguments, make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.run_folder import RunFolder

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Loads the weights, measures with them frozen, writes them with the statistics."""
    from deconvnet.run_folder import open_run
    from deconvnet.support.locks import held

    by_stage = NETWORKS[options.model].by_stage
    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS),
                   needs_images=not by_stage or bool(options.voc_root))
    training = _training(run.recipe, options.model, options.stage)
    weights = options.weights or run.network(training.name)
    if not weights.is_file():
        which = f"--stage {training.stage}" if by_stage else f"--model {options.model}"
        how = "" if options.weights else f"; `python -m stages.train --run {run.root} {which}` makes them"
        raise UsageError(f"{weights}: no such weights{how}")
    to = options.to or weights
    with held(run.training(training.name) if to == run.network(training.name) else to):
        remove_leftovers(to.parent)
        _measure(run, training, weights, to, options.device)


def _training(recipe: Recipe, model: str, stage: int | None) -> TrainingSpec:
    """The training whose windows or images are measured on; its last one unless a stage is named."""
    spec = NETWORKS[model]
    if stage and not spec.by_stage:
        raise UsageError(f"--stage {stage}: {spec.title} has no stages; expected --model {model} without one")
    training = [one for one in spec.trainings(recipe) if stage in (None, one.stage)][-1]
    if training.bn != MEASURED:
        raise UsageError(f"{training.title}: it has no batch normalisation, or one whose statistics are not measured")
    return training


def _measure(run: "RunFolder", training: TrainingSpec, weights: Path, to: Path, device_name: str) -> None:
    from deconvnet.models.network_files import load_unmeasured, save_network
    from deconvnet.run_folder import git_commit
    from deconvnet.runtime import choose_device, prepare, seed_everything
    from deconvnet.training.example_sources import training_data
    from deconvnet.training.schedules import measure

    recipe = run.recipe
    seed_everything(recipe.seed)
    model, metadata = load_unmeasured(weights, training.network, recipe)
    if metadata.get("bn") == "folded":
        raise UsageError(f"{weights}: its BN is folded into scale and shift, so there is nothing to measure; "
                         "stages.infer takes it as it is")
    device = choose_device(device_name, training=True)
    learned = training_data(run, training, recipe.data.train_split, True)
    done = measure(run, prepare(model, recipe.runtime, device), training, learned, device)
    origin = metadata.get("origin", {"file": metadata.get("source", weights.name)})
    origin |= {"bn_statistics": {"training": training.name, "commit": git_commit(), **run.values("bn_statistics."),
                                 **done}}
    save_network(model, to, training.network, recipe, "measured", origin)
    log.info("%s: BN statistics over %d batches of %d %s of %s", to, recipe.bn_statistics.batches,
             recipe.bn_statistics.batch, training.examples, training.title)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.bn_statistics",
        "Measures a network's BN statistics over the run's training windows or images, with frozen weights.\n"
        "stages.train does so after training; this command is for imported weights, and for other bn_statistics keys\n"
        "(--set).",
        "python -m stages.bn_statistics --run runs/voc --weights DeconvNet.safetensors --to measured.safetensors",
    )
    add_run_arguments(parser)
    parser.add_argument("--model", choices=tuple(NETWORKS), default="deconvnet", help="(default: deconvnet)")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="DeconvNet's stage, whose windows (default: 2)")
    parser.add_argument("--weights", type=Path, metavar="FILE.safetensors",
                        help="the network (default: the run's)")
    parser.add_argument("--to", type=Path, metavar="FILE.safetensors", help="file to write (default: the weights' own)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
