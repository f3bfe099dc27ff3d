"""One case: a fresh work folder, one piece of damage, the commands in a process of their own, and what it came to."""

import faulthandler
import importlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deconvnet.support.errors import UserError
from stages.cli import run_command
from tests.fuzz.kinds import KINDS, Command, Kind
from tests.fuzz.mutators import BYTES

MEMORY = 2 << 30  # bytes beyond what the imports take
SECONDS = 30  # of processor time
WALL = 200  # seconds; other work may share the machine
LONGEST = 600  # characters of an error line
# log.csv and trace.json when a training begins, with what they had; what is known of the pictures' contents.
ALWAYS_REWRITTEN = ("log.csv", "trace.json", "contents.json")
NOISE = ("Traceback", "HDF5-DIAG", "(--debug shows where)", "Exception ignored")


@dataclass
class Outcome:
    """How a case's commands ended. status: of the first that failed, else 0; None for a crash or a hang."""

    status: int | None
    errors: list[str]
    output: str
    died: str = ""


class Workshop:
    """The folder in which cases are run: base, which stays, and work, a copy of it for each case.

    The copy always has the same path, since files of a run hold paths.
    """

    def __init__(self, folder: Path, make: Callable[[Path], None]) -> None:
        self.work, self.base = folder / "work", folder / "base"
        self.said = folder / "said.txt"
        self.work.mkdir()
        outcome = self.in_process(lambda: make(self.work) or 0, limited=False)
        if outcome.status != 0:
            raise UserError(f"the base could not be made: {outcome.output[-2000:]} {outcome.died}")
        self.work.rename(self.base)
        self._clean: dict[str, dict[str, int]] = {}

    def fresh(self, kind: Kind) -> None:
        """The work folder as a kind's cases begin."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.base, self.work, symlinks=True)
        for old, new in kind.copies:
            shutil.copy(self.work / old, self.work / new)
        for pattern in kind.removed:
            for path in list(self.work.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def case(self, name: str, seed: int) -> tuple[str, int | None, list[str]]:
        """Runs a case; what the damage was, the exit status, and what is wrong about how it ended."""
        kind, dice = KINDS[name], random.Random(f"{name}:{seed}")
        clean = self._results_of_a_clean_run(kind)
        self.fresh(kind)
        target, how, in_bytes = self.work, "", False
        if kind.target:
            target = dice.choice(sorted(self.work.glob(kind.target)))
            mutator = dice.choice((*BYTES, *kind.mutators))
            in_bytes = mutator in BYTES
            made = self.in_process(lambda: print(mutator(target, dice)) or 0)
            if made.status != 0:
                return f"{mutator.__name__}", None, [f"the damage itself failed: {made.output[-500:]} {made.died}"]
            how = f"{target.relative_to(self.work)}: {made.output.strip()[-200:]}"
        commands = kind.commands
        if kind.options:
            given = kind.options(dice, self.work)
            commands, how = tuple((*command, *given) for command in commands), f"{how}{' '.join(given)!r:.300}"
        before = snapshot(self.work)
        outcome = self.run(commands, target)
        wrong = judge(kind, outcome, before, snapshot(self.work), clean if in_bytes else {}, target, self.work)
        return how, outcome.status, wrong

    def _results_of_a_clean_run(self, kind: Kind) -> dict[str, int]:
        if kind.name not in self._clean:
            self._clean[kind.name] = {}
            if kind.results:
                self.fresh(kind)
                outcome = self.run(kind.commands, self.work)
                if outcome.status != 0:
                    raise UserError(f"{kind.name}: the undamaged case failed: {outcome.output[-1000:]}")
                self._clean[kind.name] = results(kind, self.work)
        return self._clean[kind.name]

    def run(self, commands: tuple[Command, ...], target: Path) -> Outcome:
        """Commands one after the other, up to the first that fails."""
        def steps() -> int:
            os.chdir(self.work / "cwd")
            for module, *arguments in commands:
                given = [text.replace("{work}", str(self.work)).replace("{target}", str(target)) for text in arguments]
                if status := in_this_process(module, given):
                    return status
            return 0

        return self.in_process(steps)

    def in_process(self, steps: Callable[[], int], limited: bool = True) -> Outcome:
        """Calls `steps` in a fork of this process, which has imported everything; its status is what steps returns."""
        answer = self.said.with_name("answer.json")
        answer.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if not process:
            _be_the_child(self.said, answer, steps, limited)
        status = _wait(process, WALL if limited else 600)
        output = self.said.read_text(errors="replace")
        errors = [line for line in output.replace("\r", "\n").split("\n")
                  if line.startswith("error: ") or ": error: " in line]
        if answer.is_file():
            return Outcome(json.loads(answer.read_text()), errors, output)
        died = "a hang" if status is None or status in (signal.SIGXCPU, signal.SIGKILL) else f"a crash, signal {status}"
        return Outcome(None, errors, output, died)


def in_this_process(module: str, arguments: list[str]) -> int:
    """A command's exit status; argparse ends with SystemExit."""
    found = importlib.import_module(module)
    parser, main = (found.unpack_parser(), found.unpack_main) if module == __name__.rpartition(".")[0] + ".kinds" else (
        found.parse(), found.main)
    try:
        return run_command(parser, main, arguments)
    except SystemExit as end:
        return int(end.code or 0)


def _be_the_child(said: Path, answer: Path, steps: Callable[[], int], limited: bool) -> None:
    """Never returns."""
    try:
        os.setsid()
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace",
                                       closefd=False) for number in (1, 2))
        logging.getLogger().handlers.clear()
        faulthandler.disable()
        os.environ["GIT_DIR"] = str(said)  # no repository: a commit made meanwhile would change what files record
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limited:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        status = steps()
        sys.stdout.flush()
        answer.write_text(json.dumps(status))
    except BaseException:
        import traceback

        traceback.print_exc()
        answer.write_text("70")
    finally:
        os._exit(0)


def _wait(process: int, seconds: float) -> int | None:
    """The signal that ended a process, 0 for none; None when it ran too long. Its children end with it."""
    status, waited, pause = None, 0.0, 0.002
    while waited < seconds:  # what is waited here: a job that is stopped for a while does not hang
        found, code = os.waitpid(process, os.WNOHANG)
        if found:
            status = os.WTERMSIG(code) if os.WIFSIGNALED(code) else 0
            break
        time.sleep(pause)
        waited += pause
        pause = min(0.05, pause * 1.2)
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if status is None:
        os.waitpid(process, 0)
    return status


def snapshot(folder: Path) -> dict[str, int]:
    """A sum over each file's bytes, by its path in the folder."""
    return {str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()}


def results(kind: Kind, work: Path) -> dict[str, int]:
    """Sums of what a kind's commands make."""
    return {str(path.relative_to(work)): zlib.crc32(path.read_bytes()) for pattern in kind.results
            for path in sorted(work.glob(pattern))}


def judge(kind: Kind, outcome: Outcome, before: dict[str, int], after: dict[str, int], clean: dict[str, int],
          target: Path, work: Path) -> list[str]:
    """All that is wrong about how a case ended; empty when it is as it should be.

    clean: a clean run's results, where damage that goes unseen must not change them.
    """
    if outcome.died:
        return [f"{outcome.died}: {outcome.output[-300:]}"]
    found = [f"{noise} in the output: {outcome.output[-700:]}" for noise in NOISE if noise in outcome.output][:1]
    if outcome.status not in (0, 1, 2):
        found.append(f"exit status {outcome.status}: {outcome.output[-300:]}")
    elif outcome.status == 0 and outcome.errors:
        found.append(f"exit status 0 with {outcome.errors[0]}")
    elif outcome.status and len(outcome.errors) != 1:
        found.append(f"{len(outcome.errors)} error lines: {outcome.output[-300:]}")
    elif outcome.status:
        found += _about_the_line(kind, outcome.errors[0], target, work)
    changed = [name for name in before if after.get(name) != before[name] and work / name != target]
    if not outcome.status or len(kind.commands) > 1:  # of several commands the first may have done its work
        changed = [name for name in changed if not any(Path(name).match(pattern) for pattern in kind.outputs)]
    if not outcome.status:
        if kind.strict and clean and (made := results(kind, work)) != clean:
            differing = next(name for name in {**clean, **made} if made.get(name) != clean.get(name))
            found.append(f"accepted without a word, but {differing} is another")
    changed = [name for name in changed if Path(name).name not in ALWAYS_REWRITTEN]
    if changed:
        found.append(f"finished work was changed: {', '.join(changed[:3])}")
    left = [name for name in after.keys() - before.keys() if ".part" in Path(name).name]
    return [*found, *([f"left behind: {left[0]}"] if left else [])]


def _about_the_line(kind: Kind, line: str, target: Path, work: Path) -> list[str]:
    found = []
    if len(line) > LONGEST:
        found.append(f"a line of {len(line)} characters: {line[:200]}")
    if kind.target and not any(name in line for name in (target.name, str(work), *kind.names)):
        found.append(f"names no file: {line}")
    if "out of memory (" in line and not kind.name.startswith("set"):
        found.append(f"more than {MEMORY >> 30} GB: {line}")
    return found
