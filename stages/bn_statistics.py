"""`python -m stages.bn_statistics`: measures a network's BN statistics over the run's training windows."""

import argparse
import logging
import sys
from pathlib import Path

from deconvnet.models.registry import training_specs
from deconvnet.recipe import CHECKPOINTS, PROPOSALS, WINDOWS
from deconvnet.run_folder import RunFolder, git_commit, open_run
from deconvnet.support.atomic import remove_leftovers
from deconvnet.support.errors import UsageError
from deconvnet.support.locks import held
from stages.cli import add_run_arguments, make_parser, run_command

log = logging.getLogger(__name__)

KIND = "deconvnet"


def main(options: argparse.Namespace) -> None:
    """Loads the weights, measures with them frozen, writes them with the statistics."""
    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS),
                   needs_images=bool(options.voc_root))
    recipe, stage = run.recipe, options.stage
    if not recipe.network.batch_norm:
        raise UsageError("recipe key network.batch_norm is false: there are no statistics to measure")
    weights = options.weights or run.network(f"stage{stage}")
    if not weights.is_file():
        how = "" if options.weights else f"; `python -m stages.train --run {run.root} --stage {stage}` makes them"
        raise UsageError(f"{weights}: no such weights{how}")
    to = options.to or weights
    with held(run.training(f"stage{stage}") if to == run.network(f"stage{stage}") else to):
        remove_leftovers(to.parent)
        _measure(run, options, weights, to)


def _measure(run: RunFolder, options: argparse.Namespace, weights: Path, to: Path) -> None:
    # torch's modules, here, not above: --help answers at once
    from deconvnet.models.network_files import load_unmeasured, save_network
    from deconvnet.runtime import choose_device, prepare, seed_everything
    from deconvnet.training.example_sources import training_data
    from deconvnet.training.schedules import measure

    recipe, stage = run.recipe, options.stage
    seed_everything(recipe.seed)
    model, metadata = load_unmeasured(weights, KIND, recipe)
    if metadata.get("bn") == "folded":
        raise UsageError(f"{weights}: its BN is folded into scale and shift, so there is nothing to measure; "
                         "stages.infer takes it as it is")
    device = choose_device(options.device, training=True)
    training = training_specs(recipe)[f"stage{stage}"]
    learned = training_data(run, training, recipe.data.train_split, True)
    done = measure(run, prepare(model, recipe.runtime, device), training, learned, device)
    origin = metadata.get("origin", {"file": metadata.get("source", weights.name)})
    origin |= {"bn_statistics": {"stage": stage, "commit": git_commit(), **run.values("bn_statistics."), **done}}
    save_network(model, to, KIND, recipe, "measured", origin)
    log.info("%s: BN statistics over %d batches of %d windows of stage %d", to, recipe.bn_statistics.batches,
             recipe.bn_statistics.batch, stage)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.bn_statistics",
        "Measures a DeconvNet's BN statistics over the run's training windows, with frozen weights. stages.train does\n"
        "so after training; this command is for imported weights, and for other bn_statistics keys (--set).",
        "python -m stages.bn_statistics --run runs/voc --weights DeconvNet.safetensors --to measured.safetensors",
    )
    add_run_arguments(parser)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2, help="whose windows (default: 2)")
    parser.add_argument("--weights", type=Path, metavar="FILE.safetensors",
                        help="the network (default: the run's network of that stage)")
    parser.add_argument("--to", type=Path, metavar="FILE.safetensors", help="file to write (default: the weights' own)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
