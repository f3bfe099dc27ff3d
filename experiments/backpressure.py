"""`python -m experiments.backpressure`: the memory of a command and its workers while it labels very many images.

`stages.infer --engine ray --images` labels small generated images by a narrow network that was never trained: its speed
and its labels say nothing, its memory over time does.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from deconvnet.support.atomic import atomic_write, write_json
from deconvnet.support.errors import UsageError, UserError
from stages.cli import make_parser, run_command

log = logging.getLogger(__name__)

KEYS = ("network.width=0.0625", "network.input=32", "network.deconv_std=0", "proposals.count=20", "infer.proposals=4")
STARTING = 0.1  # of the images, left out of what is said of the memory: caches fill, libraries are loaded
ENGINE_PROCESSES = ("raylet", "gcs_server")


def write_images(folder: Path, count: int, side: int) -> None:
    """Smooth coloured pictures, from seed 0."""
    import cv2

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:06}.png"), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def write_run(folder: Path) -> None:
    """A run folder with an untrained DeconvNet, from the recipe's seed."""
    from deconvnet.models.build import build_network
    from deconvnet.models.network_files import save_network
    from deconvnet.recipe_files import load_recipe, save_recipe

    recipe = load_recipe("tiny", KEYS)
    save_network(build_network("deconvnet", recipe), folder / "stage2" / "network.safetensors", "deconvnet", recipe,
                 "measured", {})
    save_recipe(recipe, folder / "recipe.yaml")


def watched(command: list[str], done: Path, every: float) -> list[dict[str, float]]:
    """Runs a command; what it and the processes that it started have in memory, in MB, every so many seconds.

    done: the folder whose label maps are counted. Raises UserError where the command fails.
    """
    import psutil

    samples, began = [], time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            while process.poll() is None:
                samples.append({"seconds": round(time.monotonic() - began, 1), "images": _count(done),
                                **memory(psutil.Process(process.pid))})
                time.sleep(every)
        finally:
            process.terminate()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise UserError(f"{' '.join(command)}: ended with {process.returncode}: {said.read()[-1000:]}")
    return samples


def memory(driver: Any) -> dict[str, float]:
    """MB of the command, of its workers together, and of Ray's own processes; what processes share counts in each."""
    import psutil

    found = {"driver": 0.0, "workers": 0.0, "ray": 0.0}
    for one in [driver, *driver.children(recursive=True)]:
        try:
            name, size = one.name(), one.memory_info().rss / 1e6
        except psutil.Error:  # it has just ended
            continue
        kind = ("driver" if one == driver else "workers" if name.startswith("ray::Worker") else
                "ray" if name in ENGINE_PROCESSES else None)
        if kind:
            found[kind] += size
    return {kind: round(size, 1) for kind, size in found.items()}


def _count(folder: Path) -> int:
    return sum(name.endswith(".png") and name[0] != "." for name in os.listdir(folder)) if folder.is_dir() else 0


def summary(samples: list[dict[str, float]], images: int) -> dict[str, Any]:
    """After the start: the least and the most of each, and by how much it grew with the images, by least squares."""
    later = [one for one in samples if STARTING * images <= one["images"] < images]
    if len(later) < 3:
        raise UserError(f"only {len(later)} measurements after the start: give more --images, or a shorter --every")
    done = np.array([one["images"] for one in later])
    took = later[-1]["seconds"] - later[0]["seconds"]
    told: dict[str, Any] = {"images_per_second": round((done[-1] - done[0]) / took, 1)}
    for kind in ("driver", "workers", "ray"):
        values = np.array([one[kind] for one in later])
        told[kind] = {"least_mb": values.min(), "most_mb": values.max(),
                      "mb_per_1000_images": round(1000 * float(np.polyfit(done, values, 1)[0]), 2)}
    return told


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """The curves."""
    from matplotlib.figure import Figure

    from experiments.pictures.style import DPI, styled

    with styled():
        figure = Figure(figsize=(8, 3), layout="constrained")
        axes = figure.subplots()
        for kind, title in (("workers", "workers, together"), ("driver", "command"), ("ray", "Ray's own processes")):
            axes.plot([one["images"] for one in samples], [one[kind] for one in samples], label=title)
        axes.set(xlabel="images labelled", ylabel="memory (MB)", ylim=(0, None))
        axes.grid(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=DPI)


def main(options: argparse.Namespace) -> None:
    """Labels, measures, prints, records."""
    if options.images < 1 or options.side < 8 or options.workers < 1:
        raise UsageError(f"--images {options.images}, --side {options.side}, --workers {options.workers}: expected at "
                         "least 1, 8 and 1")
    from deconvnet.run_folder import provenance

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", options.images, options.side)
        write_run(folder / "run")
        command = [sys.executable, "-m", "stages.infer", "--run", str(folder / "run"), "--device", "cpu",
                   "--images", str(folder / "images"), "--out", str(folder / "out"),
                   "--engine", "ray", "--address", "local", "--workers", str(options.workers)]
        samples = watched(command, folder / "out" / "deconvnet-max", options.every)
    told = summary(samples, options.images)
    print(f"{options.images} images of {options.side} px, {options.workers} workers: {told.pop('images_per_second')} "
          "images/s")
    for kind, one in told.items():
        print(f"{kind:8} {one['least_mb']:7.0f} to {one['most_mb']:.0f} MB, {one['mb_per_1000_images']:+.2f} MB with "
              "each 1,000 images")
    if options.picture:
        draw(samples, options.picture)
    if options.out:
        command = [f"python -m experiments.backpressure --images {options.images} --side {options.side}",
                   f"--workers {options.workers} --every {options.every:g}"]
        write_json(options.out, {"command": " ".join(command), "seed": 0, **provenance(),
                                 **summary(samples, options.images), "samples": samples})


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.backpressure", "Measures the memory of stages.infer --engine ray over very many "
                         "images.", "python -m experiments.backpressure --images 10000 --picture memory.png")
    parser.add_argument("--images", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="Ray's workers, on this machine (default: %(default)s)")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="curves to draw")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
