"""A measurement whose ways differ by a known factor in time, told by a clock of its own, and take a known memory."""

import numpy as np
import torch.utils.benchmark.utils.timer as timing

from experiments.benchmarks.base import Benchmark, Settings, Variant

MEGABYTES = 64
clock = [0.0]


def way(name: str, seconds: float, megabytes: int = 1) -> Variant:
    """Moves the clock on, takes memory, and gives `seconds`."""
    def call() -> float:
        clock[0] += seconds
        if seconds < 0:
            raise ValueError("back in time")
        np.ones(megabytes << 20, np.uint8)
        return seconds

    return Variant(name, lambda: call)


def benchmark() -> Benchmark:
    """The first variant is three times as fast as the baseline. In a process that made it, its clock is the clock."""
    timing.timer = lambda: clock[0]
    return Benchmark("naps", 2, way("plain", 0.06), (way("quick", 0.02, MEGABYTES), way("slow", 0.12)),
                     lambda expected, found: {"largest difference": abs(expected - found)})


def load(name: str, settings: Settings) -> Benchmark:
    """In place of experiments.benchmarks.load."""
    return benchmark()


def broken() -> Benchmark:
    """Its baseline fails."""
    return Benchmark("naps", 2, way("wrong", -1), ())
