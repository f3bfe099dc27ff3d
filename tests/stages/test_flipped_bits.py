"""Single flipped bits in files of this project: each is refused in one line, or changes nothing that is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch

from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import read_rows, write_rows
from deconvnet.inference.score_files import read_scores, write_scores
from deconvnet.models.weight_files import read_safetensors, save_safetensors
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UserError
from deconvnet.training.checkpoint import load_checkpoint, save_checkpoint
from tests.checkpoints import content
from tests.data.test_row_files import png, window_part
from tests.row_files import attributes

FLIPS = 40
IMAGE = "0123456789abcdef"  # the hash of an image's content
RECIPE = load_recipe("tiny", ["network.width=0.0625", "network.input=32", "windows.warp=36"])


def scores(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 20, 30)).astype(np.float32)
    write_scores(path, values, "float16", IMAGE)


def proposals(path: Path) -> None:
    random = np.random.default_rng(0)
    corner = random.integers(0, 90, (60, 2))
    boxes = np.concatenate([corner, corner + random.integers(1, 90, (60, 2))], axis=1).astype(np.int32)
    part = {"size": np.array([200, 200]), "boxes": boxes, "scores": np.sort(random.random(60, np.float32))[::-1]}
    write_rows(path, ["2007_000033", "b"], [dict(part), dict(part)], attributes("proposals"))


def windows(path: Path, encoding: str = ".png") -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (5, 36, 36, 3), dtype=np.uint8)
    crops = [(cv2.imencode(encoding, picture)[1].tobytes(), png(picture[..., 0] % 21)) for picture in pictures]
    write_rows(path, ["a", "b"], [window_part(2, 0, crops[:2]), window_part(3, 1, crops[2:])], attributes("windows"))


def read_saved_scores(path: Path) -> list[Any]:
    found = read_scores(path, (20, 30), 4, IMAGE)
    if found is None:  # taken for another image's: they are made again
        raise UserError(f"{path}: of another image")
    return [found]


def read_windows(path: Path) -> list[Any]:
    rows = read_rows(path, "windows")
    examples = WindowCrops(rows, None, RECIPE, False, (0,))
    crops = [array for row in range(len(examples)) for array in examples._stored(row)]
    return [rows.attributes, rows.image_ids, rows.sizes, rows.first, rows.hashes, *rows.columns.values(), *crops]


def read_proposals(path: Path) -> list[Any]:
    rows = read_rows(path, "proposals")
    return [rows.attributes, rows.image_ids, rows.sizes, rows.first, rows.hashes, *rows.columns.values()]


def small_state() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def read_network(path: Path) -> list[Any]:
    tensors, metadata = read_safetensors(path)
    return [metadata, *flat(tensors)]


def checkpoint(path: Path) -> None:
    save_checkpoint(path, RECIPE, content(model=small_state().state_dict(), random=torch.arange(99).byte()))


def read_checkpoint(path: Path) -> list[Any]:
    found = load_checkpoint(path, RECIPE)
    return [*flat(found.pop("model")), found.pop("random").numpy(), found]


def flat(tensors: dict[str, torch.Tensor]) -> list[Any]:
    return [part for name in sorted(tensors) for part in (name, tensors[name].numpy())]


KINDS: dict[str, tuple[Callable, Callable, str]] = {  # written how, read how, under what name
    "scores": (scores, read_saved_scores, "a.h5"),
    "proposals": (proposals, read_proposals, "a.h5"),
    "windows": (windows, read_windows, "a.h5"),
    "network": (lambda path: save_safetensors(small_state(), path, {"kind": "deconvnet", "classes": 21}), read_network,
                "network.safetensors"),
    "checkpoint": (checkpoint, read_checkpoint, "last.pt"),
    "windows, JPEG": (lambda path: windows(path, ".jpg"), read_windows, "a.h5"),
}


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f") and mine.dtype == theirs.dtype
        if isinstance(mine, np.ndarray) else mine == theirs for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_refused_or_harmless(kind: str, tmp_path: Path, flips: int = FLIPS) -> None:
    write, read, name = KINDS[kind]
    path = tmp_path / name
    write(path)
    whole, written = read(path), path.read_bytes()
    random, refused = np.random.default_rng(0), 0
    for bit in random.integers(0, 8 * len(written), flips):
        changed = bytearray(written)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert same(read(path), whole), f"bit {bit} of {8 * len(written)}"
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > flips / 4  # the rest is padding


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_each_dataset_and_attribute_is_covered(tmp_path: Path) -> None:
    """A flip in the middle of each: also where its values would still be in range."""
    path = tmp_path / "a.h5"
    windows(path)
    with h5py.File(path) as file:
        places = {name: file[name].id.get_chunk_info(0).byte_offset for name in file}
        values = {name: attributes("windows")[name] for name in ("split", "fingerprint")}
    whole = path.read_bytes()
    places |= {name: whole.index(value.encode()) for name, value in values.items()}
    assert len(places) >= 16
    for name, place in places.items():
        path.write_bytes(whole)
        flipped(path, place)
        with pytest.raises(UserError):
            read_windows(path)
            raise AssertionError(name)


def test_each_part_of_a_networks_file_is_covered(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_safetensors(small_state(), path, {"kind": "deconvnet", "origin": {"seed": 4}})
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) - 300, whole.index(b"seed") + 8, whole.index(b"0.weight")):
        path.write_bytes(whole)
        flipped(path, place)
        with pytest.raises(UserError):
            read_safetensors(path)
