"""`python -m stages.train`: stage 1, stage 2, or FCN, from the windows or images of a run to its final weights."""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

import torch

from deconvnet.recipe import CHECKPOINTS, NETWORKS, PROPOSALS, WINDOWS
from deconvnet.run_folder import open_run
from deconvnet.runtime import choose_device, seed_everything
from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.locks import held
from deconvnet.training.lengthening import check_iterations
from deconvnet.training.schedules import _strides, train_fcn, train_stage
from stages.cli import add_run_arguments, make_parser, run_command

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Trains what was asked for."""
    if (options.stage is None) == (options.model == "deconvnet"):
        raise UsageError("give --stage 1 or --stage 2 for DeconvNet, or --model fcn8s, fcn16s, fcn32s without a stage")
    materialized = options.stage is not None and not options.voc_root
    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS), needs_images=not materialized)
    check_iterations(run)
    seed_everything(run.recipe.seed)
    device = choose_device(options.device)
    stride = 0 if options.stage else int(options.model.removeprefix("fcn").removesuffix("s"))
    names = [f"stage{options.stage}"] if options.stage else [f"fcn{one}s" for one in _strides(run.recipe, stride)]
    try:
        with contextlib.ExitStack() as locks:
            for name in names:
                locks.enter_context(held(run.training(name)))
            if options.stage:
                train_stage(run, options.stage, options.vgg16, options.resume, device)
            else:
                train_fcn(run, stride, options.vgg16, options.resume, device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was finished is kept: the same command with --resume goes on") from None
    except torch.OutOfMemoryError:
        raise UserError("the GPU's memory does not suffice: --set runtime.precision=bf16 takes less; so does a smaller "
                        "train.micro_batch (FCN: fcn.micro_batch) in a new run folder, begun with "
                        f"--from {run.root}") from None


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.train", "Trains stage 1, stage 2, or FCN, from a run's windows or images.",
                         "python -m stages.train --stage 1 --vgg16 data/vgg16_features-amdegroot-88682ab5.pth")
    add_run_arguments(parser)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="DeconvNet's stage")
    parser.add_argument("--model", choices=("deconvnet", "fcn8s", "fcn16s", "fcn32s"), default="deconvnet",
                        help="fcn8s trains fcn32s and fcn16s first where the recipe's fcn.staged says so "
                             "(default: deconvnet)")
    parser.add_argument("--vgg16", type=Path, metavar="FILE", help="torchvision's VGG16 weights, to start from")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
