"""The whole pipeline on generated images, small enough for two CPU cores: the README's commands, one after the other.

Run again, it continues where it stopped and repeats nothing that is complete. Its results stay: the images in
data/synthetic, everything else in the run folder.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from deconvnet.evaluation.rows import evaluate_command, infer_command, paper_rows
from deconvnet.models.registry import NETWORKS
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import SYNTHETIC
from deconvnet.support.errors import UserError
from stages.cli import ENDS_WITH, make_parser, run_command

SPLIT, AGGREGATE = "val", "max"
GRACE = 10  # seconds that an interrupted command has to clean up


def commands(run: Path, data: Path, recipe: str, size: tuple[str, ...] = ()) -> list[list[str]]:
    """The arguments of python for each step, in order; a training that has begun goes on.

    recipe: a recipe's name or file; size: options of experiments.synthetic_voc. Only the step that makes the run folder
    names recipe and data set: the folder remembers them.
    """
    voc_root = data / "VOC2012"
    steps = [
        ["-m", "experiments.synthetic_voc", str(data), *size],
        ["-m", "stages.build_proposals", "--run", str(run), "--recipe", recipe, "--voc-root", str(voc_root)],
    ]
    for name, options in trainings(recipe):
        begun = (run / name / "last.pt").is_file()
        steps.append(["-m", "stages.train", "--run", str(run), *options, *(["--resume"] if begun else [])])
    rows = paper_rows(AGGREGATE)
    steps += [infer_command(row, run, SPLIT) for row in rows]
    steps += [evaluate_command(row, run, SPLIT) for row in rows]
    steps += [["-m", "experiments.reproduce", str(run)], ["-m", "experiments.figures", str(run)]]
    return steps


def trainings(recipe: str) -> list[tuple[str, tuple[str, ...]]]:
    """Of the networks of the paper's table: each training's name, and the options of stages.train that run it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for spec in [spec for spec in NETWORKS.values() if spec.paper]:
        own = spec.trainings(load_recipe(recipe))
        found += ([(one.name, ("--stage", str(one.stage))) for one in own] if spec.by_stage
                  else [(own[-1].name, ("--model", spec.name))])
    return found


def run_step(arguments: list[str]) -> None:
    """Prints a command, runs it to its end, prints how long it took. Raises UserError when it fails.

    A command of this project ends soon after this process, should that be killed.
    """
    command = f"python {shlex.join(arguments)}"
    print(f"\n$ {command}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], env=os.environ | {ENDS_WITH: str(os.getpid())})
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    if status:
        raise UserError(f"`{command}` ended with status {status}; see its message above, and run the demo again: it "
                        "continues from there")
    print(f"({duration(time.monotonic() - started)})", flush=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Waits for a command that is being interrupted. A terminal's Ctrl-C reached it too; another SIGINT perhaps not."""
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()


def duration(seconds: float) -> str:
    """'75.2 s' as '1 min 15 s'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def demo(run: Path, data: Path, recipe: str, size: tuple[str, ...] = ()) -> None:
    """Runs every step; prints at the end where the results are."""
    started = time.monotonic()
    for step in commands(run, data, recipe, size):
        run_step(step)
    print(f"\nthe whole pipeline in {duration(time.monotonic() - started)}; the table above is also in\n"
          f"  {run / 'report' / 'table1.md'} (and .csv, .json)\n"
          f"sheet of pictures (image, truth, FCN-8s, DeconvNet, ensemble, ensemble + CRF):\n"
          f"  {run / 'report' / 'sheet.png'}\n"
          f"training curves:\n"
          f"  {run / 'report' / 'curves.png'}")


def main(options: argparse.Namespace) -> None:
    """The demo at its own size."""
    demo(options.out, SYNTHETIC, "tiny")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.demo", __doc__.strip(), "python -m experiments.demo")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("runs/demo"),
                        help="the run folder (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
