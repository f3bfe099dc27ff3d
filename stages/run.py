"""`python -m stages.run`: a whole run, from a data set to table, figures and report, step by step; it goes on."""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.conventions import DEFAULT_RECIPE
from deconvnet.models.registry import PARTNERS
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UsageError
from deconvnet.support.workers import check_workers
from stages.cli import add_run_arguments, make_parser, run_command

if TYPE_CHECKING:
    from stages.done import Done


def main(options: argparse.Namespace) -> None:
    """Prints the steps, or runs those that are not done."""
    from deconvnet.support.locks import held
    from stages.done import Done
    from stages.steps import steps

    recipe = _check(options)
    plan = steps(recipe, options)
    if options.dry_run:
        print("\n".join(f"python {shlex.join(step.now())}" for step in plan))
        return
    with held(options.run):
        run_all(options.run, Done(options.run, plan, recipe, options.voc_root, _files(options), options.source))


def _check(options: argparse.Namespace) -> Recipe:
    """The run's recipe. Raises UsageError for what a later step would refuse only after hours of work."""
    from deconvnet.evaluation.metrics import chosen_classes
    from deconvnet.recipe_files import load_recipe

    saved = [folder / "recipe.yaml" for folder in (options.run, options.source) if folder]
    found = None if options.recipe else next((path for path in saved if path.is_file()), None)
    recipe = load_recipe(found or options.recipe or DEFAULT_RECIPE, options.set, complete=bool(found))
    chosen_classes(options.subset_classes, recipe.data.classes)
    if options.workers is not None:
        check_workers(options.workers, least=1)
    for path in _files(options):
        if path and not path.is_file():
            raise UsageError(f"{path}: no such file")
    return recipe


def _files(options: argparse.Namespace) -> list[Path | None]:
    return [options.vgg16, options.edge_model, *(getattr(options, f"{partner}_vgg16") for partner in PARTNERS)]


def run_all(run: Path, done: "Done") -> None:
    """Runs every step that is not done; says at the end where the results are."""
    from stages.step_runner import duration, run_plans

    started, report = time.monotonic(), run / "report"
    run_plans([done])
    print(f"\nthe whole run in {duration(time.monotonic() - started)}; the table above is also in\n"
          f"  {report / 'table1.md'} (and .csv, .json)\n"
          f"sheet of pictures (image, truth, and the label maps of each row):\n"
          f"  {report / 'sheet.png'}\n"
          f"the paper's figures, as PNG and SVG:\n"
          f"  {report / 'figures'}\n"
          f"all of it and every image, to look through in a browser:\n"
          f"  {report / 'report.html'}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.run",
        "A whole run: proposals and windows, the trainings of DeconvNet and FCN-8s, label maps and scores of the\n"
        "table's rows, the table, the figures, the report. Each step is printed as the command that it is.\n"
        "Run again, it goes on where it stopped and repeats nothing that is done.",
        "python -m stages.run --recipe tiny --run runs/demo\n"
        "  python -m stages.run --recipe paper --run runs/voc --voc-root data/VOCdevkit --edge-model data/model.yml.gz")
    add_run_arguments(parser)
    parser.add_argument("--vgg16", type=Path, metavar="FILE", help="VGG16's weights, to start the trainings from")
    for partner, kind in PARTNERS.items():
        parser.add_argument(f"--{partner}-vgg16", type=Path, metavar="FILE",
                            help=f"{kind}'s, where it is to start from another file than --vgg16")
    parser.add_argument("--edge-model", type=Path, metavar="FILE", help="OpenCV's structured-edge model, model.yml.gz")
    parser.add_argument("--subset-classes", metavar="NAME,NAME,...", help="also give the mean IoU of these classes")
    parser.add_argument("--workers", type=int, help="processes of proposals, windows and CRF (default: one per core)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
