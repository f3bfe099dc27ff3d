"""Kills the long commands at random and sees that nothing is lost: `python -m tests.kills --seed 0 --count 100`.

Each kill: SIGKILL, SIGTERM, SIGINT or SIGHUP, to the process group or to one of its processes, at a random moment of
one command of a tiny run. The same command is run again, a training with --resume. Then every result must be, bit for
bit, that of a run that nobody disturbed; no file may be left over, no process, and no traceback in what was printed.
About 5 s a kill on one core; --only NUMBER repeats one of them. Processes are looked up in /proc, so it takes Linux.

The commands are forked from this process, which has imported what they import, and otherwise run as they always do.
"""

import argparse
import csv
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# What these need is imported where it is used: the commands' worker processes import this module first.
KEYS = ("network.width=0.0625", "network.input=32", "windows.warp=36", "windows.stage2_top=4", "network.deconv_std=0",
        "proposals.count=60", "train.batch=4", "train.micro_batch=2", "train.iterations=[30,30]",
        "train.validate_every=11", "train.validate_windows=6", "train.checkpoint_every=7", "train.workers=2",
        "solver.lr_patience=1", "bn_statistics.batches=12", "bn_statistics.batch=4", "fcn.width=0.03125",
        "fcn.canvas=96", "fcn.iterations=[6,6,12]", "fcn.staged=true", "fcn.batch=4", "fcn.micro_batch=2",
        "fcn.lr=0.001", "fcn.validate_images=2", "infer.proposals=5")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST = 300.0  # seconds that a command may take before it counts as hanging
ENDING = 15.0  # seconds that the last process may take to end behind the command
DIFFER = ("events.out.tfevents.", "trace.json")  # tell of each start of a command


@dataclass
class Command:
    """One of the long commands, as it is given first; `again` are the options that go on with it."""

    name: str
    module: str
    options: tuple[str, ...]
    again: tuple[str, ...] = ()


def commands() -> list[Command]:
    """In the order of the pipeline, all in the folder that holds the run."""
    run, cpu = ("--run", "run"), ("--device", "cpu")
    sets = tuple(word for key in KEYS for word in ("--set", key))
    row = ("--aggregate", "max", "--ensemble", "fcn")
    return [
        Command("build_proposals", "stages.build_proposals",
                (*run, "--recipe", "tiny", *sets, "--voc-root", "../voc", "--workers", "2", "--materialize"),),
        Command("stage 1", "stages.train", (*run, *cpu, "--stage", "1"), ("--resume",)),
        Command("stage 2", "stages.train", (*run, *cpu, "--stage", "2"), ("--resume",)),
        Command("fcn8s", "stages.train", (*run, *cpu, "--model", "fcn8s"), ("--resume",)),
        Command("bn_statistics", "stages.bn_statistics", (*run, *cpu)),
        Command("infer", "stages.infer", (*run, *cpu, *row, "--overlay")),
        Command("infer --crf", "stages.infer", (*run, *cpu, *row, "--crf", "--workers", "2")),
        Command("evaluate", "stages.evaluate", ("--predictions", "run/predictions/val/deconvnet-max-fcn",
                                                "--voc-root", "../voc", "--comp6", "run/comp6.tgz")),
    ]


def _run(command: Command, folder: Path, options: tuple[str, ...]) -> None:
    """In a process of its own, which is a session as from a terminal's: the command, until sys.exit."""
    os.setsid()
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = [command.module, *command.options, *options]
    module = importlib.import_module(command.module)
    from stages.cli import run_command

    sys.exit(run_command(module.parse(), module.main))


@contextmanager
def running(command: Command, folder: Path, options: tuple[str, ...] = ()) -> Iterator[multiprocessing.Process]:
    """A started command; whatever is left of it at the end of the block is killed."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(command, folder, options))
    process.start()
    while os.getpgid(process.pid) != process.pid and process.is_alive():
        time.sleep(0.001)
    try:
        yield process
    finally:
        for member in group(process.pid):
            os.kill(member, signal.SIGKILL)
        process.join()


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has just ended
            continue
        if int(of_group) == leader and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def end_of(process: multiprocessing.Process) -> int:
    """The exit status of a command, once every process of its group has ended. Raises RuntimeError otherwise."""
    process.join(LONGEST)
    if process.is_alive():
        raise RuntimeError(f"hangs; its processes: {group(process.pid)}")
    deadline = time.monotonic() + ENDING
    while left := group(process.pid):
        if time.monotonic() > deadline:
            raise RuntimeError(f"left processes at work: {left}")
        time.sleep(0.02)
    return process.exitcode


def undisturbed(root: Path) -> list[float]:
    """Runs the pipeline, keeps root/N as it was before command N; returns the seconds that each command took."""
    took = []
    (root / "0").mkdir(parents=True)
    for number, command in enumerate(commands()):
        after = root / str(number + 1)
        shutil.copytree(root / str(number), after)
        began = time.monotonic()
        with running(command, after) as process:
            status = end_of(process)
        took.append(time.monotonic() - began)
        text = (after / "log").read_text()
        if status:
            raise RuntimeError(f"{command.name} ended with {status}: {text}")
        (after / "log").unlink()
        print(f"undisturbed: {command.name}, {took[-1]:.1f} s", flush=True)
    return took


def kill(root: Path, took: list[float], seed: int, number: int) -> tuple[str, str]:
    """Kill number `number`: what was done, and what was wrong with it ('' if nothing)."""
    random = np.random.default_rng([seed, number])
    index = number % len(took)
    command = commands()[index]
    sent = SIGNALS[random.integers(len(SIGNALS))]
    moment, alone, which = random.uniform(0, 1.05 * took[index]), random.random() < 0.5, random.random()
    folder = root / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / str(index), folder)
    told = f"{command.name}, {sent.name} after {moment:.2f} s to "
    try:
        with running(command, folder) as process:
            process.join(moment)
            members = group(process.pid)
            target = members[int(which * len(members))] if alone and members else process.pid
            if members:
                (os.kill if alone else os.killpg)(target, sent)
            told += "the group" if not alone else "the command alone" if target == process.pid else "one worker alone"
            status = end_of(process)
        told += f": {status}"
        text = (folder / "log").read_text() if (folder / "log").exists() else ""
        if wrong := _ending(status, sent, text):
            return told, f"{wrong}\n{text}"
        (folder / "log").unlink(missing_ok=True)
        with running(command, folder, command.again) as process:
            if status := end_of(process):
                return told, f"run again it ended with {status}:\n{(folder / 'log').read_text()}"
        (folder / "log").unlink()
        return told, "; ".join(differences(root / str(index + 1), folder))
    except RuntimeError as error:
        return told, str(error)


def _ending(status: int, sent: signal.Signals, text: str) -> str:
    """What is wrong with how a killed command ended."""
    tracker = "resource_tracker: process died unexpectedly" in text  # Python's own, killed alone, is told by Python
    if ("Traceback" in text or "ignored" in text) and not tracker:
        return "a traceback"
    if status == 1 and "was killed" in text and sent == signal.SIGKILL and text.count("\nerror: ") == 1:
        return ""
    if status == 130 and sent != signal.SIGKILL and text.count("interrupted; ") == 1:
        return ""
    return "" if status in (0, -sent) else f"ended with {status}"


def differences(one: Path, other: Path) -> list[str]:
    """How two folders differ in names and contents, but for times and what tells of each start of a command."""
    names, others = ({str(path.relative_to(root)) for path in root.rglob("*")
                      if path.is_file() and not path.name.startswith(DIFFER)} for root in (one, other))
    found = [f"left behind: {name}" for name in sorted(others - names)]
    found += [f"lacking: {name}" for name in sorted(names - others)]
    return found + [f"differs: {name}" for name in sorted(names & others)
                    if (one / name).read_bytes() != (other / name).read_bytes()
                    and not same(told(one / name), told(other / name))]


def told(path: Path) -> Any:
    """A file's content without times and commits, where such stand in it; else its bytes."""
    import json

    import torch

    from deconvnet.models.weight_files import read_safetensors

    readers: dict[str, Callable[[], Any]] = {
        ".json": lambda: json.loads(path.read_text()),
        ".csv": lambda: list(csv.DictReader(path.read_text().splitlines())),
        ".pt": lambda: torch.load(path, weights_only=True),
        ".safetensors": lambda: read_safetensors(path),
    }
    return readers.get(path.suffix, path.read_bytes)()


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal, tensors bit for bit."""
    import torch

    if isinstance(one, dict) and isinstance(other, dict):
        free = {"commit", "seconds", "images_per_second"}
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one.keys() - free)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def run(seed: int, numbers: list[int], root: Path) -> int:
    """Makes the undisturbed run and these kills; prints each; returns how many went wrong."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from deconvnet.data.synthetic import generate

    torch.set_num_threads(1)
    for command in commands():
        importlib.import_module(command.module)
    importlib.import_module("torch.utils.tensorboard")
    generate(root / "voc", train=6, val=4, seed=0, side=96)
    took = undisturbed(root)
    failed = 0
    for number in numbers:
        what, wrong = kill(root, took, seed, number)
        print(f"{number}: {what}: {wrong or 'same'}", flush=True)
        if wrong:
            failed += 1
            shutil.copytree(root / "killed", root / f"wrong{number}")
    print(f"{len(numbers)} kills, {failed} of them went wrong", flush=True)
    return failed


def main() -> int:
    """The command; what went wrong stays in a folder that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this one alone")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    failed = run(options.seed, list(range(options.count)) if options.only is None else [options.only], root)
    if failed:
        print(f"kept: {root}/wrong*")
    else:
        shutil.rmtree(root)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
