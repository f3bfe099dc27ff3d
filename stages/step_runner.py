"""Runs the steps of whole runs that are not done, one after the other, each as the command that it is."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.interrupts import SIGNALS
from stages.cli import ENDS_WITH, INTERRUPTED
from stages.done import Done
from stages.steps import Step

GRACE = 10  # seconds that an interrupted command has to clean up


def run_plans(plans: Sequence[Done]) -> None:
    """Runs every step that is not done, of one run or of several after each other."""
    steps = [step for done in plans for step in done.plan]
    places = [(done, number) for done in plans for number in range(len(done.plan))]
    print(f"{len(steps)} steps; the time left is a guess, from what steps took in this run and their shares of the "
          "demo", flush=True)
    for at, (done, number) in enumerate(places):
        place, before = f"step {at + 1} of {len(steps)}", done.look(number)
        if done.is_done(number, before):
            print(f"{place} is done: {steps[at].name}", flush=True)
            continue
        waiting = [one for one in range(at, len(steps)) if not _is_done(*places[one])]
        left = time_left(steps, waiting, _seconds(plans))
        print(f"\n{place}{f', {about(left)} left' if left is not None else ''}", flush=True)
        done.ended(number, before, run_step(steps[at].now()))


def _seconds(plans: Sequence[Done]) -> dict[int, float]:
    """What steps took, by their places among those of all runs."""
    took: dict[int, float] = {}
    before = 0
    for done in plans:
        took |= {before + number: seconds for number, seconds in done.seconds().items()}
        before += len(done.plan)
    return took


def _is_done(done: Done, number: int) -> bool:
    return done.is_done(number, done.look(number))


def time_left(plan: Sequence[Step], waiting: Sequence[int], measured: Mapping[int, float]) -> float | None:
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
