"""How often a second a command can be started, by processes of its own: until --help is told; until a photograph is
labelled.

The baseline is a command as a reader of the paper would write it, which imports at its top what it works with, told to
show its help.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import photographs

ROOT = Path(__file__).resolve().parents[2]
PLAIN = """
import argparse
import cv2, h5py, matplotlib.figure, numpy, omegaconf, PIL.Image, pydantic, scipy.ndimage, torch, tqdm
argparse.ArgumentParser().parse_args(["--help"])
"""


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""

    def started(*arguments: str) -> Callable[[], Callable[[], None]]:
        return lambda: lambda: _run(*arguments)

    def labels() -> Callable[[], None]:
        folder = TemporaryDirectory()
        photo = Path(folder.name, "photo.png")
        Image.fromarray(photographs(settings, 1)[0]).save(photo)

        def call() -> None:
            with TemporaryDirectory(dir=folder.name) as to:
                _run("-m", "stages.predict", str(photo), "--device", settings.device, "--out", to)

        return call

    return Benchmark("starts", 1, Variant("plain", started("-c", PLAIN)),
                     (Variant("default", started("-m", "stages.infer", "--help")),
                      Variant("stages.predict, a photograph labelled", labels)))


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT)})
