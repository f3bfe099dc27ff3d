"""Training windows a second and core: cut from their images, warped, cropped, mirrored and batched (section 6.1).

With the paper's recipe on images of VOC's size. The baseline is what a reader of the paper would write: image and mask
decoded by Pillow for each window. Ours decodes an image once in a training; that first time is not measured.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deconvnet.conventions import MEAN_RGB, VOID
from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import read_rows
from deconvnet.data.synthetic import generate
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.training.loading import load
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.photographs import SIDE
from proposals.build import build_proposals, build_windows

SEED = (0, 1, 0)
Batches = list[tuple[Tensor, Tensor]]


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    images, count, batch = (4, 32, 16) if settings.quick else (24, 256, 64)

    def prepared(way: Callable[[WindowCrops, Path], Callable[[int, int], Batches]]) -> Callable[[], Batches]:
        examples, folder = windows(images, settings)
        batches = way(examples, Path(folder.name, "voc", "VOC2012"))

        def call() -> Batches:
            with one_thread():
                return batches(count, batch)

        return call

    return Benchmark("windows", count, Variant("plain", lambda: prepared(plain)),
                     (Variant("default", lambda: prepared(ours)),), largest_difference)


@cache
def windows(images: int, settings: Settings) -> tuple[WindowCrops, "TemporaryDirectory[str]"]:
    """Stage 2's windows of a generated set, and the folder that it is in."""
    folder, recipe = TemporaryDirectory(), load_recipe("paper", ["data.train_split=train"])
    voc_root = generate(Path(folder.name, "voc"), train=images, val=1, seed=0, side=160 if settings.quick else SIDE)
    run = RunFolder(Path(folder.name, "run"), recipe, voc_root)
    build_proposals(run, "train", None, 0, "stop")
    build_windows(run, "train", 2, False, 0, "stop")
    return WindowCrops(read_rows(run.windows(2, "train"), "windows"), run.voc(), recipe, True, SEED), folder


def ours(examples: WindowCrops, _: Path) -> Callable[[int, int], Batches]:
    """As a loading process does it."""

    def batches(count: int, size: int) -> Batches:
        return [(pictures, labels) for pictures, labels, _ in load(examples, order(count, len(examples)), size, 0)]

    return batches


def plain(examples: WindowCrops, voc_root: Path) -> Callable[[int, int], Batches]:
    """As a reader of the paper would write it, with the same draws."""

    def batches(count: int, size: int) -> Batches:
        items = order(count, len(examples))
        parts = [items[first : first + size] for first in range(0, count, size)]
        found = []
        for part in parts:
            pairs = [plain_window(examples, voc_root, *item) for item in part]
            pictures, labels = zip(*pairs, strict=True)
            found.append((torch.stack(pictures), torch.stack(labels)))
        return found

    return batches


def plain_window(examples: WindowCrops, voc_root: Path, position: int, row: int) -> tuple[Tensor, Tensor]:
    """Decode, cut, warp, crop, mirror."""
    rows, recipe = examples.rows, examples.recipe
    image_id = rows.image_ids[examples.images[row]]
    image = np.array(Image.open(voc_root / "JPEGImages" / f"{image_id}.jpg"))
    mask = np.array(Image.open(voc_root / "SegmentationClass" / f"{image_id}.png"))
    x1, y1, x2, y2 = rows.columns["window"][row]
    picture: np.ndarray = np.tile(MEAN_RGB.round().astype(np.uint8), (y2 - y1, x2 - x1, 1))
    labels: np.ndarray = np.full((y2 - y1, x2 - x1), VOID, np.uint8)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, image.shape[1]), min(y2, image.shape[0])
    picture[top - y1 : bottom - y1, left - x1 : right - x1] = image[top:bottom, left:right]
    labels[top - y1 : bottom - y1, left - x1 : right - x1] = mask[top:bottom, left:right]
    warp, side = recipe.windows.warp, recipe.network.input
    picture = cv2.resize(picture, (warp, warp))
    labels = cv2.resize(labels, (warp, warp), interpolation=cv2.INTER_NEAREST)
    random = np.random.default_rng([*SEED, position])
    y, x = random.integers(0, warp - side + 1, 2)
    picture, labels = picture[y : y + side, x : x + side], labels[y : y + side, x : x + side]
    if random.integers(2):
        picture, labels = picture[:, ::-1], labels[:, ::-1]
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()), torch.from_numpy(labels.copy())


def order(count: int, examples: int) -> list[tuple[int, int]]:
    """Positions and rows: windows in random order, as a training sees them."""
    rows = np.random.default_rng(0).permutation(examples)
    return [(position, int(rows[position % examples])) for position in range(count)]


def largest_difference(expected: Batches, found: Batches) -> dict[str, float]:
    """Of the pixels, in grey levels, and of the labels."""
    pairs = [(one.int(), other.int()) for batch, own in zip(expected, found, strict=True)
             for one, other in zip(batch, own, strict=True)]
    return {"largest difference": float(max((one - other).abs().max() for one, other in pairs))}


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a loading process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
