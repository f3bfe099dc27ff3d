"""VOC-layout folders: roots, lists, fingerprints, other class lists, the real subset."""

from pathlib import Path

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import voc_palette
from deconvnet.support.errors import UsageError
from tests.data.small_voc import make_folder, refused, voc


def test_root_may_be_the_folder_or_the_devkit_above(tmp_path: Path) -> None:
    make_folder(tmp_path / "VOCdevkit" / "VOC2012")
    for root in (tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012", str(tmp_path / "VOCdevkit")):
        assert voc(root).root == tmp_path / "VOCdevkit" / "VOC2012"
        assert voc(root).image_ids("train") == ["a"]


def test_wrong_roots(tmp_path: Path) -> None:
    refused(lambda: voc(tmp_path / "none"), tmp_path / "none", "no such folder", "JPEGImages", kind=UsageError)
    refused(lambda: voc(tmp_path), tmp_path, "JPEGImages", "none", kind=UsageError)
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / year / "JPEGImages").mkdir(parents=True)
    refused(lambda: voc(tmp_path), "VOC2007", "VOC2012", "several", kind=UsageError)
    (tmp_path / "file").write_text("")
    refused(lambda: voc(tmp_path / "file"), "file", kind=UsageError)


def test_lists(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "VOC2012", ["b", "a", "c"])
    lists = root / "ImageSets" / "Segmentation"
    assert voc(root).image_ids("train") == ["b", "a", "c"]  # the list's order
    (lists / "windows.txt").write_bytes(b"b\r\na\r\n\r\n")
    assert voc(root).image_ids("windows") == ["b", "a"]
    refused(lambda: voc(root).image_ids("val"), lists / "val.txt", "train", "windows", kind=UsageError)
    (lists / "bom.txt").write_bytes(b"\xef\xbb\xbfb\na\n")  # as Windows' editors write
    assert voc(root).image_ids("bom") == ["b", "a"]
    for name, wrong in (("hidden", ".a"), ("long", "x" * 201)):
        (lists / f"{name}.txt").write_text(f"a\n{wrong}\n")
        refused(lambda name=name: voc(root).image_ids(name), lists / f"{name}.txt", "one image id per line")
    (lists / "empty.txt").write_text("\n \n")
    refused(lambda: voc(root).image_ids("empty"), lists / "empty.txt", "empty")
    (lists / "path.txt").write_text("a\n../b\n")
    refused(lambda: voc(root).image_ids("path"), lists / "path.txt", "'../b'", "no folder")
    (lists / "twice.txt").write_text("a\nb\na\n")
    refused(lambda: voc(root).image_ids("twice"), lists / "twice.txt", "a is listed twice")
    (lists / "binary.txt").write_bytes(b"\xff\xfea\x00")
    refused(lambda: voc(root).image_ids("binary"), lists / "binary.txt")


def test_fingerprint_tells_ids_order_and_classes_apart(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "VOC2012", ["b", "a"])
    lists = root / "ImageSets" / "Segmentation"
    for name, text in (("same", "b\na"), ("order", "a\nb"), ("less", "b"), ("joined", "ba")):
        (lists / f"{name}.txt").write_text(text)
    prints = [voc(root).fingerprint(split) for split in ("train", "order", "less", "joined")]
    prints += [voc(root, names).fingerprint("train") for names in ([*VOC_CLASSES[:-1], "screen"], VOC_CLASSES[:20])]
    assert len(set(prints)) == len(prints)
    assert voc(root).fingerprint("same") == prints[0]


def test_palette_is_the_devkits() -> None:
    """The devkit's first colours, as its documentation lists them."""
    assert voc_palette()[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]


def test_real_subset_reads_whole(voc_subset: Path) -> None:
    """Every fifth validation image: sizes agree, objects lie in their mask, boxes in the image."""
    own = voc(voc_subset.parent)
    for image_id in own.image_ids("val")[::5]:
        image, mask = own.read_pair(image_id)
        for item in own.objects(image_id, mask, 1):
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 < x2 <= image.shape[1] and 0 <= y1 < y2 <= image.shape[0]
            assert item.mask.any() and (mask[y1:y2, x1:x2][item.mask] == item.class_index).all()
