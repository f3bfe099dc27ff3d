"""The synthetic set: same seed, same bytes; masks, rims and boxes agree; an interrupted one is gone on with."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import voc_palette
from deconvnet.data.synthetic import draw_scene, generate, with_rim
from deconvnet.data.voc import VocFolder, read_annotation
from deconvnet.support.errors import UsageError

TRAIN, VAL, SEED, SIDE = 40, 20, 5, 160
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic"), TRAIN, VAL, SEED, SIDE)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for what a killed process leaves under a temporary (hidden) name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}


def ids_of(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def labels(folder: Path, kind: str, image_id: str) -> np.ndarray:
    return np.array(Image.open(folder / kind / f"{image_id}.png"))


def objects_in_xml(folder: Path, image_id: str) -> list[tuple[str, list[int], dict[str, int]]]:
    """Name, corners as written (1-based, inclusive) and flags of each object."""
    found = []
    for item in ElementTree.parse(folder / "Annotations" / f"{image_id}.xml").getroot().iter("object"):
        corners = [int(item.find("bndbox").find(corner).text) for corner in ("xmin", "ymin", "xmax", "ymax")]
        flags = {flag: int(item.find(flag).text) for flag in ("truncated", "occluded", "difficult")}
        found.append((item.find("name").text, corners, flags))
    return found


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_other_pictures(folder: Path, tmp_path: Path) -> None:
    again = contents(generate(tmp_path / "again", TRAIN, VAL, SEED, SIDE))
    other = contents(generate(tmp_path / "other", TRAIN, VAL, SEED + 1, SIDE))
    first = contents(folder)
    assert first == again
    pictures = [name for name in first if name.startswith("JPEGImages")]
    assert len(pictures) == TRAIN + VAL == len({first[name] for name in pictures})
    assert not any(first[name] == other[name] for name in pictures)


def test_an_image_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    few, many = contents(generate(tmp_path, 3, 2, SEED, SIDE)), contents(folder)
    same = [name for name in few if not name.startswith("ImageSets") and name != "synthetic.json"]
    assert len(same) == 5 * 4
    assert all(few[name] == many[name] for name in same)


def test_layout_and_lists(folder: Path) -> None:
    train, val = ids_of(folder, "train"), ids_of(folder, "val")
    assert (len(set(train)), len(set(val))) == (TRAIN, VAL)
    assert not set(train) & set(val)
    assert ids_of(folder, "trainval") == train + val
    for kind, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("SegmentationObject", "png"),
                         ("Annotations", "xml")):
        assert sorted(path.name for path in (folder / kind).iterdir()) == sorted(f"{i}.{suffix}" for i in train + val)
    for image_id in train:
        picture = Image.open(folder / "JPEGImages" / f"{image_id}.jpg")
        size = ElementTree.parse(folder / "Annotations" / f"{image_id}.xml").getroot().find("size")
        assert picture.mode == "RGB" and 0.9 * SIDE - 1 <= max(picture.size) <= 1.1 * SIDE + 1
        assert picture.size == (int(size.find("width").text), int(size.find("height").text))
        for kind in ("SegmentationClass", "SegmentationObject"):
            mask = Image.open(folder / kind / f"{image_id}.png")
            assert mask.mode == "P" and mask.size == picture.size
            colours = np.array(mask.convert("RGB"))
            assert (colours == voc_palette()[np.array(mask)]).all()


def test_class_mask_object_mask_and_xml_agree(folder: Path) -> None:
    for image_id in ids_of(folder, "trainval"):
        classes, numbers = labels(folder, "SegmentationClass", image_id), labels(folder, "SegmentationObject", image_id)
        written = objects_in_xml(folder, image_id)
        assert 1 <= len(written) <= 4
        assert ((classes == 255) == (numbers == 255)).all() and (classes == 255).any()
        assert ((classes == 0) == (numbers == 0)).all()
        assert set(np.unique(numbers)) - {0, 255} == set(range(1, len(written) + 1))
        for number, (name, corners, flags) in enumerate(written, start=1):
            assert set(classes[numbers == number]) == {VOC_CLASSES.index(name)}
            rows = enumerate(numbers.tolist())
            pixels = [(x, y) for y, row in rows for x, value in enumerate(row) if value == number]
            xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
            assert corners == [min(xs) + 1, min(ys) + 1, max(xs) + 1, max(ys) + 1]
            last_y, last_x = numbers.shape[0] - 1, numbers.shape[1] - 1
            at_border = 0 in xs or 0 in ys or last_x in xs or last_y in ys
            assert flags["truncated"] or not at_border


def test_the_reader_finds_the_same_boxes_in_masks_and_annotations(folder: Path) -> None:
    voc = VocFolder(folder, VOC_CLASSES)
    for image_id in voc.image_ids("val"):
        _, mask = voc.read_pair(image_id)
        boxed = read_annotation(folder / "Annotations" / f"{image_id}.xml")
        found = voc.objects(image_id, mask)
        assert [VOC_CLASSES[item.class_index] for item in found] == [name for name, _ in boxed]
        assert all((item.box == box).all() for item, (_, box) in zip(found, boxed, strict=True))


@pytest.mark.parametrize(("side", "reach"), [(160, 1), (500, 2)])
def test_the_rim_is_where_a_neighbour_differs(side: int, reach: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 4, (5, 6)).repeat(7, 0).repeat(7, 1).astype(np.uint8)
    expected = numbers.copy()
    for y in range(numbers.shape[0]):
        for x in range(numbers.shape[1]):
            near = numbers[max(0, y - reach):y + reach + 1, max(0, x - reach):x + reach + 1]
            if (near != numbers[y, x]).any():
                expected[y, x] = 255
    assert (with_rim(numbers, side) == expected).all()


def test_void_lies_between_any_two_labels_and_nowhere_else(folder: Path) -> None:
    for image_id in ids_of(folder, "train"):
        numbers = labels(folder, "SegmentationObject", image_id).astype(int)
        for one, other in ((numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])):
            assert ((one == other) | (one == 255) | (other == 255)).all()
        assert (numbers == 255).mean() < 0.35  # a rim, no area
        for y, x in np.argwhere(numbers == 255):  # no void pixel is far from labelled ones
            assert (numbers[max(0, y - 3):y + 4, max(0, x - 3):x + 4] != 255).any()


def test_all_classes_occur_some_more_often(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        names = {name for image_id in ids_of(folder, split) for name, _, _ in objects_in_xml(folder, image_id)}
        assert names == set(VOC_CLASSES[1:])
    names = Counter(item["name"] for index in range(200) for item in draw_scene(0, "train", index, 100)[3])
    rare = np.mean([names[name] for name in ("boat", "diningtable", "sheep", "train")])
    others = np.mean([names[name] for name in ("bird", "bus", "car", "cat", "cow", "dog")])
    assert rare < 0.8 * others < 0.8 * names["person"]


def test_only_some_classes_labelled_in_their_order(tmp_path: Path) -> None:
    names = ["background", "cow", "bird"]
    voc = VocFolder(generate(tmp_path, 6, 2, SEED, 100, names), names)
    seen = set()
    for image_id in voc.image_ids("train"):
        _, mask = voc.read_pair(image_id)
        written = objects_in_xml(tmp_path / "VOC2012", image_id)
        numbers = labels(tmp_path / "VOC2012", "SegmentationObject", image_id)
        for number, (name, _, _) in enumerate(written, start=1):
            assert set(mask[numbers == number]) == {{"cow": 1, "bird": 2}[name]}
            seen.add(name)
    assert seen == {"cow", "bird"}
    with pytest.raises(UsageError, match="this set was made with .*'classes'.*, not with"):
        generate(tmp_path, 6, 2, SEED, 100)
    with pytest.raises(UsageError, match="class 'unicorn' cannot be drawn: expected classes of VOC"):
        generate(tmp_path / "other", 6, 2, SEED, 100, ["background", "unicorn"])
    assert not (tmp_path / "other").exists()
    done = subprocess.run([sys.executable, "-m", "experiments.synthetic_voc", tmp_path / "again", "--classes=cow,bird",
                           "--train", "6", "--val", "2", "--seed", str(SEED), "--side", "100"], cwd=REPOSITORY,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "again/VOC2012") == contents(tmp_path / "VOC2012")


def test_objects_overlap_and_have_many_sizes(folder: Path) -> None:
    shares, occluded, touching = [], 0, 0
    for image_id in ids_of(folder, "trainval"):
        numbers = labels(folder, "SegmentationObject", image_id)
        for number, (_, (x1, y1, x2, y2), flags) in enumerate(objects_in_xml(folder, image_id), start=1):
            shares.append(max(x2 - x1 + 1, y2 - y1 + 1) / min(numbers.shape))
            occluded += flags["occluded"]
            if flags["occluded"]:  # a later object lies just across the rim
                ys, xs = np.nonzero(numbers == number)
                near = np.concatenate([numbers[max(0, y - 4):y + 5, max(0, x - 4):x + 5].ravel()
                                       for y, x in zip(ys, xs, strict=True)])
                touching += bool(((near > number) & (near != 255)).any())
    assert occluded >= 5 and touching >= 0.8 * occluded
    assert min(shares) < 0.3 and max(shares) > 0.7 and np.std(shares) > 0.12


def test_an_unfinished_set_is_finished_and_a_whole_one_is_left_alone(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "VOC2012"
    shutil.copytree(folder, copy)
    for path in (copy / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    (copy / "Annotations" / "train_000003.xml").unlink()
    (copy / "JPEGImages" / "val_000001.jpg").unlink()
    kept = copy / "JPEGImages" / "train_000000.jpg"
    before = kept.stat().st_mtime_ns
    generate(tmp_path, TRAIN, VAL, SEED, SIDE)
    assert contents(copy) == contents(folder)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert times[kept] == before
    generate(tmp_path, TRAIN, VAL, SEED, SIDE)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    numbers = ["--train", "150", "--val", "5", "--seed", "2", "--side", "100"]
    command = [sys.executable, "-m", "experiments.synthetic_voc", str(tmp_path / "killed"), *numbers]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    annotations = tmp_path / "killed" / "VOC2012" / "Annotations"
    deadline = time.monotonic() + 60
    while len(list(annotations.glob("train_*.xml"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "VOC2012" / "ImageSets").exists()
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "150 training and 5 validation images" in finished.stdout
    whole = generate(tmp_path / "whole", 150, 5, 2, 100)
    assert contents(tmp_path / "killed" / "VOC2012") == contents(whole)


def test_other_parameters_and_foreign_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'seed': 5.*'seed': 6.*another folder"):
        generate(folder.parent, TRAIN, VAL, SEED + 1, SIDE)
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(UsageError, match="no synthetic.json"):
        generate(tmp_path, TRAIN, VAL, SEED, SIDE)
    assert list((tmp_path / "VOC2012").iterdir()) == [tmp_path / "VOC2012" / "JPEGImages"]
    (tmp_path / "VOC2012" / "synthetic.json").write_text("{")
    with pytest.raises(UsageError, match="synthetic.json"):
        generate(tmp_path, TRAIN, VAL, SEED, SIDE)


@pytest.mark.parametrize(("numbers", "key"), [((0, 1, 0, 160), "--train"), ((1, 0, 0, 160), "--val"),
                                              ((1, 1, -1, 160), "--seed"), ((1, 1, 0, 20), "--side")])
def test_numbers_too_small_are_refused(tmp_path: Path, numbers: tuple[int, ...], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        generate(tmp_path, *numbers)
    assert not list(tmp_path.iterdir())


def test_the_command_says_errors_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.synthetic_voc"]
    failed = subprocess.run([*command, str(tmp_path), "--side", "9"], cwd=REPOSITORY, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == "error: --side is 9; expected at least 96 and at most 4096\n"
