"""What a training should have done, worked out from the files of a run: the truth that trace.json is held against.

Written from the paper and the notes of the recipe's keys, with NumPy, Pillow and OpenCV's resize; nothing of deconvnet
or proposals is called. What is drawn at random is drawn from (seed, stream, stage or 10 + FCN's step[, epoch or
position]).
"""

import hashlib
import math
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from PIL import Image

MEAN = np.array([122.675, 116.669, 104.008], np.float32)
ORDER, CROP, VALIDATION, MEASURE_ORDER, MEASURE_CROP = range(5)
VOID = 255


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


def digests(state: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: digest(value.numpy()) for name, value in state.items()}


def drawn_rows(classes: list[int], balanced: bool, seed: tuple[int, ...], start: int, stop: int) -> list[int]:
    """The rows at positions start .. stop - 1; balanced: each class as often as the most frequent one in an epoch."""
    found, epoch = [], 0
    while len(found) < stop:
        random = np.random.default_rng([*seed, epoch])
        rows = list(range(len(classes)))
        if balanced:
            rows, most = [], max(Counter(classes).values())
            for one in sorted(set(classes)):
                own = random.permutation([row for row, its in enumerate(classes) if its == one])
                rows += [own[index % len(own)] for index in range(most)]
        found += random.permutation(rows).tolist()
        epoch += 1
    return found[start:stop]


def chosen(count: int, wanted: int, seed: int) -> np.ndarray:
    """The validation examples: `wanted` of them, drawn once, in their order."""
    return np.sort(np.random.default_rng([seed, VALIDATION]).choice(count, wanted, replace=False))


class Windows:
    """The windows of a file, cut from the data set's images."""

    def __init__(self, path: Path, voc: Path, warp: int, side: int, outside: np.ndarray = MEAN) -> None:
        """outside: the picture's colour outside the image."""
        self.voc, self.warp, self.side, self.outside = voc, warp, side, outside.round().astype(np.uint8)
        with h5py.File(path) as file:
            self.window, self.object, self.classes = (file[name][:] for name in ("window", "object", "class_index"))
            self.stage, ids, first = file.attrs["stage"], file["image_ids"].asstr()[:], file["first"][:]
        self.ids = [ids[np.searchsorted(first, row, "right") - 1] for row in range(len(self.window))]

    def name(self, row: int) -> str:
        return f"{self.ids[row]}[{','.join(map(str, self.window[row]))}]"

    def whole(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A window warped: picture and labels; in stage 1 its own object's labels alone."""
        image, mask = picture_and_mask(self.voc, self.ids[row])
        if self.stage == 1:
            numbers = np.array(Image.open(self.voc / "SegmentationObject" / f"{self.ids[row]}.png"))
            large = [number for number in range(1, VOID) if (numbers == number).sum() >= 16]
            mask = np.where((numbers != large[self.object[row]]) & (mask != VOID), 0, mask)
        x1, y1, x2, y2 = self.window[row]
        ys, xs = np.arange(y1, y2)[:, None], np.arange(x1, x2)[None]
        height, width = mask.shape
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        ys, xs = ys.clip(0, height - 1), xs.clip(0, width - 1)
        picture = np.where(inside[..., None], image[ys, xs], self.outside)
        labels = np.where(inside, mask[ys, xs], VOID).astype(np.uint8)
        size = (self.warp, self.warp)
        return cv2.resize(picture, size), cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)

    def batch(self, rows: list[int], positions: list[int] | None, seed: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """What the network gets: float32 N x 3 x S x S and int64 N x S x S; without positions the centre crops."""
        pictures, labels = [], []
        for index, row in enumerate(rows):
            spare = self.warp - self.side
            top, left, mirrored = spare // 2, spare // 2, False
            if positions is not None:
                random = np.random.default_rng([*seed, positions[index]])
                top, left = random.integers(0, spare + 1, 2)
                mirrored = random.integers(2) == 1
            picture, label = (array[top : top + self.side, left : left + self.side] for array in self.whole(row))
            pictures.append(np.fliplr(picture) if mirrored else picture)
            labels.append(np.fliplr(label) if mirrored else label)
        return as_input(pictures, labels)


def picture_and_mask(voc: Path, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    return (np.array(Image.open(voc / "JPEGImages" / f"{image_id}.jpg")),
            np.array(Image.open(voc / "SegmentationClass" / f"{image_id}.png")))


def as_input(pictures: list[np.ndarray], labels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack(pictures).astype(np.float32).transpose(0, 3, 1, 2) - MEAN[:, None, None], np.int64(labels)


def canvases(voc: Path, ids: list[str], positions: list[int] | None, seed: tuple[int, ...], side: int
             ) -> tuple[np.ndarray, np.ndarray]:
    """FCN's batch: images at the top left of a canvas of the mean colour, void behind them, flips by position."""
    pictures, labels = [], []
    for index, image_id in enumerate(ids):
        image, mask = picture_and_mask(voc, image_id)
        height, width = mask.shape
        assert max(height, width) <= side
        room = (0, side - height), (0, side - width)
        planes = [np.pad(image[..., c], room, constant_values=round(float(MEAN[c]))) for c in range(3)]
        picture, label = np.stack(planes, 2), np.pad(mask, room, constant_values=VOID)
        if positions is not None and np.random.default_rng([*seed, positions[index]]).integers(2):
            picture, label = picture[:, ::-1], label[:, ::-1]
        pictures.append(picture)
        labels.append(label)
    return as_input(pictures, labels)


def random_state(shapes: dict[str, tuple[int, ...]], seed: int, deconv_std: float, shift: float = 0.0
                 ) -> dict[str, torch.Tensor]:
    """The weights that a DeconvNet begins with, by the shapes of its tensors, in the order of its layers.

    He's rule for convolutions (2 / the number of inputs that an output sees), N(0, deconv_std) from fc6_deconv on.
    """
    generator, state, deconvolution = torch.Generator().manual_seed(seed), {}, False
    for name, shape in shapes.items():
        deconvolution = deconvolution or name.startswith("fc6_deconv")
        if len(shape) == 4:
            std = deconv_std if deconvolution else math.sqrt(2 / math.prod(shape[1:]))
            state[name] = torch.empty(shape).normal_(0, std, generator=generator)
        elif "bn" in name and name.endswith(("weight", "running_var")):
            state[name] = torch.ones(shape)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        else:
            state[name] = torch.full(shape, shift if "bn" in name and name.endswith("bias") else 0.0)
    return state
