"""Measures a Benchmark: its ways in turn, over several repeats; statistics by torch.utils.benchmark.

Each way has a process of its own, as it would have in use: what one leaves in caches and in the allocator's hands is
no help to another. A variant and the baseline are called one after the other, again and again, so that a machine that
becomes slower meanwhile does so for both; a ratio is that of two calls of the same repeat.
"""

import multiprocessing
import os
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

from deconvnet.support.errors import UserError
from experiments.benchmarks.base import Benchmark, Variant

PROCESSES = Path("/proc")  # Linux


@dataclass
class Measured:
    """One way: seconds of its calls, and its baseline's over these, repeat by repeat."""

    name: str
    precision: str
    units: float
    seconds: list[float]
    ratios: list[float]
    agreement: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None  # bytes that its first call took at most, see _first; None but on Linux

    @property
    def rate(self) -> float:
        """Units a second, of the median call."""
        from torch.utils.benchmark import Measurement, TaskSpec

        return self.units / Measurement(1, self.seconds, TaskSpec("call()", "")).median

    @property
    def rate_spread(self) -> float:
        """Interquartile range of the rates."""
        return spread(self.units / np.array(self.seconds))

    @property
    def ratio(self) -> float:
        """Median: how many times as fast as the baseline."""
        return float(np.median(self.ratios))


def spread(values: Any) -> float:
    """Interquartile range."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low)


def measure(make: Callable[[], Benchmark], repeats: int) -> list[Measured]:
    """The baseline, and each variant in turn with it. The first call of each is not timed.

    make: makes the benchmark; picklable. Raises UserError where a way fails, or is killed.
    """
    benchmark = make()
    with Way(make, benchmark.baseline) as plain:
        expected, memory = plain.first()
        found = [Measured(plain.name, benchmark.baseline.precision, benchmark.units, [], [], memory=memory)]
        for variant in benchmark.variants:
            with Way(make, variant) as own:
                result, memory = own.first()
                pairs = np.array([(plain.seconds(), own.seconds()) for _ in range(repeats)])
            agreement = benchmark.agreement(expected, result) if benchmark.agreement else {}
            found[0].seconds += list(pairs[:, 0])
            found[0].ratios += [1.0] * repeats
            found.append(Measured(own.name, variant.precision, benchmark.units, list(pairs[:, 1]),
                                  list(pairs[:, 0] / pairs[:, 1]), agreement, memory))
    return found


class Way:
    """A way in a process of its own, which does what it is asked to, until the `with` block ends."""

    def __init__(self, make: Callable[[], Benchmark], variant: Variant) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = variant.name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, variant.name, theirs))
        _start(self._process, variant.environment)
        theirs.close()

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def first(self) -> tuple[Any, float | None]:
        """Calls it: the result, and the memory that it took."""
        return self._ask("first")

    def seconds(self) -> float:
        """Calls it: how long it took."""
        return self._ask("seconds")

    def _ask(self, what: str) -> Any:
        try:
            self._pipe.send(what)
            answer, failed = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise UserError(f"{self.name}: its process has ended: did the machine run out of memory?") from None
        if failed:
            raise UserError(f"{self.name}: {failed}")
        return answer


def _start(process: SpawnProcess, environment: Mapping[str, str]) -> None:
    """Starts it with this environment beside what the user has set, which it gets as it is at this moment."""
    before = dict(os.environ)
    os.environ.update({**environment, **before})
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(make: Callable[[], Benchmark], name: str, pipe: Any) -> None:
    benchmark = make()
    way = next(one for one in (benchmark.baseline, *benchmark.variants) if one.name == name)
    answers: dict[str, Callable[[], Any]] = {}
    while True:
        try:
            asked = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if not answers:
                call = way.prepare()
                answers = {"first": partial(_first, call), "seconds": partial(_seconds, call)}
            pipe.send((answers[asked](), ""))
        except Exception as error:  # it is told where the others are
            pipe.send((None, f"{type(error).__name__}: {error}"))


def _first(call: Callable[[], Any]) -> tuple[Any, float | None]:
    """Its result, and the bytes that it took at most: above those held before, in this process and in those that it
    has started and that are there at its end (a pool's begin with it; each peak counts, whenever it was).
    """
    if not (PROCESSES / "self" / "clear_refs").exists():
        return call(), None
    before = {}
    for process in _family(os.getpid()):
        (process / "clear_refs").write_text("5")  # the peak begins anew
        before[process] = _status(process, "VmRSS")
    result = call()
    return result, sum(_status(process, "VmHWM") - before.get(process, 0) for process in _family(os.getpid()))


def _family(number: int) -> list[Path]:
    """The folders in /proc of a process and of those that it and its own have started."""
    own = PROCESSES / str(number)
    try:
        children = [int(one) for path in own.glob("task/*/children") for one in path.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # a thread, or the process, has just ended
        children = []
    return [own, *(path for child in children for path in _family(child))]


def _seconds(call: Callable[[], Any]) -> float:
    from torch.utils.benchmark.utils.timer import timer  # waits for a GPU

    return timeit.Timer(call, timer=timer).timeit(1)


def _status(process: Path, name: str) -> float:
    try:
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    return float(lines.get(name, "0 kB").split()[0]) * 1024  # one that ended, and was not waited for, has none
