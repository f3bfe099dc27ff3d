"""`python -m stages.train`: stage 1, stage 2, or another network, from a run's windows or images to final weights."""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

from deconvnet.models.registry import NETWORKS
from deconvnet.recipe import CHECKPOINTS, PROPOSALS, WINDOWS
from deconvnet.recipe import NETWORKS as FINAL_NETWORKS
from deconvnet.support.errors import UsageError, UserError
from stages.cli import add_run_arguments, make_parser, run_command

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Trains what was asked for, together with the other ranks where torchrun started several."""
    from deconvnet.training import ranks

    with ranks.together():
        _train(options)


def _train(options: argparse.Namespace) -> None:
    import torch

    from deconvnet.run_folder import open_run
    from deconvnet.runtime import choose_device, seed_everything
    from deconvnet.support.locks import held
    from deconvnet.training import ranks
    from deconvnet.training.lengthening import check_iterations
    from deconvnet.training.schedules import Given, asked_for, train_all

    by_stage = NETWORKS[options.model].by_stage
    if by_stage != (options.stage is not None):
        others = ", ".join(name for name in NETWORKS if not NETWORKS[name].by_stage)
        raise UsageError(f"give --stage 1 or --stage 2 for DeconvNet, or --model without a stage: one of {others}")
    # A stage's windows may be materialized, and need no images then.
    run = ranks.first(lambda: open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, FINAL_NETWORKS),
                                       needs_images=not by_stage or bool(options.voc_root)))
    check_iterations(run)
    seed_everything(run.recipe.seed)
    device = choose_device(ranks.own_device(options.device), training=True)
    trainings = asked_for(run.recipe, options.model, options.stage)
    for training in trainings:
        ranks.check_share(training)
    try:
        with contextlib.ExitStack() as locks:
            ranks.first(lambda: [locks.enter_context(held(run.training(one.name))) for one in trainings])
            train_all(run, trainings, Given(options.vgg16, options.weights), options.resume, device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was finished is kept: run the same command with --resume to continue") from None
    except torch.OutOfMemoryError:
        raise UserError("the GPU is out of memory: use --set runtime.precision=bf16, or a smaller "
                        f"{trainings[-1].section}.micro_batch in a new run folder, started with --from {run.root}"
                        ) from None


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.train",
                         "Trains stage 1, stage 2, or another network, from a run's windows or images.\n"
                         "On several GPUs: torchrun --nproc_per_node GPUS -m -- stages.train, with the same options "
                         "(docs/reproduction.md).",
                         "python -m stages.train --stage 1 --vgg16 data/vgg16_features-amdegroot-88682ab5.pth")
    add_run_arguments(parser)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="DeconvNet's stage")
    parser.add_argument("--model", choices=tuple(NETWORKS), default="deconvnet",
                        help="fcn8s trains fcn32s and fcn16s first where the recipe's fcn.staged says so "
                             "(default: deconvnet)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--vgg16", type=Path, metavar="FILE",
                       help="VGG16's weights, to start from: torchvision's, or its convolutions as .safetensors")
    start.add_argument("--weights", type=Path, metavar="FILE",
                       help="a network's file, to fine-tune: what fits is kept; other classes get new score layers")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    parser.add_argument("--device", default="auto",
                        help="cpu, cuda, cuda:1, ... (default: the GPU where there is one; for each of torchrun's "
                             "ranks its own)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
