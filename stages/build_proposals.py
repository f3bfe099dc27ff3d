"""`python -m stages.build_proposals`: proposals and windows of a split, into HDF5 files of the run folder."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.support.errors import UserError
from deconvnet.support.workers import check_workers, default_workers
from stages.cli import add_engine_arguments, add_run_arguments, engine_of, make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.run_folder import RunFolder
    from deconvnet.support.engines import Engine

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Proposals where a stage needs them, then windows, for each split and stage asked for."""
    from deconvnet.run_folder import open_run
    from deconvnet.support.locks import held

    workers = default_workers() if options.workers is None else options.workers
    if options.engine == "local":
        check_workers(workers, least=0)
    run = open_run(options, begins=True)
    data = run.recipe.data
    splits = options.split or [data.train_split, data.val_split]
    stages = {"1": (1,), "2": (2,), "both": (1, 2), "none": ()}[options.stage]
    with held(run.root / "build"), engine_of(options, options.workers) as engine:
        _check_own(run)
        _build_all(run, splits, stages, options, workers, engine)


def _check_own(run: "RunFolder") -> None:
    """Raises UserError when a command that began the run at the same moment wrote another recipe down."""
    from deconvnet.recipe import recipe_to_dict
    from deconvnet.recipe_files import load_recipe

    if recipe_to_dict(load_recipe(run.root / "recipe.yaml", complete=True)) != recipe_to_dict(run.recipe):
        raise UserError(f"{run.root / 'recipe.yaml'}: another command just started this run with another recipe: "
                        "use another --run folder")


def _build_all(run: "RunFolder", splits: list[str], stages: tuple[int, ...], options: argparse.Namespace, workers: int,
               engine: "Engine | None") -> None:
    from proposals.build import build_proposals, build_windows, check_some_masks

    data = run.recipe.data
    for split in splits:
        ids = run.voc().image_ids(split)  # a missing list is an error before hours of work, and so is a wrong one
        if stages:
            check_some_masks(run.voc(), ids)
    for split in splits:
        # Inference needs the proposals of the validation split whatever the stage.
        if stages != (1,) or split != data.train_split:
            build_proposals(run, split, options.edge_model, workers, options.on_error, engine)
        for stage in stages:
            build_windows(run, split, stage, options.materialize, workers, options.on_error, engine)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.build_proposals", "Makes proposals and windows of a split: HDF5 files in the run folder.",
        "python -m stages.build_proposals --run runs/voc --recipe paper --voc-root data/VOCdevkit --stage both",
    )
    add_run_arguments(parser)
    parser.add_argument("--split", action="append", help="a split list's name; may repeat (default: the recipe's train "
                        "and validation splits)")
    parser.add_argument("--stage", choices=("1", "2", "both", "none"), default="both",
                        help="whose windows to make; none: proposals alone, for images without masks (default: both)")
    parser.add_argument("--edge-model", type=Path, metavar="FILE", help="OpenCV's structured-edge model, model.yml.gz")
    parser.add_argument("--materialize", action="store_true",
                        help="store the warped crops in the windows files, so that training needs nothing else")
    parser.add_argument("--workers", type=int,
                        help="processes (default: one per core, of the cluster with --engine ray)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                        help="what to do about an image that cannot be read (default: stop)")
    add_engine_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
