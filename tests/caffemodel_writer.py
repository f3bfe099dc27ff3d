"""Writes small .caffemodel files, by the wire format's documentation and without the reader's code.

https://protobuf.dev/programming-guides/encoding: a message is a row of fields; a field is a varint tag
(number << 3 | wire type), then a varint (type 0) or a length and that many bytes (type 2). Field numbers are
those of caffe.proto, as the reader's docstring lists them. Messages are lists of byte strings, never joined, so
that a 1 GB file can be written in little memory.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deconvnet.models.vgg16 import batch_norm_name

Parts = list  # of bytes-like objects


@dataclass
class Layer:
    """A layer to write: kind is Caffe's enum number (older) or type name (newer)."""

    name: str
    blobs: list[np.ndarray]
    tops: int = 1
    inference: bool = False
    kind: tuple[int, str] = (4, "Convolution")


def varint(value: int) -> bytes:
    value %= 1 << 64  # negative numbers are written as their two's complement in 64 bits
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> Parts:
    return [varint(field * 8), varint(value)]


def message(field: int, parts: Parts) -> Parts:
    size = sum(memoryview(part).nbytes for part in parts)
    return [varint(field * 8 + 2), varint(size), *parts]


def text(field: int, value: str) -> Parts:
    return message(field, [value.encode()])


def blob(array: np.ndarray, older: bool = True, data: str = "packed") -> Parts:
    """A BlobProto; data: packed, unpacked, split (two packed fields) or double."""
    shape = array.shape
    if older:
        shape = (1,) * (4 - len(shape)) + shape
        parts = [part for field, size in enumerate(shape, 1) for part in number(field, size)]
    else:
        parts = message(7, message(1, [varint(size) for size in shape]))
    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    if data == "packed":
        return parts + message(5, [flat.data.cast("B")] if flat.size else [])
    if data == "unpacked":
        return parts + [b"\x2d" + value.tobytes() for value in flat]
    if data == "split":
        return parts + message(5, [flat[:3].tobytes()]) + message(5, [flat[3:].tobytes()])
    return parts + message(8, [flat.astype("<f8").tobytes()])


def layer(item: Layer, older: bool = True, data: str = "packed") -> Parts:
    if older:
        parts = [*text(2, "below")]
        for index in range(item.tops):
            parts += text(3, item.name if index == 0 else f"{item.name}-{index}")
        parts += text(4, item.name) + number(5, item.kind[0])
        for array in item.blobs:
            parts += message(6, blob(array, True, data))
        parts += [varint(7 * 8 + 5), np.float32(1).tobytes()]  # blobs_lr: a field that is to be skipped
        if item.inference:
            parts += message(45, message(1, text(1, "constant")) + number(3, 1))
        return message(2, parts)
    parts = [*text(1, item.name), *text(2, item.kind[1]), *text(3, "below")]
    for index in range(item.tops):
        parts += text(4, item.name if index == 0 else f"{item.name}-{index}")
    for array in item.blobs:
        parts += message(7, blob(array, False, data))
    return message(100, parts)


def caffemodel(layers: list[Layer], older: bool = True, data: str = "packed", name: str = "net") -> Parts:
    parts = [*text(1, name)]
    for item in layers:
        parts += layer(item, older, data)
        parts += layer(Layer(f"relu_{item.name}", [], kind=(18, "ReLU")), older)
    return parts


def write_caffemodel(path: Path, layers: list[Layer], older: bool = True, data: str = "packed") -> Path:
    with open(path, "wb") as file:
        file.writelines(caffemodel(layers, older, data))
    return path


def caffe_layers(state: dict[str, np.ndarray], bn_tops: int = 1, inference: bool = False) -> list[Layer]:
    """A state dict of ours the way Caffe keeps it: BGR, 1 x 1 x 1 x N biases, BN (scale, shift), names with '-'.

    BN's running statistics are left out, as in a training model.
    """
    bn_names = {batch_norm_name(key.split(".")[0]) for key in state}
    layers: dict[str, Layer] = {}
    for key, value in state.items():
        name, part = key.split(".")
        if part not in ("weight", "bias"):
            continue
        if name == "conv1_1" and part == "weight":
            value = value[:, [2, 1, 0]]
        is_bn = name in bn_names and value.ndim == 1 and state[f"{name}.weight"].ndim == 1
        if value.ndim == 1:
            value = value.reshape((1, -1, 1, 1) if is_bn else (1, 1, 1, -1))
        caffe_name = name.replace("_", "-") if name in ("fc6_deconv", "fc6_deconv_bn", "seg_score_voc") else name
        item = layers.setdefault(name, Layer(caffe_name, []))
        if is_bn:
            item.tops, item.inference, item.kind = bn_tops, inference, (43, "BN")
        item.blobs.append(value)
    return list(layers.values())
