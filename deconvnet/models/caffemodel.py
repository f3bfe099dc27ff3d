"""Reads .caffemodel files (protobuf) without Caffe: each layer's name and its blobs, mapped, not copied.

Only the fields below, of both layouts, are read; all others are skipped. Source: caffe.proto of BVLC/caffe
and of the authors' fork HyeonwooNoh/caffe.

    NetParameter            1 name, 2 layers (older), 100 layer (newer)
    older V1LayerParameter  1 layer (version 0, nested), 3 top, 4 name, 6 blobs, 45 bn_param (the fork)
    newer LayerParameter    1 name, 4 top, 7 blobs
    BNParameter             3 bn_mode (1: INFERENCE)
    BlobProto               1-4 num, channels, height, width, 5 data, 7 shape, 8 double_data
    BlobShape               1 dim

A file may be cut, corrupt or hostile: every length is checked against the remaining bytes before anything is allocated,
nesting is fixed (no recursion), and the number of fields is bounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from deconvnet.support.errors import UserError

KINDS = ("deconvnet", "vgg16", "fcn8s", "fcn16s", "fcn32s")  # the networks whose weights are published in such files
BN_STATES = ("folded", "unmeasured")  # what DeconvNet's BN layers may hold there
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
MOST_FIELDS = 1_000_000  # in a file; the published ones have a few thousand
MOST_PIECES = 1000  # into which a blob's data may be split; Caffe writes one
MOST_DIMENSIONS = 32  # Caffe's own limit
LONGEST_NAME = 256
UNPACKED_FLOAT = 5 << 3 | FIXED32  # the tag byte before each number of an unpacked BlobProto.data


class Malformed(Exception):
    """A violation of the format; becomes a UserError that names the file."""


@dataclass
class CaffeLayer:
    """A layer: its blobs (float32, read-only views of the file) and how its BN was used."""

    name: str = ""
    blobs: list[np.ndarray] = field(default_factory=list)
    top_count: int = 0  # outputs; a BN layer with three also returns its batch's mean and variance
    bn_inference: bool = False  # a BN layer in the fork's INFERENCE mode: scale * x + shift


def read_caffemodel(path: Path | str) -> dict[str, CaffeLayer]:
    """The layers that have blobs, by name, in the file's order.

    Raises UserError, in one line, for a file that is missing, cut, corrupt, of version 0 or not a Caffe model.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if data[:4].tobytes() == b"\x89HDF":
        raise UserError(f"{path}: a Caffe snapshot in HDF5; expected Caffe's binary format (.caffemodel)")
    try:
        layers = _Reader(data).network()
    except Malformed as error:
        raise UserError(f"{path}: not a readable Caffe model: {error}") from None
    if not layers:
        raise UserError(f"{path}: no layer with weights in it; expected a .caffemodel file")
    return layers


@dataclass
class _Field:
    """A field of a message: its number, wire type, and a varint's value or the range of its bytes."""

    number: int
    wire: int
    start: int
    end: int
    value: int = 0


class _Reader:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data.data
        self.fields_left = MOST_FIELDS

    def network(self) -> dict[str, CaffeLayer]:
        layers: dict[str, CaffeLayer] = {}
        for item in self.fields(0, len(self.data)):
            if item.number not in (2, 100):
                continue
            layer = self.layer(item, older=item.number == 2)
            if layer.blobs:
                if layer.name in layers:
                    raise Malformed(f"two layers with weights are called {layer.name!r}")
                layers[layer.name] = layer
        return layers

    def layer(self, message: _Field, older: bool) -> CaffeLayer:
        name, top, blobs = (4, 3, 6) if older else (1, 4, 7)
        layer, blob_fields = CaffeLayer(), []
        for item in self.message(message, "a layer"):
            if item.number == name:
                layer.name = self.text(item)
            elif item.number == top:
                layer.top_count += 1
            elif item.number == blobs:
                blob_fields.append(item)
            elif older and item.number == 45:
                layer.bn_inference = any(
                    part.number == 3 and part.wire == VARINT and part.value == 1
                    for part in self.message(item, "bn_param")
                )
            elif older and item.number == 1:
                raise Malformed("a file of Caffe's version 0: convert it with Caffe's upgrade_net_proto_binary first")
        for index, item in enumerate(blob_fields):
            layer.blobs.append(self.blob(item, f"blob {index} of layer {layer.name!r}"))
        return layer

    def blob(self, message: _Field, what: str) -> np.ndarray:
        legacy, shape, has_shape, pieces = [0, 0, 0, 0], [], False, []
        for item in self.message(message, what):
            if item.number in (1, 2, 3, 4) and item.wire == VARINT:
                legacy[item.number - 1] = item.value
            elif item.number == 5 and item.wire in (BYTES, FIXED32):
                pieces.append(self.numbers(item, "<f4", what))
            elif item.number == 8 and item.wire in (BYTES, FIXED64):
                pieces.append(self.numbers(item, "<f8", what))
            elif item.number == 7:
                has_shape = True
                shape += self.shape(item, what)
            if len(pieces) > MOST_PIECES:
                raise Malformed(f"{what} is in more than {MOST_PIECES} pieces")
        shape = shape if has_shape else legacy
        count = sum(len(piece) for piece in pieces)
        if max(shape, default=0) > len(self.data) or prod(shape) != count:
            raise Malformed(f"{what} holds {count:,} numbers, which do not fill its shape ({_times(shape)})")
        if len(pieces) == 1 and pieces[0].dtype == np.float32:
            return pieces[0].reshape(shape)  # as stored in the file
        with np.errstate(over="ignore"):  # too large for float32: becomes infinite, which the importer rejects
            return np.concatenate([np.zeros(0, np.float32), *pieces]).astype(np.float32).reshape(shape)

    def shape(self, message: _Field, what: str) -> list[int]:
        dimensions = []
        for item in self.message(message, f"shape of {what}"):
            if item.number == 1 and item.wire == VARINT:
                dimensions.append(item.value)
            elif item.number == 1 and item.wire == BYTES:  # packed
                at = item.start
                while at < item.end and len(dimensions) <= MOST_DIMENSIONS:
                    value, at = self.varint(at, item.end)
                    dimensions.append(value)
            if len(dimensions) > MOST_DIMENSIONS:
                raise Malformed(f"{what} has more than {MOST_DIMENSIONS} dimensions")
        return dimensions

    def numbers(self, item: _Field, kind: str, what: str) -> np.ndarray:
        """A view of a field's packed numbers, or of one unpacked number (or a run of them, already measured)."""
        size = item.end - item.start
        width = np.dtype(kind).itemsize
        if item.wire == FIXED32:  # number, then tag and number, repeatedly
            run = np.dtype({"names": ["number"], "formats": [kind], "offsets": [0], "itemsize": width + 1})
            before = np.frombuffer(self.data[item.start : item.end - width], run)["number"]
            last = np.frombuffer(self.data[item.end - width : item.end], kind)
            return np.concatenate([before, last])
        if size % width:
            raise Malformed(f"{what} ends inside a number")
        return np.frombuffer(self.data[item.start : item.end], kind)

    def text(self, item: _Field) -> str:
        if item.wire != BYTES or item.end - item.start > LONGEST_NAME:
            raise Malformed("a layer's name is not a short string")
        try:
            return bytes(self.data[item.start : item.end]).decode()
        except UnicodeDecodeError:
            raise Malformed("a layer's name is not UTF-8") from None

    def message(self, item: _Field, what: str) -> Iterator[_Field]:
        if item.wire != BYTES:
            raise Malformed(f"{what} is not a message")
        return self.fields(item.start, item.end)

    def fields(self, at: int, end: int) -> Iterator[_Field]:
        """The fields between two offsets. A run of unpacked floats (BlobProto.data) is returned as one field."""
        while at < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise Malformed(f"more than {MOST_FIELDS:,} fields")
            tag, start = self.varint(at, end)
            number, wire, value = tag >> 3, tag & 7, 0
            if number == 0:
                raise Malformed(f"no field tag at byte {at}")
            if wire == VARINT:
                value, at = self.varint(start, end)
            elif wire == FIXED64:
                at = start + 8
            elif wire == FIXED32:
                at = start + 4
                if tag == UNPACKED_FLOAT and at <= end:
                    at = self.end_of_run(at, end)
            elif wire == BYTES:
                length, start = self.varint(start, end)
                at = start + length
            else:
                raise Malformed(f"a wire type ({wire}) that Caffe never writes, at byte {at}")
            if at > end:
                raise Malformed(f"cut short at byte {start}")
            yield _Field(number, wire, start, at, value)

    def end_of_run(self, at: int, end: int) -> int:
        """The end of a run of unpacked floats, the first of which ends at `at`; searched in blocks."""
        while at < end:
            tags = np.frombuffer(self.data[at : min(end, at + 5 * 65536)], np.uint8)[::5]
            whole = int(np.count_nonzero(at + 5 * np.arange(1, len(tags) + 1) <= end))
            others = np.flatnonzero(tags[:whole] != UNPACKED_FLOAT)
            count = int(others[0]) if len(others) else whole
            at += 5 * count
            if count < 65536:
                return at
        return at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A base-128 number of at most 64 bits at `at`, and where it ends. Negative ones appear as huge ones."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise Malformed(f"cut short at byte {at}")
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
        raise Malformed(f"a number longer than 64 bits at byte {at}")


def _times(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
