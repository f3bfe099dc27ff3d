"""The HDF5 files of proposals and windows.

Both hold, in attributes: format, format_version, split, fingerprint (of the class names and the split's ids), classes,
recipe (the keys that shaped the file, JSON). And for the M images: image_ids, sizes (M x 2, height and width), first
(M + 1: image i's rows are first[i] up to first[i + 1]).

    proposals: boxes (N x 4), scores (N); attribute edges, the name of the edge detector
    windows:   a dataset for each field of WindowRows; attribute stage; with --materialize also picture and labels,
               the encoded window warped to windows.warp (bytes of a PNG or JPEG, and of a PNG)
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deconvnet.errors import UserError
from deconvnet.files import hdf5_written_whole
from deconvnet.interrupts import StopRequest
from deconvnet.voc import fingerprint_of
from proposals.parts import Arrays
from proposals.select import WindowRows

FORMAT_VERSION = 1
ENCODED = h5py.vlen_dtype(np.uint8)
ROW_FIELDS = tuple(field.name for field in fields(WindowRows))
CROPS = ("picture", "labels")
JSON_ATTRIBUTES = ("classes", "recipe", "shaped_by")


def write_rows(path: Path, image_ids: list[str], parts: Iterable[Arrays], attributes: dict[str, Any]) -> None:
    """Writes a file of rows, image by image, whole or not at all.

    parts: for each image 'size' (height, width) and equally long row arrays, the same names for every image; for
    an encoded crop the name's bytes and 'NAME_length', since .npz has no ragged arrays.
    """
    with hdf5_written_whole(path) as file, StopRequest() as stop:
        sizes, first = [], [0]
        for arrays in parts:
            stop.stop_if_asked()
            sizes.append(arrays.pop("size"))
            first.append(first[-1] + _append(file, arrays))
        file["image_ids"] = np.array(image_ids, dtype=h5py.string_dtype())
        file["sizes"] = np.array(sizes, np.int32).reshape(-1, 2)
        file["first"] = np.array(first, np.int64)
        file.attrs["format_version"] = FORMAT_VERSION
        for name, value in attributes.items():
            file.attrs[name] = json.dumps(value) if name in JSON_ATTRIBUTES else value


def _append(file: h5py.File, arrays: Arrays) -> int:
    rows = {name: array for name, array in arrays.items() if not name.startswith(CROPS)}
    for name in CROPS:
        if name in arrays:
            ends = np.cumsum(arrays[f"{name}_length"])
            rows[name] = np.split(arrays[name], ends[:-1]) if len(ends) else []
    for name, array in rows.items():
        if name not in file:
            kind, shape = (ENCODED, ()) if name in CROPS else (array.dtype, array.shape[1:])
            file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=True)
        data, before = file[name], len(file[name])
        data.resize(before + len(array), axis=0)
        if name in CROPS:  # one by one: h5py takes equally long byte strings for a matrix
            for index, encoded in enumerate(array):
                data[before + index] = encoded
        elif len(array):
            data[before:] = array
    return len(next(iter(rows.values())))


@dataclass
class Rows:
    """A file's contents but for the encoded crops, which stay on disk."""

    path: Path
    attributes: dict[str, Any]
    image_ids: list[str]
    sizes: np.ndarray
    first: np.ndarray
    columns: Arrays
    materialized: bool

    @property
    def image(self) -> np.ndarray:
        """The index of each row's image."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.first))

    def check_size(self, image_id: str, size: tuple[int, ...]) -> None:
        """Raises UserError unless the image had this size (height, width) when the file was made."""
        self.span(image_id)
        height, width = self.sizes[self._positions[image_id]]
        if (height, width) != tuple(size):
            raise UserError(f"{self.path}: was made when image {image_id} was {width}x{height}, now it is "
                            f"{size[1]}x{size[0]}: another data set with the same ids? Make the file again with "
                            "stages.build_proposals")

    def of_image(self, image_id: str) -> Arrays:
        """The rows of an image. Raises UserError when the file has no such image."""
        span = self.span(image_id)
        return {name: column[span] for name, column in self.columns.items()}

    def span(self, image_id: str) -> slice:
        """Where an image's rows are. Raises UserError when the file has no such image."""
        if image_id not in self._positions:
            raise UserError(f"{self.path}: holds nothing for image {image_id}; make it again with "
                            "stages.build_proposals")
        index = self._positions[image_id]
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def __post_init__(self) -> None:
        self._positions = {image_id: index for index, image_id in enumerate(self.image_ids)}


def read_rows(path: Path, kind: str, fingerprint: str | None = None) -> Rows:
    """Reads a proposals or windows file whole, but for its crops.

    kind: 'proposals' or 'windows'. fingerprint: that of the data set in use; None when the file stands alone.
    Raises UserError for a missing, cut or foreign file, another format version, another data set.
    """
    with opened(path) as file:
        attributes = dict(file.attrs)
        attributes |= {name: json.loads(attributes[name]) for name in JSON_ATTRIBUTES if name in attributes}
        if attributes.get("format") != kind:
            raise UserError(f"{path}: not a {kind} file of this project (format {attributes.get('format')!r})")
        if attributes.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{path}: format version {attributes.get('format_version')}, this program reads "
                            f"{FORMAT_VERSION}; make the file again with stages.build_proposals")
        if fingerprint is not None and fingerprint not in (attributes["fingerprint"], _own_fingerprint(file)):
            raise UserError(f"{path}: was made for another data set, split list or class list (split "
                            f"{attributes['split']!r}); remove it or use another run folder")
        names = ("boxes", "scores") if kind == "proposals" else ROW_FIELDS
        missing = {"image_ids", "sizes", "first", *names} - set(file)
        if missing:
            raise UserError(f"{path}: cut short or damaged: no {sorted(missing)[0]} in it")
        rows = Rows(
            path=path,
            attributes=attributes,
            image_ids=list(file["image_ids"].asstr()[:]),
            sizes=file["sizes"][:],
            first=file["first"][:],
            columns={name: file[name][:] for name in names},
            materialized="picture" in file,
        )
    lengths = {len(column) for column in rows.columns.values()}
    shapes = {column.shape[1:] for name, column in rows.columns.items() if name in ("boxes", "box", "window")}
    steps = np.diff(rows.first, prepend=0)
    if len(steps) != len(rows.image_ids) + 1 or min(steps) < 0 or lengths != {sum(steps)} or shapes != {(4,)}:
        raise UserError(f"{path}: damaged: its columns do not fit together")
    return rows


def _own_fingerprint(file: h5py.File) -> str:
    """That of the list when the images that --on-error skip left out have left it too."""
    return fingerprint_of(json.loads(file.attrs["classes"]), list(file["image_ids"].asstr()[:]))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; what h5py raises for a file that is none, or is cut, becomes a UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; stages.build_proposals makes it")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an HDF5 file, cut short or damaged ({error}); remove it and make it again "
                        "with stages.build_proposals") from None
