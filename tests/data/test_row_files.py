"""The HDF5 files of proposals and windows: written, read back, and everything that may be wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.data.columns import COLUMNS
from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import FORMAT_VERSION, read_outline, read_rows, write_rows
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UserError
from deconvnet.support.resumable import Arrays
from tests.row_files import attributes

IDS = ["2007_000033", "b", "ä"]
ATTRIBUTES = attributes("windows", shaped_by={"windows.enlarge": 1.2, "windows.warp": 250},
                        recipe={"seed": 0, "x": [1]})


def window_part(count: int, seed: int, crops: list[tuple[bytes, bytes]] | None = None) -> Arrays:
    random = np.random.default_rng(seed)
    corner, side = random.integers(0, 150, (count, 2)), random.integers(1, 150, (count, 2))
    box = np.concatenate([corner, corner + side], axis=1).astype(np.int32)
    part = {
        "size": np.array([300 + seed, 500], np.int32),
        "window": box + np.array([-50, -7, 20, 50], np.int32),
        "box": box,
        "source": random.integers(0, 2, count, dtype=np.uint8),
        "object": random.integers(0, 9, count, dtype=np.int32),
        "class_index": random.integers(1, 21, count, dtype=np.uint8),
        "overlap": random.random(count, dtype=np.float32),
        "score": np.where(random.random(count) < 0.5, np.nan, random.random(count)).astype(np.float32),
    }
    if crops is not None:
        for place, name in enumerate(("picture", "labels")):
            pieces = [np.frombuffer(crop[place], np.uint8) for crop in crops]
            part[name] = np.concatenate([np.empty(0, np.uint8), *pieces])
            part[f"{name}_length"] = np.array([len(piece) for piece in pieces], np.int64)
    return part


def copies(parts: list[Arrays]) -> list[Arrays]:
    return [dict(part) for part in parts]


def windows_file(path: Path, counts: tuple[int, ...] = (2, 0, 3), **changes: object) -> list[Arrays]:
    parts = [window_part(count, seed) for seed, count in enumerate(counts)]
    write_rows(path, IDS[: len(counts)], copies(parts), ATTRIBUTES | changes)
    return parts


def refused(path: Path, *words: str, kind: str = "windows", fingerprint: str | None = None) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(path, kind, fingerprint)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0, 0), (0, 4, 1), (1,), (2, 3, 0)], ids=str)
def test_windows_come_back(counts: tuple[int, ...], tmp_path: Path) -> None:
    parts = windows_file(tmp_path / "new" / "a.h5", counts)
    rows = read_rows(tmp_path / "new" / "a.h5", "windows", ATTRIBUTES["fingerprint"])
    assert rows.image_ids == IDS[: len(counts)] and not rows.materialized
    assert rows.sizes.tolist() == [part["size"].tolist() for part in parts]
    assert {name: rows.attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert rows.attributes["format_version"] == FORMAT_VERSION
    assert rows.image.tolist() == [index for index, count in enumerate(counts) for _ in range(count)]
    assert set(rows.columns) == COLUMNS["windows"].keys()
    for part, image_id in zip(parts, rows.image_ids, strict=True):
        own = rows.of_image(image_id)
        for name in COLUMNS["windows"]:
            np.testing.assert_array_equal(own[name], part[name])
            assert own[name].dtype == part[name].dtype
    with pytest.raises(UserError, match="has no rows for image nobody"):
        rows.of_image("nobody")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.h5"]


def test_proposals_come_back(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 6, 5], [1, 2, 3, 4], [4, 1, 5, 2]], np.int32)
    scores = np.array([0.9, 0.5, 0.1], np.float32)
    none = {"size": np.array([3, 4]), "boxes": boxes[:0], "scores": scores[:0]}
    write_rows(tmp_path / "a.h5", ["x", "y"], [none, {"size": np.array([5, 6]), "boxes": boxes, "scores": scores}],
               attributes("proposals"))
    rows = read_rows(tmp_path / "a.h5", "proposals")
    np.testing.assert_array_equal(rows.of_image("y")["boxes"], boxes)
    np.testing.assert_array_equal(rows.of_image("y")["scores"], scores)
    assert rows.of_image("x")["boxes"].shape == (0, 4)
    refused(tmp_path / "a.h5", "not a windows file", "'proposals'")


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=4), min_size=1,
                        max_size=3))
def test_encoded_crops_come_back_byte_for_byte(lengths: list, tmp_path_factory) -> None:
    """Bytes of any length, among them equal lengths within an image."""
    random = np.random.default_rng(0)
    crops = [[(random.bytes(one), random.bytes(two)) for one, two in image] for image in lengths]
    path = tmp_path_factory.mktemp("crops") / "a.h5"
    parts = [window_part(len(image), seed, image) for seed, image in enumerate(crops)]
    write_rows(path, [str(index) for index in range(len(crops))], copies(parts), ATTRIBUTES)
    rows = read_rows(path, "windows")
    assert rows.materialized
    with h5py.File(path) as file:
        stored = [tuple(file[name][start:stop].tobytes() for name in ("picture", "labels")
                        for start, stop in [rows.crops[name][row : row + 2]]) for row in range(rows.first[-1])]
    assert stored == [crop for image in crops for crop in image]


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def test_crops_are_what_training_sees(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (3, 250, 250, 3), dtype=np.uint8)
    labels = random.choice([0, 8, 255], (3, 250, 250)).astype(np.uint8)
    crops = [(png(picture[..., ::-1]), png(label)) for picture, label in zip(pictures, labels, strict=True)]
    write_rows(tmp_path / "a.h5", ["x", "y"], [window_part(1, 0, crops[:1]), window_part(2, 1, crops[1:])], ATTRIBUTES)
    examples = WindowCrops(read_rows(tmp_path / "a.h5", "windows"), None, Recipe(), augment=False, seed=(0,))
    for row in (2, 0, 1):
        picture, label, own = examples[5, row]
        np.testing.assert_array_equal(picture.numpy().transpose(1, 2, 0), pictures[row, 13:237, 13:237])
        np.testing.assert_array_equal(label.numpy(), labels[row, 13:237, 13:237])
        assert own == row


def test_a_crop_that_is_none_or_of_another_kind_names_file_and_row(tmp_path: Path) -> None:
    good = png(np.zeros((250, 250, 3), np.uint8)), png(np.zeros((250, 250), np.uint8))
    picture, label = np.zeros((250, 250, 3), np.uint8), np.zeros((250, 250), np.uint8)
    wrong = [(b"no picture", good[1]), (png(picture[1:]), good[1]), (png(picture[..., 0]), good[1]),
             (png(np.zeros((250, 250, 4), np.uint8)), good[1]), (png(picture.astype(np.uint16)), good[1]),
             (good[0], png(picture)), (good[0], png(label[:, 1:])), (good[0], png(label + 21))]
    write_rows(tmp_path / "a.h5", ["x"], [window_part(1 + len(wrong), 0, [good, *wrong])], ATTRIBUTES)
    examples = WindowCrops(read_rows(tmp_path / "a.h5", "windows"), None, Recipe(), augment=False, seed=(0,))
    assert examples[0, 0][2] == 0
    for row in range(1, 1 + len(wrong)):
        with pytest.raises(UserError, match=f"a.h5: the crop of row {row} is damaged"):
            examples[0, row]


def test_windows_without_crops_need_the_images(tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    with pytest.raises(UserError, match="--voc-root.*--materialize"):
        WindowCrops(read_rows(tmp_path / "a.h5", "windows"), None, Recipe(), augment=False, seed=(0,))


# What may be wrong


def test_missing_foreign_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    refused(path, "no such file", "stages.build_proposals")
    for content in (b"", b"this is no HDF5 file", b"\0" * 4096, b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(content)
        refused(path, "not an HDF5 file")
    path.unlink()
    with h5py.File(path, "w") as file:
        file["something"] = 1
    refused(path, "not a windows file", "None")


def test_another_data_set(tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    refused(tmp_path / "a.h5", "another data set", "'train'", "remove it", fingerprint="fedcba9876543210")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "1"])
def test_another_format_version(version: object, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    windows_file(path)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = version
    refused(path, f"format version {version}", f"reads {FORMAT_VERSION}", "make the file again")


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    random = np.random.default_rng(0)
    crops = [(random.bytes(900), random.bytes(500)) for _ in range(3)]
    write_rows(path, ["x"], [window_part(3, 0, crops)], ATTRIBUTES)
    content = path.read_bytes()
    end = len(content)
    for length in sorted({0, 1, 7, 8, 9, 95, 96, 97, *range(0, end, end // 60), *range(end - 8, end)}):
        path.write_bytes(content[:length])
        refused(path)
    path.write_bytes(content)
    assert len(read_rows(path, "windows").columns["box"]) == 3


def change(path: Path, action: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "a") as file:
        action(file)


def replace(name: str, value: object) -> Callable[[h5py.File], None]:
    def action(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return action


@pytest.mark.parametrize("name", ["image_ids", "sizes", "first", *COLUMNS["windows"]])
def test_a_missing_column_is_named(name: str, tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    change(tmp_path / "a.h5", lambda file: file.pop(name))
    refused(tmp_path / "a.h5", name)


@pytest.mark.parametrize("action", [
    lambda file: file["box"].resize(4, axis=0),
    replace("first", np.array([0, 2, 2], np.int64)),
    replace("first", np.array([0, 2, 2, 9], np.int64)),
    replace("first", np.array([], np.int64)),
    replace("first", np.array([0, 4, 2, 5], np.int64)),
    replace("image_ids", np.array(["x", "y"], dtype=h5py.string_dtype())),
    replace("image_ids", np.array([b"x", b"y", b"x"], dtype=h5py.string_dtype(length=1))),
    replace("image_ids", np.array([1, 2, 3])),
    replace("box", np.zeros((5, 3), np.int32)),
    lambda file: file.attrs.pop("fingerprint"),
    lambda file: file.attrs.modify("shaped_by", "{"),
    lambda file: file.attrs.modify("classes", json.dumps(3)[:0]),
    lambda file: file.create_group("again") and file.move("box", "again/box"),
], ids=range(13))
def test_contents_that_do_not_fit_together(action: Callable, tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    change(tmp_path / "a.h5", action)
    refused(tmp_path / "a.h5", fingerprint=ATTRIBUTES["fingerprint"])


def value(name: str, index: object, new: object) -> Callable[[h5py.File], None]:
    def action(file: h5py.File) -> None:
        file[name][index] = new

    return action


WRONG_WINDOWS = {
    "sizes": [value("sizes", 1, [0, 500]), value("sizes", 1, [-3, 500])],
    "first": [value("first", slice(None), [0, 3, 2, 5]), value("first", slice(None), [1, 2, 2, 5])],
    "box": [value("box", 3, [9, 9, 8, 12]), value("box", 3, [9, 9, 9, 12]), value("box", 3, [9, 9, 501, 12]),
            value("box", 3, [9, 9, 2**31 - 1, 12]), value("box", 3, [-1, 9, 8, 12])],
    "window": [value("window", 4, [9, 9, 8, 12]), value("window", 4, [-99_999, 0, 8, 12]),
               value("window", 4, [0, 0, 2**31 - 1, 12])],
    "class": [value("class_index", 2, 21), value("class_index", 2, 0), value("class_index", 2, 255)],
    "source": [value("source", 0, 2)],
    "object": [value("object", 0, -1)],
    "overlap": [value("overlap", 0, 1.5), value("overlap", 0, -0.1), value("overlap", 0, np.nan)],
    "score": [value("score", 0, np.inf)],
    "stage": [lambda file: file.attrs.update(stage=3), lambda file: file.attrs.update(stage="1"),
              lambda file: file.attrs.pop("stage")],
    "split": [lambda file: file.attrs.update(split=7)],
    "classes": [lambda file: file.attrs.modify("classes", '["one"]'),
                lambda file: file.attrs.modify("classes", '[["a"], "b"]')],
    "windows.enlarge": [lambda file: file.attrs.modify("shaped_by", "{}"),
                        lambda file: file.attrs.modify("shaped_by", '{"windows.enlarge": "2"}')],
}


@pytest.mark.parametrize("word", WRONG_WINDOWS)
def test_values_out_of_range_are_named(word: str, tmp_path: Path) -> None:
    for action in WRONG_WINDOWS[word]:
        windows_file(tmp_path / "a.h5")
        change(tmp_path / "a.h5", action)
        refused(tmp_path / "a.h5", "damaged", word)


@pytest.mark.parametrize(("word", "action"), [
    ("row 1: its score", value("scores", slice(None), [0.5, 0.6, 0.1])), ("scores", value("scores", 0, np.nan)),
    ("image y, row 2: the box", value("boxes", 2, [3, 1, 2, 4])), ("boxes", value("boxes", 2, [0, 0, 2**31 - 1, 4])),
    ("row 0: the box", value("boxes", 0, [0, 0, 7, 4])), ("edges", lambda file: file.attrs.pop("edges")),
])
def test_proposals_out_of_range_are_named(word: str, action: Callable, tmp_path: Path) -> None:
    part = {"size": np.array([5, 6]), "boxes": np.array([[0, 0, 6, 5], [1, 2, 3, 4], [4, 1, 5, 2]], np.int32),
            "scores": np.array([0.9, 0.9, 0.1], np.float32)}
    write_rows(tmp_path / "a.h5", ["y"], [part], attributes("proposals"))
    assert read_rows(tmp_path / "a.h5", "proposals").first.tolist() == [0, 3]
    change(tmp_path / "a.h5", action)
    refused(tmp_path / "a.h5", "damaged", word, kind="proposals")


@pytest.mark.parametrize("kind", ["f4", "i8", "u1", h5py.string_dtype(), bool], ids=str)
@pytest.mark.parametrize("name", ["sizes", "first", "box", "overlap", "image_ids"])
def test_columns_of_another_type_are_named(name: str, kind: object, tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        if file[name].dtype == kind:
            return
        values = np.zeros(file[name].shape, kind) if not h5py.check_string_dtype(np.dtype(kind)) else [["x"]]
        del file[name]
        file[name] = values
    refused(tmp_path / "a.h5", name)


def test_a_column_that_claims_terabytes_is_refused_without_taking_them(tmp_path: Path) -> None:
    windows_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for name, column in COLUMNS["windows"].items():
            del file[name]
            file.create_dataset(name, (2**40, *column.shape), column.kind, chunks=True)
        file["first"][3] = 2**40
    refused(tmp_path / "a.h5", "is incomplete")
    assert read_outline(tmp_path / "a.h5", "windows").first[-1] == 2**40


def test_a_failed_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    windows_file(path)
    before = path.read_bytes()

    def broken():
        yield window_part(1, 0)
        raise UserError("the second part is damaged")

    with pytest.raises(UserError, match="second part"):
        write_rows(path, IDS[:2], broken(), ATTRIBUTES)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
