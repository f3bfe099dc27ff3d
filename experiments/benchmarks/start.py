"""How often a second a command can be started, by processes of its own: until --help is told; until a photograph's
label map is in its file; until the command's end.

The baseline is a command as a reader of the paper would write it, which imports at its top what it works with, told to
show its help.
"""

import os
import subprocess
import sys
import time
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

    def labels(label: Callable[[Path, Path], None]) -> Callable[[], Callable[[], None]]:
        def prepared() -> Callable[[], None]:
            folder = TemporaryDirectory()
            photo = Path(folder.name, "photo.png")
            Image.fromarray(photographs(settings, 1)[0]).save(photo)

            def call() -> None:
                with TemporaryDirectory(dir=folder.name) as to:
                    label(photo, Path(to))

            return call

        return prepared

    def to_the_end(photo: Path, to: Path) -> None:
        _run("-m", "stages.predict", str(photo), "--device", settings.device, "--out", str(to))

    def to_the_map(photo: Path, to: Path) -> None:
        process = _begun("-m", "stages.predict", str(photo), "--device", settings.device, "--out", str(to))
        while process.poll() is None and not [*to.glob("*/photo.png")]:
            time.sleep(0.005)
        process.kill()
        _, told = process.communicate()
        if not [*to.glob("*/photo.png")]:
            raise RuntimeError(told)

    return Benchmark("starts", 1, Variant("plain", started("-c", PLAIN)),
                     (Variant("default", started("-m", "stages.infer", "--help")),
                      Variant("stages.predict, a photograph's label map", labels(to_the_map)),
                      Variant("stages.predict, to its end", labels(to_the_end))))


def _run(*arguments: str) -> None:
    process = _begun(*arguments)
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(told)


def _begun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})
