"""deconvnet/data/sbd.py and stages.merge_sbd, on real .mat files in SBD's struct layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.sbd import merge_sbd, sbd_ids
from deconvnet.data.voc import VocFolder
from deconvnet.support.errors import UsageError, UserError
from stages import merge_sbd as command
from stages.cli import run_command

HEIGHT, WIDTH = 12, 17
# 2007_01: VOC train and SBD; 2007_02: VOC train only; 2007_03: VOC val and SBD; 2008_1x: SBD only
VOC_TRAIN, VOC_VAL = ["2007_01", "2007_02"], ["2007_03"]
SBD_TRAIN, SBD_VAL = ["2008_12", "2007_03", "2008_10"], ["2008_11", "2007_01"]


def labels(seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Class mask, object mask, each object's class: two objects of one class and one of another, apart."""
    generator = np.random.default_rng(seed)
    first, second = (int(value) for value in generator.choice(np.arange(1, 21), 2, replace=False))
    classes, objects = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (class_index, rows, columns) in enumerate(
        [(first, slice(1, 5), slice(2, 6)), (second, slice(0, 9), slice(8, 11)), (first, slice(6, 12), slice(12, 17))]
    ):
        classes[rows, columns], objects[rows, columns] = class_index, number + 1
    return classes, objects, [first, second, first]


def write_jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)


def write_mats(sbd: Path, image_id: str, classes: np.ndarray, objects: np.ndarray, categories: list[int]) -> None:
    """As SBD's own files: MATLAB 5, compressed, 1 x 1 structs, with their sparse boundaries."""
    edges = np.empty((20, 1), object)
    for index in range(20):
        edges[index, 0] = csc_matrix(np.eye(HEIGHT, WIDTH) * (index == 3))
    for folder in ("cls", "inst"):
        (sbd / folder).mkdir(parents=True, exist_ok=True)
    column = np.array(categories, np.uint8)[:, None]
    savemat(sbd / "cls" / f"{image_id}.mat", {"GTcls": {"Boundaries": edges, "Segmentation": classes,
                                                       "CategoriesPresent": np.unique(column)[:, None]}},
            do_compression=True)
    savemat(sbd / "inst" / f"{image_id}.mat", {"GTinst": {"Boundaries": edges[:3], "Segmentation": objects,
                                                         "Categories": column}}, do_compression=True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[VocFolder, Path]:
    voc, sbd = tmp_path / "VOC2012", tmp_path / "SBD"
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(VOC_TRAIN) + "\n")
    (lists / "val.txt").write_text("\n".join(VOC_VAL) + "\n")
    for image_id in (*VOC_TRAIN, *VOC_VAL, "2008_10"):
        write_jpeg(voc / "JPEGImages" / f"{image_id}.jpg", 0)
    for seed, image_id in enumerate((*SBD_TRAIN, *SBD_VAL)):
        write_jpeg(sbd / "img" / f"{image_id}.jpg", seed)
        write_mats(sbd, image_id, *labels(seed))
    (sbd / "train.txt").write_text("\n".join(SBD_TRAIN) + "\n")
    (sbd / "val.txt").write_text("\n".join(SBD_VAL) + "\n")
    return VocFolder(voc, VOC_CLASSES), sbd


def test_lists_and_files(folders: tuple[VocFolder, Path]) -> None:
    voc, sbd = folders
    assert merge_sbd(voc, sbd) == {"train_aug": 5, "trainval_aug": 6}
    assert voc.image_ids("train_aug") == ["2007_01", "2007_02", "2008_10", "2008_11", "2008_12"]
    assert voc.image_ids("trainval_aug") == [*voc.image_ids("train_aug"), "2007_03"]
    for folder in ("SegmentationClassAug", "SegmentationObjectAug"):
        assert {path.name for path in (voc.root / folder).iterdir()} == {"2008_10.png", "2008_11.png", "2008_12.png"}
    # an image that VOC has is VOC's; one that it lacks is SBD's, byte for byte
    assert (voc.root / "JPEGImages" / "2008_10.jpg").read_bytes() == (
        voc.root / "JPEGImages" / "2007_01.jpg").read_bytes()
    assert (voc.root / "JPEGImages" / "2008_12.jpg").read_bytes() == (sbd / "img" / "2008_12.jpg").read_bytes()


@pytest.mark.parametrize("image_id", ["2008_10", "2008_11", "2008_12"])
def test_labels_and_objects_come_back_through_the_reader(folders: tuple[VocFolder, Path], image_id: str) -> None:
    voc, sbd = folders
    merge_sbd(voc, sbd)
    classes, objects, categories = labels((SBD_TRAIN + SBD_VAL).index(image_id))
    np.testing.assert_array_equal(voc.read_mask(image_id), classes)
    # as torchvision's SBDataset reads it
    np.testing.assert_array_equal(voc.read_mask(image_id),
                                  loadmat(sbd / "cls" / f"{image_id}.mat")["GTcls"][0]["Segmentation"][0])
    found = voc.objects(image_id)
    assert [item.class_index for item in found] == categories
    for number, item in enumerate(found, start=1):
        x1, y1, x2, y2 = item.box
        np.testing.assert_array_equal(item.mask, (objects == number)[y1:y2, x1:x2])
        assert item.mask.sum() == (objects == number).sum()
    with Image.open(voc.root / "SegmentationClassAug" / f"{image_id}.png") as picture:
        assert picture.mode == "P"


def test_goes_on_where_it_was_stopped(folders: tuple[VocFolder, Path]) -> None:
    voc, sbd = folders
    whole = (sbd / "inst" / "2008_12.mat").read_bytes()
    (sbd / "inst" / "2008_12.mat").unlink()
    with pytest.raises(UserError, match="inst.2008_12.mat: no such file"):
        merge_sbd(voc, sbd)
    assert not (voc.root / "ImageSets" / "Segmentation" / "train_aug.txt").exists()
    done = voc.root / "SegmentationClassAug" / "2008_10.png"
    before = done.stat().st_mtime_ns
    (sbd / "inst" / "2008_12.mat").write_bytes(whole)
    (sbd / "cls" / "2008_10.mat").unlink()  # not read again
    merge_sbd(voc, sbd)
    assert done.stat().st_mtime_ns == before
    assert "2008_12" in voc.image_ids("train_aug")


def too_high(sbd: Path) -> None:
    classes, objects, categories = labels(0)
    classes[0, 0] = 21
    write_mats(sbd, "2008_10", classes, objects, categories)


def other_size(sbd: Path) -> None:
    classes, objects, categories = labels(0)
    write_mats(sbd, "2008_10", classes[:, :-1], objects[:, :-1], categories)


def object_without_class(sbd: Path) -> None:
    classes, objects, categories = labels(0)
    write_mats(sbd, "2008_10", classes, objects, categories[:2])


def odd_category(sbd: Path) -> None:
    classes, objects, _ = labels(0)
    write_mats(sbd, "2008_10", classes, objects, [1, 2, 21])


def cut(sbd: Path) -> None:
    path = sbd / "cls" / "2008_10.mat"
    path.write_bytes(path.read_bytes()[:-60])


def empty(sbd: Path) -> None:
    (sbd / "cls" / "2008_10.mat").write_bytes(b"")


def not_mat(sbd: Path) -> None:
    (sbd / "cls" / "2008_10.mat").write_text("<html>not found</html>" * 50)


def other_struct(sbd: Path) -> None:
    savemat(sbd / "cls" / "2008_10.mat", {"GTcls": {"Boundaries": 1}})


def other_variable(sbd: Path) -> None:
    savemat(sbd / "cls" / "2008_10.mat", {"something": 1})


def not_labels(sbd: Path) -> None:
    savemat(sbd / "cls" / "2008_10.mat", {"GTcls": {"Segmentation": np.full((HEIGHT, WIDTH), 1.5)}})


def missing(sbd: Path) -> None:
    (sbd / "cls" / "2008_10.mat").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (too_high, "cls/2008_10.mat: label 21 is above the last class, 20"),
        (other_size, "cls/2008_10.mat: the labels are 16x12; expected 17x12"),
        (object_without_class, "inst/2008_10.mat: object 3 has no class"),
        (odd_category, "inst/2008_10.mat: GTinst.Categories has 21; expected classes 1 to 20"),
        (cut, "cls/2008_10.mat: cut short or not a MATLAB"),
        (empty, "cls/2008_10.mat: cut short or not a MATLAB"),
        (not_mat, "cls/2008_10.mat: cut short or not a MATLAB"),
        (other_struct, "cls/2008_10.mat: has no GTcls.Segmentation"),
        (other_variable, "cls/2008_10.mat: has no GTcls.Segmentation"),
        (not_labels, "cls/2008_10.mat: GTcls.Segmentation has values from 1.5"),
        (missing, "cls/2008_10.mat: no such file"),
    ],
)
def test_errors_name_the_file(folders: tuple[VocFolder, Path], damage, message: str) -> None:
    voc, sbd = folders
    damage(sbd)
    with pytest.raises(UserError) as raised:
        merge_sbd(voc, sbd)
    assert message in str(raised.value).replace("\\", "/")
    assert not (voc.root / "SegmentationClassAug" / "2008_10.png").exists()


def test_picture_cut_short(folders: tuple[VocFolder, Path]) -> None:
    voc, sbd = folders
    path = sbd / "img" / "2008_11.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="img.2008_11.jpg: the file is cut short"):
        merge_sbd(voc, sbd)
    assert not (voc.root / "JPEGImages" / "2008_11.jpg").exists()


def test_not_the_sbd_folder(folders: tuple[VocFolder, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train.txt: no such list; expected SBD's folder"):
        merge_sbd(folders[0], tmp_path)


def test_id_that_leaves_the_folder(folders: tuple[VocFolder, Path]) -> None:
    voc, sbd = folders
    (sbd / "val.txt").write_text("../../evil\n")
    with pytest.raises(UserError, match="val.txt: an id is '../../evil'; expected one image id"):
        merge_sbd(voc, sbd)


def test_lists_with_and_without_a_byte_order_mark(folders: tuple[VocFolder, Path]) -> None:
    _, sbd = folders
    before = sbd_ids(sbd)
    (sbd / "val.txt").write_bytes(b"\xef\xbb\xbf" + (sbd / "val.txt").read_bytes())
    assert sbd_ids(sbd) == before
    (sbd / "val.txt").write_bytes(b"2008_1\xff\n")
    with pytest.raises(UserError, match="val.txt: not a text file"):
        sbd_ids(sbd)


def test_command(folders: tuple[VocFolder, Path], capsys: pytest.CaptureFixture[str]) -> None:
    voc, sbd = folders
    assert run_command(command.parse(), command.main, ["--voc-root", str(voc.root), "--sbd-root", str(sbd)]) == 0
    assert capsys.readouterr().out == "train_aug: 5 images\ntrainval_aug: 6 images\n"
    assert run_command(command.parse(), command.main, ["--voc-root", str(voc.root), "--sbd-root", str(voc.root)]) == 2
