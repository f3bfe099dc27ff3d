"""Images and masks as files: read as they are, or refused by name."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deconvnet.data.images import read_label_png, read_rgb
from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.support.errors import UserError
from tests.data.small_voc import CAT, DOG, HEIGHT, WIDTH, class_mask, picture, refused, voc


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
