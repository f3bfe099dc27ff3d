"""What experiments.bench measures: one file for each measurement, known by name here.

To add one: a file with `benchmark(settings)`, which returns a Benchmark (base.py), and a line in BENCHMARKS.
"""

from dataclasses import dataclass
from importlib import import_module

from experiments.benchmarks.base import Benchmark, Settings


@dataclass(frozen=True)
class Entry:
    """Where a measurement is, and what it measures, in a line."""

    module: str
    what: str


BENCHMARKS = {
    "aggregation": Entry("aggregation", "the score maps of 50 windows to one map of the photograph"),
    "crf": Entry("crf", "the dense CRF of photographs"),
    "image": Entry("image", "a photograph's 50 windows, full width, to its score map: memory"),
    "infer": Entry("infer", "photographs to label maps in files, with the networks that come with this"),
    "input": Entry("input", "training windows cut, augmented and batched, on one core"),
    "proposals": Entry("proposals", "edges and EdgeBoxes of photographs"),
    "labels": Entry("labels", "photographs labelled in each precision: how many pixels are labelled the same"),
    "scoring": Entry("scoring", "windows of an image scored by a DeconvNet of full width"),
    "start": Entry("start", "a command's start, until its --help; until a photograph is labelled"),
    "training": Entry("training", "a training step of a DeconvNet of full width, micro-batch 8"),
}


def load(name: str, settings: Settings) -> Benchmark:
    """The measurement of this name. Imports what it needs, torch perhaps."""
    return import_module(f"experiments.benchmarks.{BENCHMARKS[name].module}").benchmark(settings)
