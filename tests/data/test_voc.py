"""Reading VOC-layout folders: small folders made here, their contents known by construction."""

import io
import math
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.images import read_label_png, read_rgb
from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.data.voc import VocFolder, VocObject
from deconvnet.support.errors import UsageError, UserError

CAT, DOG = 8, 12
HEIGHT, WIDTH = 10, 14


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def class_mask() -> np.ndarray:
    """Two cats that touch at a corner, one dog, void between."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:4, 1:5] = CAT
    mask[4:6, 5:8] = CAT
    mask[7:10, 9:14] = DOG
    mask[6, 9:14] = 255
    return mask


def make_folder(root: Path, ids: list[str] | None = None) -> Path:
    """A VOC2012 folder whose images are PNGs, so that pixels are known exactly."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for number, image_id in enumerate(ids or ["a"]):
        Image.fromarray(picture(seed=number)).save(root / "JPEGImages" / f"{image_id}.png")
        write_label_png(root / "SegmentationClass" / f"{image_id}.png", class_mask())
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(ids or ["a"]) + "\n")
    return root


def annotate(root: Path, image_id: str, boxes: list[tuple[str, tuple]]) -> Path:
    """An annotation file; corners as VOC writes them, 1-based and inclusive."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>" for name, (x1, y1, x2, y2) in boxes
    )
    path = root / "Annotations" / f"{image_id}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation>{objects}</annotation>")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "VOC2012")


def voc(root: Path, classes: list[str] = VOC_CLASSES) -> VocFolder:
    return VocFolder(root, classes)


def refused(call, *words: object, kind: type = UserError) -> str:
    """Asserts a one-line error with the words in it."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message


# Folders and lists


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


# Images


def test_image_and_mask_are_read_as_they_are(folder: Path) -> None:
    image, mask = voc(folder).read_pair("a")
    np.testing.assert_array_equal(image, picture())
    np.testing.assert_array_equal(mask, class_mask())  # void included
    assert image.dtype == mask.dtype == np.uint8 and image.flags.writeable


def test_jpeg_comes_before_png_and_is_rgb(folder: Path) -> None:
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 254
    Image.fromarray(red).save(folder / "JPEGImages" / "a.jpg", quality=100)
    np.testing.assert_allclose(voc(folder).read_image("a"), red, atol=2)


def test_missing_files(folder: Path) -> None:
    refused(lambda: voc(folder).read_image("x"), folder / "JPEGImages" / "x.jpg", "no such image")
    refused(lambda: voc(folder).read_mask("x"), folder / "SegmentationClass" / "x.png", "SegmentationClassAug")
    refused(lambda: read_rgb(folder / "none.jpg"), "none.jpg", "no such image")


def encoded(array: np.ndarray, mode: str, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format=kind, **options)
    return buffer.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "RGB", "jpeg", exif=exif)


def sixteen_bit(channels: int) -> bytes:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16))[1].tobytes()


def grey_png(labels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of less than 8 bits a pixel, written by the PNG specification."""
    rows = b"".join(
        b"\0" + np.packbits((row[:, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8).ravel()).tobytes()
        for row in labels
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "content", "word"), [
    ("grey.jpg", encoded(picture(), "L", "jpeg"), "L image"),
    ("grey.png", encoded(picture(), "L"), "L image"),
    ("palette.png", encoded(picture(), "P"), "P image"),
    ("alpha.png", encoded(picture(), "RGBA"), "RGBA image"),
    ("cmyk.jpg", encoded(picture(), "CMYK", "jpeg"), "CMYK image"),
    ("grey16.png", sixteen_bit(1), "16-bit"),
    ("rgb16.png", sixteen_bit(3), "16-bit"),
    ("rgba16.png", sixteen_bit(4), "expected 8-bit RGB"),
    ("rotated.jpg", rotated_jpeg(), "EXIF"),
    ("text.jpg", b"this is no image", "not a readable image"),
    ("empty.png", b"", "not a readable image"),
])
def test_images_that_are_not_8_bit_upright_rgb(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: read_rgb(tmp_path / name), tmp_path / name, word)


def test_an_upright_exif_mark_is_fine(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    (tmp_path / "a.jpg").write_bytes(encoded(picture(), "RGB", "jpeg", exif=exif))
    assert read_rgb(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["jpeg", "png", "label"])
def test_a_file_cut_anywhere_is_refused_or_still_whole(kind: str, tmp_path: Path) -> None:
    content = encoded(class_mask(), "L") if kind == "label" else encoded(picture(40, 40), "RGB", kind)
    path = tmp_path / "cut"
    read = read_label_png if kind == "label" else read_rgb
    path.write_bytes(content)
    whole = read(path)
    refusals = 0
    end = len(content)
    for length in sorted({*range(0, end, max(1, end // 60)), *range(end - 16, end)}):
        path.write_bytes(content[:length])
        try:
            # only what follows the last pixel may be missing: then nothing of the picture is lost
            np.testing.assert_array_equal(read(path), whole)
            assert length > len(content) - 24
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refusals += 1
    assert refusals > 40


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), kind=st.sampled_from(["jpeg", "png"]))
def test_damage_never_ends_in_another_exception(place: int, value: int, kind: str, tmp_path_factory) -> None:
    content = bytearray(encoded(picture(), "RGB", kind))
    content[place % len(content)] = value
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content)
    for read in (read_rgb, read_label_png):
        try:
            assert read(path).dtype == np.uint8
        except UserError as error:
            assert str(path) in str(error)


# Masks


def test_palette_and_plain_index_pngs_are_the_same(tmp_path: Path) -> None:
    mask = class_mask()
    write_label_png(tmp_path / "palette.png", mask)
    Image.fromarray(mask).save(tmp_path / "plain.png")
    small = np.minimum(mask, 15)
    indexed = Image.fromarray(small)
    indexed.putpalette(voc_palette()[:16].tobytes())
    indexed.save(tmp_path / "four_bits.png", bits=4)
    assert Image.open(tmp_path / "palette.png").mode == "P" and Image.open(tmp_path / "plain.png").mode == "L"
    np.testing.assert_array_equal(read_label_png(tmp_path / "palette.png"), mask)
    np.testing.assert_array_equal(read_label_png(tmp_path / "plain.png"), mask)
    np.testing.assert_array_equal(read_label_png(tmp_path / "four_bits.png"), small)


@pytest.mark.parametrize("content", [
    encoded(picture(), "RGB"),
    encoded(picture(), "RGBA"),
    encoded(picture(), "1"),
    sixteen_bit(1),
    grey_png(np.minimum(class_mask(), 3), 2),
    grey_png(np.minimum(class_mask(), 15), 4),
    encoded(class_mask(), "L", "jpeg"),
    b"no image",
], ids=["rgb", "rgba", "1-bit", "16-bit", "2-bit grey", "4-bit grey", "jpeg", "text"])
def test_files_that_are_no_label_maps(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    refused(lambda: read_label_png(tmp_path / "mask.png"), tmp_path / "mask.png")


def test_labels_above_the_last_class(folder: Path) -> None:
    mask = class_mask()
    path = folder / "SegmentationClass" / "a.png"
    mask[0, 0] = 20
    write_label_png(path, mask)
    np.testing.assert_array_equal(voc(folder).read_mask("a"), mask)
    mask[0, 0] = 21
    write_label_png(path, mask)
    refused(lambda: voc(folder).read_mask("a"), path, "label 21", "20", "tvmonitor")
    refused(lambda: voc(folder, ["background", "cell"]).read_mask("a"), path, "label 8", "cell")


def test_mask_of_another_size(folder: Path) -> None:
    path = folder / "SegmentationClass" / "a.png"
    write_label_png(path, class_mask().T)
    refused(lambda: voc(folder).read_pair("a"), path, "10x14", "14x10")


def test_aug_masks_serve_where_voc_has_none(folder: Path) -> None:
    other = np.where(class_mask() == CAT, DOG, class_mask())
    (folder / "SegmentationClassAug").mkdir()
    write_label_png(folder / "SegmentationClassAug" / "a.png", other)
    np.testing.assert_array_equal(voc(folder).read_mask("a"), class_mask())
    (folder / "SegmentationClass" / "a.png").unlink()
    np.testing.assert_array_equal(voc(folder).read_mask("a"), other)


# Objects


def listed(objects: list[VocObject]) -> list[tuple[int, list[int], int]]:
    for item in objects:
        assert item.mask.dtype == bool and item.box.dtype == np.int32
        assert item.mask.shape == (item.box[3] - item.box[1], item.box[2] - item.box[0])
    return [(item.class_index, item.box.tolist(), int(item.mask.sum())) for item in objects]


def whole(item: VocObject, shape: tuple[int, int]) -> np.ndarray:
    """The object's pixels as a mask of the image."""
    mask = np.zeros(shape, bool)
    mask[item.box[1] : item.box[3], item.box[0] : item.box[2]] = item.mask
    return mask


def test_objects_from_the_object_mask(folder: Path) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[class_mask() == DOG] = 3
    numbers[1:4, 1:5], numbers[4:6, 5:8] = 7, 1
    numbers[class_mask() == 255] = 255
    (folder / "SegmentationObject").mkdir()
    write_label_png(folder / "SegmentationObject" / "a.png", numbers)
    annotate(folder, "a", [("person", (1, 1, 2, 2))])  # the object mask goes first
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [5, 4, 8, 6], 6), (DOG, [9, 7, 14, 10], 15), (CAT, [1, 1, 5, 4], 12)]
    np.testing.assert_array_equal(whole(objects[2], numbers.shape), numbers == 7)


def test_an_object_keeps_the_pixels_of_its_class_alone(folder: Path) -> None:
    """Void, background and another class's stray pixels in an object's area are not its own."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[0:7, 0:12] = 1  # 12 + 6 cat pixels, background, and void
    numbers[7, 9] = 1  # one dog pixel
    (folder / "SegmentationObject").mkdir()
    write_label_png(folder / "SegmentationObject" / "a.png", numbers)
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [1, 1, 8, 6], 18)]
    np.testing.assert_array_equal(whole(objects[0], numbers.shape), class_mask() == CAT)


def test_object_mask_of_another_size(folder: Path) -> None:
    (folder / "SegmentationObject").mkdir()
    path = folder / "SegmentationObject" / "a.png"
    write_label_png(path, np.zeros((3, 3), np.uint8))
    refused(lambda: voc(folder).objects("a"), path, "3x3", "14x10")


def test_objects_from_boxes_are_the_class_mask_inside(folder: Path) -> None:
    """1-based inclusive 2..5 is 0-based half-open 1..5."""
    annotate(folder, "a", [("cat", (2, 2, 5, 4)), ("cat", (5, 4, 9, 8)), ("dog", (10, 7, 14, 10))])
    objects = voc(folder).objects("a")
    assert listed(objects) == [(CAT, [1, 1, 5, 4], 12), (CAT, [4, 3, 9, 8], 7), (DOG, [9, 6, 14, 10], 15)]
    for item, (x1, y1, x2, y2) in zip(objects, [(2, 2, 5, 4), (5, 4, 9, 8), (10, 7, 14, 10)], strict=True):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                inside = x1 <= x + 1 <= x2 and y1 <= y + 1 <= y2
                assert whole(item, class_mask().shape)[y, x] == (inside and class_mask()[y, x] == item.class_index)


def test_a_class_without_any_box_gives_components(folder: Path) -> None:
    annotate(folder, "a", [("dog", (10, 8, 14, 10))])
    # the two cats touch at a corner: one component of 8 neighbours
    assert listed(voc(folder).objects("a")) == [(DOG, [9, 7, 14, 10], 15), (CAT, [1, 1, 8, 6], 18)]


def test_without_object_mask_and_boxes_all_are_components(folder: Path) -> None:
    assert listed(voc(folder).objects("a")) == [(CAT, [1, 1, 8, 6], 18), (DOG, [9, 7, 14, 10], 15)]
    assert listed(voc(folder).objects("a", least_pixels=16)) == [(CAT, [1, 1, 8, 6], 18)]
    assert listed(voc(folder).objects("a", np.zeros((HEIGHT, WIDTH), np.uint8))) == []


@settings(max_examples=40, deadline=None)
@given(mask=arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, CAT, CAT, DOG, 255])))
def test_components_are_scipys(mask: np.ndarray, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("voc")
    (root / "JPEGImages").mkdir()
    expected = []
    for class_index in (CAT, DOG):
        numbers, _ = ndimage.label(mask == class_index, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            box = [columns.start, rows.start, columns.stop, rows.stop]
            expected.append((class_index, box, int((numbers == number).sum())))
    assert sorted(listed(voc(root).objects("a", mask))) == sorted(expected)


@settings(max_examples=40, deadline=None)
@given(mask=arrays(np.uint8, (7, 9), elements=st.sampled_from([0, CAT, CAT, DOG, 255])),
       numbers=arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 9, 254, 255])), least=st.integers(1, 4))
def test_object_masks_by_loops(mask: np.ndarray, numbers: np.ndarray, least: int, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("voc")
    (root / "JPEGImages").mkdir()
    (root / "SegmentationObject").mkdir()
    write_label_png(root / "SegmentationObject" / "a.png", numbers)
    expected = []
    for number in (1, 2, 9, 254):
        places = [(y, x) for y in range(7) for x in range(9) if numbers[y, x] == number and mask[y, x] not in (0, 255)]
        cats = sum(mask[place] == CAT for place in places)
        class_index = CAT if cats >= len(places) - cats else DOG
        own = [place for place in places if mask[place] == class_index]
        if len(own) >= least:
            expected.append((class_index, own))
    found = [(item.class_index, [tuple(place) for place in np.argwhere(whole(item, (7, 9))).tolist()])
             for item in voc(root).objects("a", mask, least)]
    assert found == expected
    for item in voc(root).objects("a", mask, least):
        assert item.mask.any(0)[[0, -1]].all() and item.mask.any(1)[[0, -1]].all()  # the box is tight


def specks(side: int, count: int, size: int) -> np.ndarray:
    """A mask of `count` squares on a grid, cats and dogs in turn."""
    step = math.isqrt(side * side // count)
    mask = np.zeros((side, side), np.uint8)
    for number in range(count):
        y, x = (place * step for place in divmod(number, side // step))
        mask[y : y + size, x : x + size] = CAT if number % 2 else DOG
    return mask


def rings(side: int) -> np.ndarray:
    """A mask of rings of one pixel, one inside the other: each one's box holds all that are inside it."""
    distance = np.abs(np.arange(side) - side // 2)
    return np.where(np.maximum(distance[:, None], distance) % 2, CAT, 0).astype(np.uint8)


@pytest.mark.parametrize(("mask", "least", "count"), [
    (specks(2000, 500, 40), 1, 500), (specks(2000, 30_000, 5), 1, 30_000), (specks(2000, 30_000, 5), 26, 0),
    (rings(2000), 1, 500)], ids=["nuclei", "specks", "specks that are too small", "rings"])
def test_memory_does_not_grow_with_the_objects(folder: Path, mask: np.ndarray, least: int, count: int) -> None:
    """Masks of the whole image would be 2 GB for 500 nuclei of 2000 x 2000, and 120 GB for the specks."""
    tracemalloc.start()
    try:
        found = voc(folder).objects("a", mask, least)
        for item in found[:3]:
            assert (mask[item.box[1] : item.box[3], item.box[0] : item.box[2]][item.mask] == item.class_index).all()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == count
    assert held < 50e6 and peak < 120e6


def test_boxes_that_lie_outside_or_are_empty(folder: Path) -> None:
    for corners in ((15, 2, 18, 4), (2, 11, 5, 12), (-5, 2, 0, 4), (5, 2, 4, 4), (5, 4, 9, 3)):
        path = annotate(folder, "a", [("cat", (2, 2, 5, 4)), ("cat", corners)])
        refused(lambda: voc(folder).objects("a"), path, "cat", "14x10")


def test_a_box_that_reaches_over_the_border_is_cut_there(folder: Path) -> None:
    annotate(folder, "a", [("dog", (10, 8, 16, 12)), ("cat", (0, -3, 5, 4))])
    assert listed(voc(folder).objects("a")) == [(DOG, [9, 7, 14, 10], 15), (CAT, [0, 0, 5, 4], 12)]


def test_fractions_are_rounded(folder: Path) -> None:
    """Some of VOC 2011's corners have fractions."""
    annotate(folder, "a", [("cat", (2.4, "1.6", 4.6, 4.0)), ("dog", (10, 8, 14, 10))])
    assert listed(voc(folder).objects("a"))[0] == (CAT, [1, 1, 5, 4], 12)


@pytest.mark.parametrize("corners", [("", 1, 2, 2), ("x", 1, 2, 2), ("nan", 1, 2, 2), (1, 1, "inf", 2), (1, 1, 1e20, 2)
                                     ], ids=str)
def test_corners_that_are_no_numbers(folder: Path, corners: tuple) -> None:
    path = annotate(folder, "a", [("cat", corners)])
    refused(lambda: voc(folder).objects("a"), path)


def test_unknown_object_names(folder: Path) -> None:
    path = annotate(folder, "a", [("unicorn", (1, 1, 2, 2))])
    refused(lambda: voc(folder).objects("a"), path, "'unicorn'", "aeroplane")


@pytest.mark.parametrize("text", ["", "not XML", "<annotation>", "<annotation><object></object></annotation>", "\0\1",
                                  '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><object><name>&f;'
                                  "</name></object></annotation>"])
def test_files_that_are_no_annotations(folder: Path, text: str) -> None:
    path = annotate(folder, "a", [])
    path.write_text(text)
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")


def test_exploding_entities_are_an_error_not_a_hang(folder: Path) -> None:
    """Ten entities, each ten times the one before: 10^10 characters for an unprotected parser."""
    laughs = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 11))
    path = annotate(folder, "a", [])
    path.write_text(f"<!DOCTYPE a [{laughs}]><annotation><object><name>&l10;</name></object></annotation>")
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")
    long = f'<!ENTITY long "{"ha" * 50_000}">'
    path.write_text(f"<!DOCTYPE a [{long}]><annotation><object><name>{'&long;' * 50_000}</name></object></annotation>")
    refused(lambda: voc(folder).objects("a"), path, "not a VOC annotation")


def test_own_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "cells")
    mask = np.where(class_mask() == CAT, 1, np.where(class_mask() == DOG, 2, class_mask())).astype(np.uint8)
    write_label_png(root / "SegmentationClass" / "a.png", mask)
    annotate(root, "a", [("nucleus", (10, 8, 14, 10))])
    own = voc(root, ["background", "membrane", "nucleus"])
    np.testing.assert_array_equal(own.read_mask("a"), mask)
    assert listed(own.objects("a")) == [(2, [9, 7, 14, 10], 15), (1, [1, 1, 8, 6], 18)]
    refused(lambda: voc(root).objects("a"), "'nucleus'")


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
