"""The HDF5 files of proposals and windows.

Both hold, in attributes: format, format_version, split, fingerprint (of the class names and the split's ids), classes,
recipe (the keys that shaped the file, JSON). And for the M images: image_ids, sizes (M x 2, height and width), first
(M + 1: image i's rows are first[i] up to first[i + 1]), hashes (of the contents of the files that they were made from).

    proposals: boxes (N x 4), scores (N); attribute edges, the name of the edge detector, or "none (SOURCE)"
    windows:   a dataset for each field of WindowRows; attribute stage; with --materialize also picture and labels,
               the encoded windows warped to windows.warp (bytes of PNGs or JPEGs, and of PNGs, one after the other),
               and picture_length and labels_length (N)

Every byte is covered by a checksum that HDF5 verifies on reading: metadata by its own (since format version 1.10), data
by Fletcher-32. Nothing has variable length, since HDF5 stores such values without a checksum.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deconvnet.data.columns import (
    BYTES,
    COLUMNS,
    CROPS,
    FILES,
    FIRST,
    HASHES,
    LENGTHS,
    SIZES,
    Misfit,
    check_column,
    check_first,
    check_together,
    read_column,
    read_ids,
)
from deconvnet.data.contents import HASH
from deconvnet.data.voc import fingerprint_of
from deconvnet.schemas import ProposalAttributes, RowAttributes, WindowAttributes, checked
from deconvnet.support.atomic import atomic_hdf5
from deconvnet.support.errors import UserError
from deconvnet.support.interrupts import StopRequest
from deconvnet.support.resumable import Arrays

OBJECT, PROPOSAL = 0, 1  # where a window comes from


@dataclass
class WindowRows:
    """The windows of an image, one row each."""

    window: np.ndarray  # int32 N x 4: the enlarged box, may reach outside the image
    box: np.ndarray  # int32 N x 4: the object's or the proposal's own box
    source: np.ndarray  # uint8 N: OBJECT or PROPOSAL
    object: np.ndarray  # int32 N: index of the object, the one of largest overlap for a proposal
    class_index: np.ndarray  # uint8 N: that object's class
    overlap: np.ndarray  # float32 N: IoU of the box with that object's box; 1 for an object itself
    score: np.ndarray  # float32 N: objectness; NaN for an object


FORMAT_VERSION = 2  # 1 had crops of variable length and no checksums
JSON_ATTRIBUTES = ("classes", "recipe", "shaped_by")
ATTRIBUTES: dict[str, type[RowAttributes]] = {"proposals": ProposalAttributes, "windows": WindowAttributes}
CHUNK = 1 << 16  # bytes of encoded crops per checksum: reading a crop reads little of its neighbours
REMEDY = "remove it and make it again with stages.build_proposals"


def write_rows(path: Path, image_ids: list[str], parts: Iterable[Arrays], attributes: dict[str, Any],
               hashes: np.ndarray | None = None) -> None:
    """Writes a file of rows, image by image, completely or not at all.

    parts: for each image 'size' (height, width) and equally long row arrays, the same names for every image; for
    encoded crops the bytes of all of them, and 'NAME_length'. hashes: of the files that the rows were made from, M x F,
    from data/contents.py; None: of no files, so they match no data set.
    """
    files = FILES[attributes["format"]]
    hashes = np.zeros((len(image_ids), files), HASH) if hashes is None else hashes
    with atomic_hdf5(path) as file, StopRequest() as stop:
        sizes, first = [], [0]
        for arrays in parts:
            stop.stop_if_asked()
            sizes.append(arrays.pop("size"))
            first.append(first[-1] + _append(file, arrays))
        own = {"image_ids": _texts(image_ids), "sizes": np.array(sizes, np.int32).reshape(-1, 2),
               "first": np.array(first, np.int64),
               "hashes": np.ascontiguousarray(hashes, HASH).view(np.uint8).reshape(-1, files, 16)}
        for name, values in own.items():
            file.create_dataset(name, data=values, chunks=True, fletcher32=True)
        file.attrs["format_version"] = FORMAT_VERSION
        for name, value in attributes.items():
            value = json.dumps(value) if name in JSON_ATTRIBUTES else value
            file.attrs[name] = _texts([value]).reshape(()) if isinstance(value, str) else value


def _texts(values: list[str]) -> np.ndarray:
    """Strings of fixed length: that of the longest."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def _append(file: h5py.File, arrays: Arrays) -> int:
    for name, array in arrays.items():
        if name not in file:
            chunks = (CHUNK,) if name in CROPS else True
            file.create_dataset(name, (0, *array.shape[1:]), array.dtype, maxshape=(None, *array.shape[1:]),
                                chunks=chunks, fletcher32=True)
        data, before = file[name], len(file[name])
        data.resize(before + len(array), axis=0)
        if len(array):
            data[before:] = array
    return next(len(array) for name, array in arrays.items() if name not in CROPS)


@dataclass
class Rows:
    """A file's contents except for the encoded crops, which stay on disk."""

    path: Path
    attributes: dict[str, Any]
    image_ids: list[str]
    sizes: np.ndarray
    first: np.ndarray
    hashes: np.ndarray  # M x F of type HASH
    columns: Arrays = field(default_factory=dict)
    crops: Arrays = field(default_factory=dict)  # of picture and labels: where each row's bytes are (N + 1)

    @property
    def materialized(self) -> bool:
        """Whether the file holds the crops, so that the images are not needed."""
        return bool(self.crops)

    @property
    def image(self) -> np.ndarray:
        """The index of each row's image."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.first))

    def check_size(self, image_id: str, size: tuple[int, ...]) -> None:
        """Raises UserError unless the image had this size (height, width) when the file was made."""
        self.span(image_id)
        height, width = self.sizes[self._positions[image_id]]
        if (height, width) != tuple(size):
            raise UserError(f"{self.path}: was made when image {image_id} was {width}x{height}; now it is "
                            f"{size[1]}x{size[0]}: another data set with the same ids? Make the file again with "
                            "stages.build_proposals")

    def of_image(self, image_id: str) -> Arrays:
        """The rows of an image. Raises UserError when the file has no such image."""
        span = self.span(image_id)
        return {name: column[span] for name, column in self.columns.items()}

    def part(self, image_id: str) -> Arrays:
        """What write_rows was given for an image: its size, rows, and crops."""
        span, index = self.span(image_id), self._positions[image_id]
        arrays = {"size": self.sizes[index], **self.of_image(image_id)}
        for name, places in self.crops.items():
            with opened(self.path) as file:
                arrays[name] = file[name][places[span.start] : places[span.stop]]
            arrays[f"{name}_length"] = np.diff(places[span.start : span.stop + 1])
        return arrays

    def span(self, image_id: str) -> slice:
        """Where an image's rows are. Raises UserError when the file has no such image."""
        if image_id not in self._positions:
            raise UserError(f"{self.path}: has no rows for image {image_id}; make it again with "
                            "stages.build_proposals")
        index = self._positions[image_id]
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def __post_init__(self) -> None:
        self._positions = {image_id: index for index, image_id in enumerate(self.image_ids)}


def read_rows(path: Path, kind: str, fingerprint: str | None = None) -> Rows:
    """Reads a whole proposals or windows file, except for its crops.

    kind: 'proposals' or 'windows'. fingerprint: that of the data set in use; None when the file stands alone.
    Raises UserError for a missing, cut, damaged or foreign file, another format version, another data set.
    """
    with opened(path) as file:
        rows = _read_outline(file, path, kind)
        # The second one is the list's after the images skipped by --on-error skip were removed from it too.
        known = rows.attributes["fingerprint"], fingerprint_of(rows.attributes["classes"], rows.image_ids)
        if fingerprint is not None and fingerprint not in known:
            raise UserError(f"{path}: was made for another data set, split list or class list (split "
                            f"{rows.attributes['split']!r}); remove it or use another run folder")
        count = int(rows.first[-1])
        rows.columns = {name: read_column(file, name, column, count) for name, column in COLUMNS[kind].items()}
        if kind == "windows" and "picture" in file:
            rows.crops = {name: _read_places(file, name, count) for name in CROPS}
        check_together(kind, rows.image_ids, rows.sizes, rows.first, rows.columns, rows.attributes)
    return rows


def read_outline(path: Path, kind: str) -> Rows:
    """As read_rows, but only attributes, image ids, sizes and each image's range of rows: fast for any file."""
    with opened(path) as file:
        return _read_outline(file, path, kind)


def _read_outline(file: h5py.File, path: Path, kind: str) -> Rows:
    attributes = attributes_of(file)
    if attributes.get("format") != kind:
        raise UserError(f"{path}: not a {kind} file of this project (format {attributes.get('format')!r})")
    if attributes.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format version {attributes.get('format_version')}; this program reads "
                        f"{FORMAT_VERSION}; make the file again with stages.build_proposals")
    about = checked(ATTRIBUTES[kind], attributes, path, REMEDY)
    ids = read_ids(file)
    sizes, first = read_column(file, "sizes", SIZES, len(ids)), read_column(file, "first", FIRST, len(ids) + 1)
    check_first(first)
    hashes = read_column(file, "hashes", HASHES[kind], len(ids)).view(HASH)[..., 0]
    return Rows(path, about.model_dump(by_alias=True), ids, sizes, first, hashes)


def _read_places(file: h5py.File, name: str, count: int) -> np.ndarray:
    """The offset of each encoded crop in the bytes, and the end of the last one: int64 N + 1."""
    places = np.append(0, np.cumsum(read_column(file, f"{name}_length", LENGTHS, count)))
    check_column(file, name, BYTES, int(places[-1]))
    return places


def attributes_of(file: h5py.File) -> dict[str, Any]:
    """A file's attributes as Python strings and numbers."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; h5py's errors for a truncated or other file become a UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; stages.build_proposals makes it")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except Misfit as error:
        raise UserError(f"{path}: cut short or damaged: {error}; {REMEDY}") from None
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an HDF5 file, cut short or damaged ({error}); remove it and make it again "
                        "with stages.build_proposals") from None
