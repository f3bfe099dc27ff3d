"""Measures a Benchmark: its ways in turn, over several repeats; statistics by torch.utils.benchmark.

What is compared was measured in one process, one call of each way after the other, so that a machine that becomes
slower meanwhile does so for all of them; a ratio is that of two calls of the same repeat.
"""

import multiprocessing
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.base import Benchmark, Variant

MEMORY = Path("/proc/self")  # Linux


@dataclass
class Measured:
    """One way: seconds of its calls, and its baseline's over these, repeat by repeat."""

    name: str
    precision: str
    units: float
    seconds: list[float]
    ratios: list[float]
    agreement: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None  # bytes

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


def measure(benchmark: Benchmark, repeats: int) -> list[Measured]:
    """The baseline and the variants, measured in turn. The first call of each is not timed."""
    from torch.utils.benchmark.utils.timer import timer  # waits for a GPU

    ways = (benchmark.baseline, *benchmark.variants)
    calls = [way.prepare() for way in ways]
    agreements = _agreements(benchmark, calls)
    seconds = np.array([[timeit.Timer(call, timer=timer).timeit(1) for call in calls] for _ in range(repeats)])
    return [Measured(way.name, way.precision, benchmark.units, list(own), list(seconds[:, 0] / own), agreement)
            for way, own, agreement in zip(ways, seconds.T, agreements, strict=True)]


def _agreements(benchmark: Benchmark, calls: list[Any]) -> list[Mapping[str, float]]:
    found: list[Mapping[str, float]] = [{}]
    expected = calls[0]()
    for call in calls[1:]:
        result = call()
        found.append(benchmark.agreement(expected, result) if benchmark.agreement else {})
    return found


def peak_memory(make: Callable[[], Benchmark], variant: str) -> float | None:
    """Bytes that one call takes at most, above those held before it; in a process of its own. None but on Linux.

    make: makes the benchmark there; picklable.
    """
    if not (MEMORY / "clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call_once, args=(make, variant, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:  # it was killed, or failed and said so
        return None
    finally:
        process.join()


def _call_once(make: Callable[[], Benchmark], variant: str, sender: Any) -> None:
    benchmark = make()
    way: Variant = next(one for one in (benchmark.baseline, *benchmark.variants) if one.name == variant)
    call = way.prepare()
    (MEMORY / "clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    result = call()
    sender.send(_status("VmHWM") - before)
    del result


def _status(name: str) -> float:
    lines = dict(line.split(":", 1) for line in (MEMORY / "status").read_text().splitlines())
    return float(lines[name].split()[0]) * 1024
