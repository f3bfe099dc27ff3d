"""What every data set must keep to, and that a new one is its own file and an entry of the registry.

The same five images are written in each format; a new one brings its writer, in WRITERS.
"""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from deconvnet.data.dataset import DATA_SETS, SegmentationDataset
from deconvnet.data.row_files import read_rows
from deconvnet.data.voc import VocFolder, VocObject, fingerprint_of
from deconvnet.models.registry import training_specs
from deconvnet.recipe import recipe_keys
from deconvnet.recipe_files import load_recipe
from deconvnet.run_contents import hashes_of
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UnknownLabel, UsageError, UserError
from deconvnet.training.example_sources import make_examples
from proposals.build import build_windows

CLASSES = ["background", "circle", "square", "star"]
IDS = {"train": ["b", "a", "c"], "val": ["e", "d"]}  # not the alphabet's order
ALL = [image_id for ids in IDS.values() for image_id in ids]
SIZE = {image_id: (20 + number, 30 - number) for number, image_id in enumerate(ALL)}


def image_of(image_id: str) -> np.ndarray:
    """RGB; red is never blue."""
    height, width = SIZE[image_id]
    image = np.random.default_rng(ord(image_id)).integers(0, 100, (height, width, 3), dtype=np.uint8)
    image[..., 0] += 120
    return image


def mask_of(image_id: str) -> np.ndarray:
    """A square with a void border, and two circles that touch."""
    mask = np.zeros(SIZE[image_id], np.uint8)
    mask[2:8, 3:9], mask[3:7, 4:8] = 255, 2
    mask[10:14, 10:15] = mask[14:17, 12:20] = 1
    return mask


def numbers_of(image_id: str) -> np.ndarray:
    """The objects of that mask: 1 the square, 2 and 3 the circles."""
    numbers = np.zeros(SIZE[image_id], np.uint8)
    numbers[3:7, 4:8], numbers[10:14, 10:15], numbers[14:17, 12:20] = 1, 2, 3
    return numbers


BOXES = [(2, (4, 3, 8, 7)), (1, (10, 10, 15, 14)), (1, (12, 14, 20, 17))]  # class, and x1, y1, x2, y2


def write_voc(root: Path) -> Path:
    for name, array_of in (("JPEGImages", image_of), ("SegmentationClass", mask_of),
                           ("SegmentationObject", numbers_of)):
        (root / name).mkdir(parents=True)
        for image_id in ALL:
            Image.fromarray(array_of(image_id)).save(root / name / f"{image_id}.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, ids in IDS.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {"voc": write_voc}


@pytest.fixture(params=DATA_SETS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., SegmentationDataset]:
    """Opens the same images in each format, under class names of one's choice."""
    root = WRITERS[request.param](tmp_path / "data")
    return lambda classes=CLASSES: DATA_SETS[request.param](root, list(classes))


@pytest.fixture
def data(make: Callable[..., SegmentationDataset]) -> SegmentationDataset:
    return make()


def refused(call: Callable[[], object], *words: object, kind: type = UserError) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


def test_the_recipes_choices_are_the_registry() -> None:
    assert recipe_keys()["data.format"][1].metadata["choices"] == tuple(DATA_SETS)


def test_classes_and_splits(data: SegmentationDataset) -> None:
    assert data.classes == CLASSES
    assert {split: data.image_ids(split) for split in IDS} == IDS


@pytest.mark.parametrize("split", ["none", "", "../val", "a/b", ".hidden"])
def test_a_split_that_is_none_is_wrong_use(data: SegmentationDataset, split: str) -> None:
    refused(lambda: data.image_ids(split), kind=UsageError)
    refused(lambda: data.fingerprint(split), kind=UsageError)


def test_fingerprints_are_those_that_files_are_compared_with(make: Callable[..., SegmentationDataset]) -> None:
    for classes in (CLASSES, [*CLASSES[:3], "moon"]):
        for split, ids in IDS.items():
            assert make(classes).fingerprint(split) == fingerprint_of(classes, ids)


@pytest.mark.parametrize("image_id", ALL)
def test_pixels_and_labels(data: SegmentationDataset, image_id: str) -> None:
    image, mask = data.read_pair(image_id)
    for found, expected in ((image, image_of(image_id)), (data.read_image(image_id), image_of(image_id)),
                            (mask, mask_of(image_id)), (data.read_mask(image_id), mask_of(image_id))):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
    read = cv2.imread(str(data.image_path(image_id)), cv2.IMREAD_COLOR_RGB)  # what stages.infer reads
    np.testing.assert_array_equal(read, image_of(image_id))


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("least, count", [(1, 3), (17, 2), (21, 1), (25, 0)])
def test_objects(data: SegmentationDataset, given: bool, least: int, count: int) -> None:
    """Of 16, 20 and 24 pixels; in the same order, and with the same pixels, whenever they are asked for."""
    for image_id in ALL:
        mask = data.read_mask(image_id)
        found = data.objects(image_id, mask if given else None, least)
        assert [(one.class_index, tuple(one.box.tolist())) for one in found] == BOXES[3 - count :]
        for one in found:
            assert isinstance(one, VocObject) and one.box.dtype == np.int32 and one.mask.dtype == bool
            x1, y1, x2, y2 = one.box
            assert one.mask.shape == (y2 - y1, x2 - x1) and one.mask.all()
            assert (mask[y1:y2, x1:x2][one.mask] == one.class_index).all()


def test_files_are_what_is_read_and_change_what_is_made_of_them(data: SegmentationDataset, tmp_path: Path) -> None:
    for image_id, (picture, mask, objects) in zip(["d", "a"], data.files(["d", "a"]), strict=True):
        assert picture == os.path.abspath(data.image_path(image_id))
        assert all(os.path.isabs(path) and os.path.isfile(path) for path in (picture, mask, objects))
        os.remove(mask)
        refused(lambda image_id=image_id: data.read_mask(image_id), image_id)
        assert data.files([image_id])[0] == (picture, "", objects)
        os.remove(picture)
        refused(lambda image_id=image_id: data.read_image(image_id), image_id)
        refused(lambda image_id=image_id: data.image_path(image_id), image_id)
        refused(lambda image_id=image_id: data.read_pair(image_id), image_id)
        assert data.files([image_id])[0] == ("", "", objects)
    assert data.files([]) == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_file_is_one_line_that_names_it(data: SegmentationDataset, which: int) -> None:
    path = Path(data.files(["c"])[0][which])
    path.write_bytes(path.read_bytes()[:40])
    refused([lambda: data.read_image("c"), lambda: data.read_mask("c"), lambda: data.objects("c")][which], path.name)


def test_a_label_above_the_last_class_is_told(make: Callable[..., SegmentationDataset]) -> None:
    few = make(CLASSES[:2])
    refused(lambda: few.read_mask("a"), "label 2", kind=UnknownLabel)
    refused(lambda: few.objects("a"), "label 2", kind=UnknownLabel)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_folder_that_is_none_is_wrong_use(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):
        refused(lambda folder=folder: DATA_SETS[name](tmp_path / folder, CLASSES), tmp_path / folder, kind=UsageError)


def test_it_goes_to_other_processes(data: SegmentationDataset) -> None:
    data.objects("a")
    other = pickle.loads(pickle.dumps(data))
    assert other.classes == CLASSES and other.files(ALL) == data.files(ALL)
    np.testing.assert_array_equal(other.read_mask("a"), mask_of("a"))


class Upright(VocFolder):
    """A data set as another might write it: here the same, but every image is of class 'star', whole."""

    def read_mask(self, image_id: str) -> np.ndarray:
        return np.full(SIZE[image_id], 3, np.uint8)

    def objects(self, image_id: str, mask: np.ndarray | None = None, least_pixels: int = 1) -> list[VocObject]:
        height, width = SIZE[image_id]
        return [VocObject(3, np.array([0, 0, width, height], np.int32), np.ones((height, width), np.uint8), 1)]


def test_windows_that_are_older_than_the_key_are_taken_as_vocs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "upright", Upright)
    recipe = load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]"])
    run = RunFolder(tmp_path / "run", recipe, write_voc(tmp_path / "data"))
    build_windows(run, "train", 1, False, 0, "stop")
    with h5py.File(run.windows(1, "train"), "r+") as file:
        shaped_by = json.loads(file.attrs["shaped_by"])
        assert shaped_by.pop("data.format") == "voc"
        file.attrs["shaped_by"] = json.dumps(shaped_by)
    before = run.windows(1, "train").read_bytes()
    build_windows(run, "train", 1, False, 0, "stop")
    assert run.windows(1, "train").read_bytes() == before
    recipe.data.format = "upright"
    refused(lambda: build_windows(run, "train", 1, False, 0, "stop"), "data.format = 'voc', not 'upright'")


def test_a_new_one_is_a_class_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "upright", Upright)
    recipe = load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]"])
    recipe.data.format = "upright"  # --set takes it once it is among the key's choices
    run = RunFolder(tmp_path / "run", recipe, write_voc(tmp_path / "data"))
    assert isinstance(run.voc(), Upright)
    build_windows(run, "train", 1, False, 0, "stop")
    rows = read_rows(run.windows(1, "train"), "windows", run.voc().fingerprint("train"))
    assert rows.columns["class_index"].tolist() == [3, 3, 3] and rows.image_ids == IDS["train"]
    assert rows.columns["box"].tolist() == [[0, 0, width, height] for height, width in map(SIZE.get, IDS["train"])]
    assert (rows.hashes == hashes_of(run, IDS["train"], "windows")).all()


class Nothing:
    """Empty splits, and nothing besides what SegmentationDataset asks for: no `root`, as VocFolder has."""

    def __init__(self, root: Path, classes: list[str]) -> None:
        self.classes = classes

    def image_ids(self, split: str) -> list[str]:
        return []


def test_no_images_to_train_on_is_one_line_that_names_the_folder(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "nothing", Nothing)
    recipe = load_recipe("tiny")
    recipe.data.format = "nothing"
    run = RunFolder(tmp_path / "run", recipe, tmp_path / "data")
    refused(lambda: make_examples(run, training_specs(recipe)["fcn8s"]), tmp_path / "data", "to train on")
