"""A measurement whose ways differ by a known factor in time, told by a clock of its own, and take a known memory."""

import os

import numpy as np
import torch.utils.benchmark.utils.timer as timing

from experiments.benchmarks.base import Benchmark, Settings, Variant

MEGABYTES = 64
ASLEEP = {"OF_A_MEASUREMENT": "asleep"}  # the environment of one way, and of no other
clock = [0.0]


def way(name: str, seconds: float, megabytes: int = 1, environment: dict[str, str] | None = None) -> Variant:
    """Moves the clock on, takes memory, and gives `seconds`; fails in another environment."""
    def call() -> float:
        assert {name: os.environ[name] for name in ASLEEP if name in os.environ} == (environment or {})
        clock[0] += seconds
        if seconds < 0:
            raise ValueError("back in time")
        np.ones(megabytes << 20, np.uint8)
        return seconds

    return Variant(name, lambda: call, environment=environment or {})


def benchmark() -> Benchmark:
    """The first variant is three times as fast as the baseline. In a process that made it, its clock is the clock."""
    timing.timer = lambda: clock[0]
    return Benchmark("naps", 2, way("plain", 0.06), (way("quick", 0.02, MEGABYTES, ASLEEP), way("slow", 0.12)),
                     lambda expected, found: {"largest difference": abs(expected - found)})


def load(name: str, settings: Settings) -> Benchmark:
    """In place of experiments.benchmarks.load."""
    return benchmark()


def broken() -> Benchmark:
    """Its baseline fails."""
    return Benchmark("naps", 2, way("wrong", -1), ())
