"""Damage that knows nothing of a file's format, or no more than that it is text or a tree of values."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutator = Callable[[Path, random.Random], str]  # damages the file, says how

WRONG = (None, True, False, 0, 1, -1, 0.5, -0.0, 255, 2**31 - 1, -(2**31), 2**63, 10**30, 1e308, float("nan"),
         float("inf"), "", " ", "x", "1", "../x", "/", "a\nb", "\u00e9\u4e2d", "nul\0", "x" * 300, "x" * 5000, [], {},
         [[]], [None], [1, "x"], {"": 1}, {"a": {"b": []}})
WORDS = ("", "-1", "0", "1e308", "nan", "inf", "9" * 400, "x", "../x", "/", ".hidden", "x" * 300, "\u00e9\u4e2d", "\0",
         "\ufeff", "a,b", '"', "\t", "\u2028", "255", "-0", "0x10", "1_0", "val_000000", "train_000001")


def cut(path: Path, dice: random.Random) -> str:
    """Cut short."""
    content = path.read_bytes()
    length = dice.randrange(len(content) + 1) if dice.random() < 0.7 else max(0, len(content) - dice.randint(1, 64))
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"


def flip_bits(path: Path, dice: random.Random) -> str:
    """One bit, or several."""
    content = bytearray(path.read_bytes())
    places = [dice.randrange(len(content)) for _ in range(dice.choice((1, 1, 1, 4, 30)))]
    for place in places:
        content[place] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return f"bits flipped in bytes {places[:5]}"


def swap_bytes(path: Path, dice: random.Random) -> str:
    """Two stretches exchanged."""
    content = bytearray(path.read_bytes())
    length = dice.choice((1, 2, 4, 8, 64))
    one, other = (dice.randrange(max(1, len(content) - length)) for _ in range(2))
    content[one : one + length], content[other : other + length] = (content[other : other + length],
                                                                    content[one : one + length])
    path.write_bytes(content)
    return f"{length} bytes at {one} and {other} exchanged"


def fill(path: Path, dice: random.Random) -> str:
    """A stretch of zeros, of 255, or of noise."""
    content = bytearray(path.read_bytes())
    place, length = dice.randrange(len(content)), dice.choice((1, 4, 8, 64, 512, 4096))
    value = dice.choice((b"\0", b"\xff", None))
    new = value * length if value else dice.randbytes(length)
    content[place : place + length] = new[: max(0, len(content) - place)]
    path.write_bytes(content)
    return f"{length} bytes at {place} filled with {value or 'noise'}"


def insert(path: Path, dice: random.Random) -> str:
    """Bytes put in, or appended."""
    content = path.read_bytes()
    place = dice.choice((0, len(content), dice.randrange(len(content) + 1)))
    path.write_bytes(content[:place] + dice.randbytes(dice.choice((1, 3, 100))) + content[place:])
    return f"bytes put in at {place}"


def empty(path: Path, dice: random.Random) -> str:
    """Nothing left, or a folder in its place, or gone."""
    what = dice.choice(("empty", "a folder", "gone"))
    if what == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if what == "a folder":
            path.mkdir()
    return what


def foreign(path: Path, dice: random.Random) -> str:
    """Another valid file of ours under this name."""
    work = next(parent for parent in path.parents if (parent / "files").is_dir() and (parent / "run").is_dir())
    others = sorted(file for file in work.rglob("*") if file.is_file() and file.stat().st_size < 1 << 20)
    other = dice.choice(others)
    shutil.copyfile(other, path) if other != path else None
    return f"replaced by {other.relative_to(work)}"


BYTES: tuple[Mutator, ...] = (cut, flip_bits, flip_bits, flip_bits, swap_bytes, fill, insert, empty, foreign)


def edit_lines(path: Path, dice: random.Random) -> str:
    """A text file: lines doubled, exchanged, dropped, changed; odd words; odd encodings."""
    lines = path.read_text().split("\n")
    place = dice.randrange(len(lines))
    what = dice.choice(("double", "drop", "word", "number", "join", "bom", "utf-16", "crlf", "long", "many"))
    if what == "double":
        lines.insert(place, lines[place])
    elif what == "drop":
        del lines[place]
    elif what == "word":
        word = dice.choice(WORDS)
        lines[place] = dice.choice((word, lines[place] + word, word + lines[place]))
    elif what == "number":
        words = lines[place].split(",")
        words[dice.randrange(len(words))] = dice.choice(WORDS)
        lines[place] = ",".join(words)
    elif what == "join":
        lines[place : place + 2] = ["".join(lines[place : place + 2])]
    elif what == "long":
        lines[place] = "x" * 100_000
    elif what == "many":
        lines[place : place + 1] = [f"{lines[place]}{number}" for number in range(20_000)]
    text = ("\r\n" if what == "crlf" else "\n").join(lines)
    encoding = {"bom": "utf-8-sig", "utf-16": "utf-16"}.get(what, "utf-8")
    path.write_bytes(text.encode(encoding))
    return f"line {place}: {what} {lines[place][:40]!r}" if place < len(lines) else what


def edit_tree(value: Any, dice: random.Random, wrong: tuple = WRONG) -> tuple[Any, str]:
    """A copy of nested dictionaries and lists in which one node is another, lacking, doubled or renamed."""
    paths = list(_paths(value))
    path = dice.choice(paths) if paths else ()
    if not path:
        new = dice.choice(wrong)
        return new, f"all of it is {new!r:.60}"
    value = _copy(value)
    *way, last = path
    parent = value
    for step in way:
        parent = parent[step]
    what = dice.choice(("another", "another", "another", "lacking", "doubled", "renamed", "nested"))
    if what == "another":
        parent[last] = new = dice.choice(wrong)
        return value, f"{'.'.join(map(str, path))} is {new!r:.60}"
    if what == "nested":
        parent[last] = dice.choice(([parent[last]], {"a": parent[last]}))
    elif what == "lacking":
        del parent[last]
    elif isinstance(parent, list):
        parent.insert(last, parent[last])
    else:
        parent[dice.choice(("x", "", f"{last}2"))] = parent[last] if what == "doubled" else parent.pop(last)
    return value, f"{'.'.join(map(str, path))} {what}"


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in list(items)[:200]:
        found += _paths(item, (*path, name))
    return found


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
