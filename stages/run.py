"""`python -m stages.run`: a whole run, from a data set to the table and the figures, step by step; it goes on."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.models.registry import PARTNERS
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import DEFAULT_RECIPE
from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.interrupts import SIGNALS
from deconvnet.support.locks import held
from deconvnet.support.workers import check_workers
from stages.cli import ENDS_WITH, INTERRUPTED, add_run_arguments, make_parser, run_command
from stages.done import Done
from stages.steps import Step, steps

GRACE = 10  # seconds that an interrupted command has to clean up


def main(options: argparse.Namespace) -> None:
    """Prints the steps, or runs those that are not done."""
    recipe = _check(options)
    plan = steps(recipe, options)
    if options.dry_run:
        print("\n".join(f"python {shlex.join(step.now())}" for step in plan))
        return
    with held(options.run):
        run_all(options.run, plan, Done(options.run, plan, recipe, options.voc_root, _files(options)))


def _check(options: argparse.Namespace) -> Recipe:
    """The run's recipe. Raises UsageError for what a later step would refuse only after hours of work."""
    saved = [folder / "recipe.yaml" for folder in (options.run, options.source) if folder]
    found = None if options.recipe else next((path for path in saved if path.is_file()), None)
    recipe = load_recipe(found or options.recipe or DEFAULT_RECIPE, options.set, complete=bool(found))
    subset = [name.strip() for name in (options.subset_classes or "").split(",") if name.strip()]
    if subset:
        ConfusionMatrix(recipe.data.classes).mean_iou(subset)
    if options.workers is not None:
        check_workers(options.workers, least=1)
    for path in _files(options):
        if path and not path.is_file():
            raise UsageError(f"{path}: no such file")
    return recipe


def _files(options: argparse.Namespace) -> list[Path | None]:
    return [options.vgg16, options.edge_model, *(getattr(options, f"{partner}_vgg16") for partner in PARTNERS)]


def run_all(run: Path, plan: Sequence[Step], done: Done) -> None:
    """Runs every step that is not done; says at the end where the results are."""
    started, report = time.monotonic(), run / "report"
    print(f"{len(plan)} steps; the time left is a guess, from what steps took in this run and their shares of the demo",
          flush=True)
    for number, step in enumerate(plan):
        place, before = f"step {number + 1} of {len(plan)}", done.look(number)
        if done.is_done(number, before):
            print(f"{place} is done: {step.name}", flush=True)
            continue
        waiting = [one for one in range(number, len(plan)) if not done.is_done(one, done.look(one))]
        left = time_left(plan, waiting, done.seconds())
        print(f"\n{place}{f', {about(left)} left' if left is not None else ''}", flush=True)
        done.ended(number, before, run_step(step.now()))
    print(f"\nthe whole run in {duration(time.monotonic() - started)}; the table above is also in\n"
          f"  {report / 'table1.md'} (and .csv, .json)\n"
          f"sheet of pictures (image, truth, FCN-8s, DeconvNet, ensemble, ensemble + CRF):\n"
          f"  {report / 'sheet.png'}\n"
          f"training curves:\n"
          f"  {report / 'curves.png'}")


def time_left(plan: Sequence[Step], waiting: Sequence[int], measured: dict[int, float]) -> float | None:
    """Seconds that steps will take: their shares, at what others took for theirs.

    waiting: the numbers of the steps. measured: the seconds of others, by their numbers; without any, None.
    """
    shares = sum(plan[number].share for number in measured)
    return sum(plan[number].share for number in waiting) * sum(measured.values()) / shares if shares else None


def run_step(arguments: Sequence[str]) -> float:
    """Prints a command, runs it to its end, prints how long it took; the seconds. Raises UserError when it fails.

    A command of this project ends soon after this process, should that be killed.
    """
    command = f"python {shlex.join(arguments)}"
    print(f"$ {command}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], env=os.environ | {ENDS_WITH: str(os.getpid())})
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    if status:
        raise _failure(command, status)
    seconds = time.monotonic() - started
    print(f"({duration(seconds)})", flush=True)
    return seconds


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Waits for a command that is being interrupted. A terminal's Ctrl-C reached it too; another signal perhaps not.

    It is sent SIGTERM then: in the background of a shell script commands ignore SIGINT.
    """
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _failure(command: str, status: int) -> BaseException:
    """What a command's exit status says, of the kind that ends this command with the same."""
    if status == INTERRUPTED or -status in SIGNALS:
        return KeyboardInterrupt()
    if status == UsageError.exit_status:
        return UsageError(f"`{command}` ended with status {status}; see its message above")
    how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    return UserError(f"`{command}` {how}; see its message above, and run the same command again: it continues from "
                     "there")


def duration(seconds: float) -> str:
    """'75.2 s' as '1 min 15 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def about(seconds: float) -> str:
    """A guess, as rough as it is: less than a minute, about 6 min, about 5 h, about 3 days."""
    if seconds < 60:
        return "less than a minute"
    for most, unit, name in ((7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"about {round(seconds / unit)} {name}"
    return f"about {round(seconds / 86_400)} days"


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.run",
        "A whole run: proposals and windows, the trainings of DeconvNet and FCN-8s, label maps and scores of the\n"
        "table's rows, the table, the figures. Each step is printed as the command that it is. Run again, it goes on\n"
        "where it stopped and repeats nothing that is done.",
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
