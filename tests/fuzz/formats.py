"""Damage that keeps a file's format whole, checksums too: parts dropped, retyped, renumbered, sizes that are lies."""

import gzip
import io
import json
import random
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import torch
import yaml
from PIL import Image
from scipy.io import loadmat, savemat

from tests.fuzz.mutators import WORDS, WRONG, edit_tree

NUMBERS = (0, 1, -1, 2, 3, 127, 255, 256, 32768, 2**31 - 1, -(2**31), 2**63 - 1, 1e308, -1e-300, np.nan, np.inf)
KINDS = ("u1", "i1", "i4", "i8", "u8", "f2", "f4", "f8", "?", "S5", "O")


def json_file(path: Path, dice: random.Random) -> str:
    """One value of a JSON file; or JSON that is nested too deeply, or has odd numbers."""
    if dice.random() < 0.1:
        text = dice.choice(("[" * 100_000, '{"a":' * 50_000, "NaN", "1e999", "9" * 10_000, '{"a": 1, "a": 2}'))
        path.write_text(text)
        return text[:20]
    value, how = edit_tree(json.loads(path.read_text()), dice)
    path.write_text(json.dumps(value, indent=2))
    return how


def yaml_file(path: Path, dice: random.Random) -> str:
    """One value of a recipe; or YAML's own traps."""
    if dice.random() < 0.2:
        bomb = "a: &a [x, x]\n" + "".join(f"b{n}: [*a, *a]\n" for n in range(40))
        text = dice.choice(("[" * 30_000, "&a [*a]", bomb, "!!python/object/apply:os.getcwd []", "? {a: b}\n: c",
                            "name: ${seed}", "seed: ${oc.env:PATH}", "name: ${oc.env:NOBODY}", "<<: {seed: 5}",
                            "seed: 0o17", "seed: 1:30", "---\n---\n", "%YAML 9\n"))
        path.write_text(text)
        return text[:40]
    value, how = edit_tree(yaml.safe_load(path.read_text()), dice)
    path.write_text(yaml.safe_dump(value))
    return how


def xml_file(path: Path, dice: random.Random) -> str:
    """One element of an annotation; or XML's own traps."""
    text = path.read_text()
    traps = {
        "unknown encoding": '<?xml version="1.0" encoding="klingon"?>\n' + text,
        "another encoding": '<?xml version="1.0" encoding="utf-16"?>\n' + text,
        "entities": '<!DOCTYPE a [<!ENTITY b0 "bbbbbbbbbb">' + "".join(
            f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10)) + "]><annotation>&b9;</annotation>",
        "outside": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>',
        "deep": "<a>" * 100_000 + "</a>" * 100_000,
        "other root": "<html></html>",
    }
    if dice.random() < 0.2:
        what = dice.choice(sorted(traps))
        path.write_text(traps[what])
        return what
    root = ElementTree.fromstring(text)
    parents = [(parent, child) for parent in root.iter() for child in parent]
    parent, child = dice.choice(parents)
    what = dice.choice(("removed", "doubled", "renamed", "text", "text", "text"))
    if what == "removed":
        parent.remove(child)
    elif what == "doubled":
        parent.append(child)
    elif what == "renamed":
        child.tag = "x"
    else:
        child.text = dice.choice([word for word in WORDS if word != "\0"])
    path.write_bytes(ElementTree.tostring(root, encoding=dice.choice(("utf-8", "utf-16", "iso-8859-1"))))
    return f"{child.tag} {what} {str(child.text)[:30]!r}"


def hdf5_file(path: Path, dice: random.Random) -> str:
    """One attribute or dataset of an HDF5 file; checksums are made anew, so only its sense can tell."""
    with h5py.File(path, "r+") as file:
        attributes, names = sorted(file.attrs), sorted(name for name in file if isinstance(file[name], h5py.Dataset))
        if attributes and dice.random() < 0.4:
            return _edit_attribute(file, dice.choice(attributes), dice)
        name = dice.choice(names)
        values, options = file[name][()], _options(file[name])
        del file[name]
        what = dice.choice(("gone", "kind", "shape", "value", "value", "value", "group", "huge"))
        if what == "group":
            file.create_group(name)
        elif what == "huge":
            file.create_dataset(name, (2**40, 4), "i4", chunks=(1024, 4))
        elif what != "gone":
            values, how = _edit_array(values, what, dice)
            try:
                file.create_dataset(name, data=values, **(options if values.ndim and values.size else {}))
            except (TypeError, ValueError, OSError):  # what these filters or HDF5 cannot hold
                if name in file:
                    del file[name]
                file[name] = 0
            return f"{name}: {how}"
        return f"{name}: {what}"


def _options(data: h5py.Dataset) -> dict[str, Any]:
    text = h5py.check_string_dtype(data.dtype)
    ragged = h5py.check_vlen_dtype(data.dtype)
    kind = {"dtype": data.dtype} if text or ragged else {}
    return kind | {"chunks": True, "fletcher32": data.fletcher32, "compression": data.compression}


def _edit_attribute(file: h5py.File, name: str, dice: random.Random) -> str:
    value = file.attrs[name]
    del file.attrs[name]
    if dice.random() < 0.2:
        return f"attribute {name} gone"
    new: Any = dice.choice((0, -1, 2, 10**9, 1.5, np.nan, "", "x", "null", "[]", "{}", "[1]", '"x"', b"\xff\xfe",
                            "x" * 5000, np.zeros(3), h5py.Empty("f4"), "[" * 5000))
    if isinstance(value, str) and value[:1] in "[{" and dice.random() < 0.7:
        new = json.dumps(edit_tree(json.loads(value), dice)[0])
    file.attrs[name] = new
    return f"attribute {name} is {str(new)[:40]!r}"


def _edit_array(values: Any, what: str, dice: random.Random) -> tuple[np.ndarray, str]:
    values = np.array(values)
    if what == "kind":
        kind = dice.choice(KINDS)
        with np.errstate(all="ignore"):
            try:
                return values.astype(kind), f"as {kind}"
            except (TypeError, ValueError):
                return np.zeros(values.shape, "u1"), "as zeros"
    if what == "shape":
        shapes = [values.reshape(-1), values[:-1], np.concatenate([values, values[-1:]]), values[:0], values[None],
                  np.zeros(()), values.T]
        new = dice.choice(shapes) if values.ndim and len(values) else np.zeros((3, 3))
        return new, f"of shape {new.shape}"
    if not values.size:
        return values, "left"
    place, number = dice.randrange(values.size), dice.choice(NUMBERS)
    flat = values.reshape(-1)
    if values.dtype == object:
        item = flat[place]
        flat[place] = item[: len(item) // 2] if len(item) > 1 and dice.random() < 0.5 else (
            np.zeros(3, "u1") if isinstance(item, np.ndarray) else dice.choice(WORDS).replace("\0", "").encode("utf-8"))
        return values, f"item {place} is another"
    with np.errstate(all="ignore"):
        if dice.random() < 0.3:
            values = np.full_like(values, 0) if dice.random() < 0.5 else np.flip(values).copy()
            return values, "all zero or turned round"
        flat[place] = np.array(number).astype(values.dtype)
    return values, f"value {place} is {flat[place]!r}"


def checkpoint_file(path: Path, dice: random.Random) -> str:
    """One entry of what torch.save wrote."""
    content = torch.load(path, weights_only=True)
    some = next(value for value in content.get("model", content).values() if isinstance(value, torch.Tensor))
    tensors = (torch.zeros(()), torch.zeros(0), some[:0], some.double(), some.flatten()[None], some.to_sparse(),
               torch.full_like(some, torch.nan), torch.full_like(some, 1e38), torch.zeros(1).expand(1 << 20, 1 << 20),
               some.to(torch.bool), torch.zeros(5000, dtype=torch.uint8), torch.ones_like(some))
    content, how = edit_tree(content, dice, (*WRONG, *tensors, *tensors))
    torch.save(content, path)
    return " ".join(how.split())[:120]


def safetensors_file(path: Path, dice: random.Random) -> str:
    """The header: JSON behind its length; or the length itself; or a tensor's bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    if dice.random() < 0.15:
        lie = dice.choice((0, 1, length - 1, length + 8, 2**31, 2**63, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", lie) + header + data)
        return f"header length {lie}"
    value, how = json.loads(header), ""
    if "__metadata__" in value and dice.random() < 0.5:
        name = dice.choice(sorted(value["__metadata__"]))
        text = value["__metadata__"][name]
        inner, how = edit_tree(json.loads(text) if text[:1] == "{" else text, dice)
        value["__metadata__"][name] = inner if text[:1] != "{" and isinstance(inner, str) else json.dumps(inner)
    else:
        value, how = edit_tree(value, dice)
    text = json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return how


def picture_file(path: Path, dice: random.Random) -> str:
    """Another mode, size, format; an EXIF rotation; a size that is a lie."""
    what = dice.choice(("mode", "mode", "size", "format", "rotated", "lie", "lie", "values", "animated"))
    with Image.open(path) as opened:
        opened.load()
        picture, kind = opened, opened.format
    if what == "lie":
        return _lie_about_size(path, dice)
    if what == "mode":
        mode = dice.choice(("L", "1", "RGBA", "P", "I;16", "I", "F", "LA", "CMYK", "YCbCr", "RGB"))
        try:
            picture = picture.convert(mode)
        except ValueError:
            picture = Image.fromarray(np.zeros(picture.size[::-1], np.uint16))
        what = f"mode {mode}"
    elif what == "size":
        picture = picture.resize(dice.choice(((1, 1), (3000, 1), (1, 3000), (97, 41), (2000, 1500))), Image.NEAREST)
        what = f"size {picture.size}"
    elif what == "values" and picture.mode in "LP":
        labels = np.array(picture)
        labels.reshape(-1)[dice.randrange(labels.size)] = number = dice.randrange(256)
        new = Image.fromarray(labels)
        if picture.mode == "P":
            new.putpalette(picture.getpalette())
        picture, what = new, f"a pixel is {number}"
    stream = io.BytesIO()
    kind = dice.choice(("GIF", "BMP", "TIFF", "WEBP", "PNG", "JPEG")) if what == "format" else kind
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif} if what == "rotated" else {}
    if what == "animated":
        kind, options = "PNG", {"save_all": True, "append_images": [picture.copy(), picture.copy()]}
    for format_ in (kind, "PNG", "TIFF"):
        try:
            picture.save(stream, format_, **options)
            break
        except (OSError, ValueError, KeyError):
            stream, options = io.BytesIO(), {}
    path.write_bytes(stream.getvalue())
    return f"{what}, {kind}"


def _lie_about_size(path: Path, dice: random.Random) -> str:
    content = bytearray(path.read_bytes())
    size = dice.choice(((60_000, 60_000), (13_300, 13_300), (2**31 - 1, 1), (0, 5), (1, 1), (100, 100_000),
                        (8000, 8000)))
    if content[:4] == b"\x89PNG":
        content[16:24] = struct.pack(">II", *size)
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    else:
        place = next((at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := content.find(marker)) > 0), None)
        if place:
            content[place + 5 : place + 9] = struct.pack(">HH", *(min(side, 65_535) for side in size))
    path.write_bytes(content)
    return f"says it is {size}"


def mat_file(path: Path, dice: random.Random) -> str:
    """One field of SBD's struct."""
    content = loadmat(path)
    name = next(key for key in content if key.startswith("GT"))
    fields = {field: content[name][field][0, 0] for field in content[name].dtype.names}
    field = dice.choice([key for key in fields if key != "Boundaries"])
    array = np.asarray(fields[field])
    new = dice.choice((array.astype(float) + 0.5, array.astype(int) - 1, array[None], array[:0], array.T, "text",
                       np.nan, array.astype(complex), array * 0 + 200, np.full((3, 3), 1e300), {"a": array},
                       np.array([None, "x"], object), array.astype(bool), np.int64(2**40)))
    how = dice.choice(("value", "value", "value", "gone", "renamed", "flat"))
    if how == "value":
        fields[field] = new
    elif how == "gone":
        del fields[field]
    try:
        savemat(path, fields if how == "flat" else {("GTx" if how == "renamed" else name): fields or 0},
                do_compression=dice.random() < 0.5, format=dice.choice(("5", "5", "4")) if how == "flat" else "5")
    except (TypeError, ValueError):
        savemat(path, {name: np.zeros(3)})
    return f"{field} {how} {type(new).__name__} {getattr(new, 'shape', new)!s:.40}"


def packed_text(path: Path, dice: random.Random) -> str:
    """The text in a .gz file: a number, a stretch, a line."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    place = dice.randrange(len(lines))
    what = dice.choice(("number", "number", "drop", "double", "cut", "deep"))
    if what == "number":
        words = lines[place].replace("[", "[ ").split(" ")
        words[dice.randrange(len(words))] = str(dice.choice((*NUMBERS, "x", "", "-5", "999999999")))
        lines[place] = " ".join(words)
    elif what == "drop":
        del lines[place]
    elif what == "double":
        lines.insert(place, lines[place])
    elif what == "cut":
        lines = lines[:place]
    else:
        lines.insert(place, "x: " + "[" * 2000)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return f"line {place}: {what} {lines[place][:50]!r}" if place < len(lines) else what


def tar_file(path: Path, dice: random.Random) -> str:
    """An archive with members that leave the folder, or that are no files."""
    what = dice.choice(("../x", "/tmp/deconvnet-fuzz-x", "VOC2012/link", "VOC2012/fifo", "VOC2012/device", "none", "gz",
                        "VOC2012/" + "x" * 300, "VOC2012/huge"))
    with tarfile.open(path, "w:gz" if what == "gz" else "w") as tar:
        if what != "none":
            tar.addfile(tarfile.TarInfo("VOC2012/ImageSets/x.txt"))
            entry = tarfile.TarInfo(what)
            entry.type = {"link": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE}.get(
                what.partition("/")[2], tarfile.REGTYPE)
            entry.linkname = "../../../../etc"
            if what.endswith("huge"):
                entry.size = 2**40
                tar.fileobj.write(entry.tobuf())
            else:
                tar.addfile(entry)
    return what[:40]
