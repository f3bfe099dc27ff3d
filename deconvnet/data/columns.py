"""What the columns of proposals and windows files must be, in one table, and how their values must agree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

Columns = dict[str, np.ndarray]


class Misfit(ValueError):
    """A column is not what it should be; the message says which and why, without the file's name."""


@dataclass(frozen=True)
class Column:
    """A dataset: its type (NumPy's name), the shape of an entry, the range of its numbers, whether NaN is allowed."""

    kind: str
    shape: tuple[int, ...] = ()
    least: float = -np.inf
    most: float = np.inf
    nan: bool = False


MOST_SIDE = 1 << 20  # pixels per side of an image: sums of coordinates stay within 32 bits

SIZES = Column("int32", (2,), 1, MOST_SIDE)  # one entry per image: height, width
FIRST = Column("int64", (), 0)  # images + 1 entries
FILES = {"proposals": 1, "windows": 3}  # how many of the files() of an image its rows are made from
HASHES = {kind: Column("uint8", (count, 16), 0, 127) for kind, count in FILES.items()}  # strings; one entry per image
COLUMNS = {  # one entry per row
    "proposals": {
        "boxes": Column("int32", (4,), 0, MOST_SIDE),
        "scores": Column("float32"),
    },
    "windows": {
        "window": Column("int32", (4,)),
        "box": Column("int32", (4,), 0, MOST_SIDE),
        "source": Column("uint8", (), 0, 1),
        "object": Column("int32", (), 0),
        "class_index": Column("uint8", (), 1, 254),
        "overlap": Column("float32", (), 0, 1),
        "score": Column("float32", nan=True),
    },
}
CROPS = ("picture", "labels")  # encoded, one after the other: bytes, and their lengths, one entry per row
LENGTHS = Column("int64", (), 1)
BYTES = Column("uint8")


def read_column(file: h5py.File, name: str, column: Column, count: int) -> np.ndarray:
    """A dataset of `count` entries, checked against `column`. Raises Misfit, before it takes memory."""
    data = check_column(file, name, column, count)
    values = data[:]
    numbers = values[~np.isnan(values)] if column.nan else values
    if not np.isfinite(numbers).all():
        raise Misfit(f"{name} holds numbers that are not finite")
    if numbers.size and (numbers.min() < column.least or numbers.max() > column.most):
        raise Misfit(f"{name} has values from {numbers.min()} to {numbers.max()}; expected {column.least:g} to "
                     f"{column.most:g}")
    return values


def check_column(file: h5py.File, name: str, column: Column, count: int) -> h5py.Dataset:
    """The dataset, not read yet, once type and shape match `column` and the file holds all of it."""
    data = _dataset(file, name)
    if data.dtype != column.kind or data.shape != (count, *column.shape):
        raise Misfit(f"{name} is {data.dtype} of shape {data.shape}; expected {column.kind} of shape "
                     f"{(count, *column.shape)}")
    return data


def read_ids(file: h5py.File) -> list[str]:
    """The image ids. Raises Misfit."""
    data = _dataset(file, "image_ids")
    text = h5py.check_string_dtype(data.dtype)
    if text is None or text.length is None or data.ndim != 1:
        raise Misfit(f"image_ids is {data.dtype} of shape {data.shape}; expected text of fixed length, one id per "
                     "image")
    ids = list(data.asstr()[:])
    if not all(ids) or len(set(ids)) < len(ids):
        raise Misfit("image_ids has an empty id or a duplicate")
    return ids


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise Misfit(f"no {name} in it")
    if data.shape is None or data.id.get_storage_size() < data.nbytes:  # else a false shape would take all memory
        raise Misfit(f"{name} is incomplete")
    return data


def check_together(kind: str, ids: list[str], sizes: np.ndarray, first: np.ndarray, columns: Columns,
                   attributes: dict[str, Any]) -> None:
    """Raises Misfit, naming the image, where rows do not agree with their image, the class list or each other."""
    image = np.repeat(np.arange(len(ids)), np.diff(first))
    sides = sizes[image][:, ::-1]  # of each row's image: width, height
    checks = _proposals_wrong if kind == "proposals" else _windows_wrong
    for wrong, what in checks(columns, image, sides, attributes):
        row = int(wrong.argmax()) if wrong.any() else None
        if row is not None:
            raise Misfit(f"image {ids[image[row]]}, row {row}: {what}")


def _proposals_wrong(columns: Columns, image: np.ndarray, sides: np.ndarray,
                     _: dict[str, Any]) -> Iterator[tuple[np.ndarray, str]]:
    scores = columns["scores"]
    yield _box_wrong(columns["boxes"], sides), "the box is empty, reversed or not inside the image"
    rises = (np.diff(scores, prepend=scores[:1]) > 0) & (np.diff(image, prepend=image[:1]) == 0)
    yield rises, "its score is above the one before; expected the best first"


def _windows_wrong(columns: Columns, _: np.ndarray, sides: np.ndarray,
                   attributes: dict[str, Any]) -> Iterator[tuple[np.ndarray, str]]:
    classes = len(attributes["classes"])
    yield columns["class_index"] >= classes, f"its class is not one of the {classes}"
    yield _box_wrong(columns["box"], sides), "the box is empty, reversed or not inside the image"
    window = columns["window"].astype(np.int64)
    reach = attributes["shaped_by"]["windows.enlarge"] * sides.max(1, keepdims=True) + 1
    outside = ((window[:, :2] < -reach) | (window[:, 2:] > sides + reach)).any(1)
    yield outside | (window[:, 2:] <= window[:, :2]).any(1), "the window is empty, reversed or far outside the image"


def _box_wrong(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    return np.any(boxes[:, 2:] <= boxes[:, :2], 1) | np.any(boxes[:, 2:] > sides, 1)


def check_first(first: np.ndarray) -> None:
    """Raises Misfit unless the rows of the images follow each other, from 0."""
    if first[0] != 0 or (np.diff(first) < 0).any():
        raise Misfit("first does not start at 0 and increase")
