"""Photographs of all kinds become 8-bit RGB, upright, and each change is named; what is none is refused in a line."""

import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data import photographs as said
from deconvnet.data.images import read_rgb
from deconvnet.data.photographs import MOST_PIXELS, Photograph, _opened, read_photograph, size_of, working_size
from tests.data.small_voc import refused
from tests.photographs import HEIGHT, WIDTH, Case, cases, header, heic, marked, opacity, saved, smooth

ROOT = Path(__file__).resolve().parents[2]


def read(path: Path, most_side: int = 0) -> Photograph:
    return read_photograph(path, str(path), most_side)


def check(case: Case, folder: Path) -> None:
    name, content, seen, sentences, error = case
    (folder / name).write_bytes(content)
    found = read(folder / name)
    assert found.image.dtype == np.uint8 and found.image.shape == seen.shape == (*found.size, 3)
    difference = np.abs(found.image.astype(int) - seen)
    assert difference.mean() <= error and difference.max() <= (0 if error == 0 else 2 if error <= 1 else 40), name
    assert found.conversions == sentences


@pytest.mark.parametrize("case", cases(), ids=lambda case: case[0])
def test_every_format_and_kind_of_pixels(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_heic(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    for case in heic():
        check(case, tmp_path)


def test_heic_without_the_plugin_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "a.HEIC"
    path.write_bytes(b"\0\0\0\x1cftypheic")
    code = ("import sys; sys.modules['pillow_heif'] = None\n"
            "from deconvnet.data.photographs import read_photograph\n"
            f"read_photograph({str(path)!r}, 'a', 0)")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert f"UserError: {path}: HEIC is read with Pillow's plugin: pip install pillow-heif" in done.stderr


@pytest.mark.parametrize(("name", "content", "word"), [
    ("text.jpg", b"this is no image", "not a readable image"),
    ("empty.png", b"", "not a readable image"),
    ("float.tif", saved(Image.fromarray(np.zeros((4, 5), np.float32)), "TIFF"), "32-bit floating point"),
    ("whole.tif", saved(Image.fromarray(np.zeros((4, 5), np.int32)), "TIFF"), "32-bit whole numbers"),
    ("drawing.eps", saved(Image.fromarray(smooth()), "EPS"), "not a readable image"),  # Ghostscript would run
])
def test_what_is_no_photograph(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: read(tmp_path / name), tmp_path / name, word)
    refused(lambda: read(tmp_path / "none.jpg"), "none.jpg", "no such image")


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png", "plain.webp", "plain.tif", "palette.gif", "plain.bmp"])
def test_a_file_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    (content,) = (content for known, content, *_ in cases() if known == name)
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    for most_side in (0, 10):
        refused(lambda most_side=most_side: read(tmp_path / name, most_side), tmp_path / name)


def blocks(height: int, width: int) -> np.ndarray:
    """Colours of their own for each eighth, exact after shrinking by eight."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_large_one_is_shrunk_antialiased(kind: str, tmp_path: Path) -> None:
    """Against the mean of each 8 x 8 square; a fine pattern must become its mean, not one of its colours."""
    stripes = np.zeros((320, 480, 3), np.uint8)
    stripes[:, ::2] = 200
    path = tmp_path / "a"
    for picture, error in ((stripes, 4), (np.kron(smooth()[:40, :60], np.ones((8, 8, 1), np.uint8)), 4)):
        Image.fromarray(picture).save(path, kind, **({"quality": 95} if kind != "TIFF" else {}))
        found = read(path, 60)
        means = picture.reshape(40, 8, 60, 8, 3).mean((1, 3))
        assert found.image.shape == (40, 60, 3) and found.size == (320, 480)
        assert np.abs(found.image - means).mean() < error
        assert found.conversions == (said.SHRUNK.format(60),)
    assert read(path, 480).image.shape == (320, 480, 3) and not read(path, 480).conversions


def test_a_large_jpeg_is_not_decoded_in_full(tmp_path: Path) -> None:
    """The decoder is asked for an eighth: what Pillow decodes is at most twice the working size."""
    Image.new("RGB", (1600, 800)).save(tmp_path / "a.jpg")
    before = Image.Image.resize
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda own, *a, **b: seen.append(own.size) or before(own, *a, **b))
        assert read(tmp_path / "a.jpg", 100).image.shape == (50, 100, 3)
    assert seen == [(200, 100)]


def test_turned_and_large(tmp_path: Path) -> None:
    """The mark is followed after the shrinking too; the full size is the upright one."""
    for kind in ("JPEG", "TIFF", "PNG"):
        content, upright = marked(kind, 6)
        (tmp_path / "a").write_bytes(content)
        found, whole = read(tmp_path / "a", 32), read(tmp_path / "a")
        assert whole.size == (WIDTH, HEIGHT) == found.size and found.image.shape == (32, 24, 3)
        expected = np.array(Image.fromarray(upright).resize((24, 32), Image.Resampling.BOX))
        assert np.abs(found.image.astype(int) - expected).mean() < 3
        assert found.conversions == (said.TURNED, said.SHRUNK.format(32))


def test_what_is_transparent_gives_no_colour_to_its_neighbours(tmp_path: Path) -> None:
    """Black, but clear, beside red: shrunk, the border is red and white, without black."""
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:, 20:] = 255, 0, 0, 255
    for mode in ("RGBA", "LA"):
        Image.fromarray(clear).convert(mode).save(tmp_path / "a.png")
        found = read(tmp_path / "a.png", 16).image
        assert found[:, 0].min() >= 253 and (found[..., 0] >= (250 if mode == "RGBA" else 70)).all()
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 16).image[5, 10].tolist() == [255, 0, 0]


def test_pil_images_and_arrays(tmp_path: Path) -> None:
    turned = Image.fromarray(smooth())
    turned.getexif()[0x0112] = 8  # in memory, where no file has it
    found = read_photograph(turned, "it", 0)
    np.testing.assert_array_equal(found.image, np.rot90(smooth()))
    assert found.conversions == (said.TURNED,) and found.size == (WIDTH, HEIGHT)
    with Image.open(io.BytesIO(saved(Image.fromarray(np.dstack([smooth(), opacity()])), "PNG"))) as opened:
        assert read_photograph(opened, "it", 0).conversions == (said.ALPHA,)
    large = read_photograph(smooth(), "it", 16)
    assert large.size == (HEIGHT, WIDTH) and large.image.shape == (12, 16, 3)
    np.testing.assert_array_equal(read_photograph(smooth(), "it", 0).image, smooth())
    for wrong in (smooth()[..., 0], smooth().astype(np.uint16), [[1]]):
        refused(lambda wrong=wrong: read_photograph(wrong, "it", 0), "it: a", "RGB uint8")
    cut = saved(turned, "BMP")[:-1000]
    refused(lambda: read_photograph(Image.open(io.BytesIO(cut)), "it", 0), "it: ", "cut short")


def test_sizes() -> None:
    assert working_size((3000, 4000), 1000) == (750, 1000) and working_size((3000, 4000), 0) == (3000, 4000)
    assert working_size((30, 40), 1000) == (30, 40) and working_size((1, 9000), 1000) == (1, 1000)
    assert size_of(smooth(), "it") == size_of(Image.fromarray(smooth()), "it") == (HEIGHT, WIDTH)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_the_limit_of_pixels(tmp_path: Path) -> None:
    """Over 100 megapixels are taken, without Pillow's warning; its own limit is as before afterwards."""
    before = Image.MAX_IMAGE_PIXELS
    bits = Image.new("1", (15_000, 12_000))
    bits.save(tmp_path / "large.png")
    found = read(tmp_path / "large.png", 100)
    assert found.size == (12_000, 15_000) and found.image.shape == (80, 100, 3)
    bits.save(tmp_path / "large.tif", compression="group4")  # Pillow checks these while it decodes, too
    assert read(tmp_path / "large.tif", 100).size == (12_000, 15_000)
    for width, height in ((MOST_PIXELS // 10_000 + 1, 10_000), (60_000, 60_000)):
        refused(lambda: read(header(tmp_path / "a.png", width, height)), tmp_path / "a.png", "too large",  # noqa: B023
                "at most 250 megapixels")
    assert size_of(header(tmp_path / "a.png", MOST_PIXELS // 10_000, 10_000), "a") == (10_000, MOST_PIXELS // 10_000)
    assert Image.MAX_IMAGE_PIXELS == before


def test_pillows_limit_is_put_back_by_the_last_of_several_threads(tmp_path: Path) -> None:
    before, inside, seen = Image.MAX_IMAGE_PIXELS, threading.Barrier(4), []
    Image.fromarray(smooth()).save(tmp_path / "a.png")

    def reader(number: int) -> None:
        with _opened(tmp_path / "a.png"):
            inside.wait(10)
            time.sleep(number / 50)  # they end one after the other
            seen.append(Image.MAX_IMAGE_PIXELS)

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(reader, range(4))] == [None] * 4
    assert seen == [MOST_PIXELS] * 4 and Image.MAX_IMAGE_PIXELS == before


def test_a_data_sets_images_stay_strict(tmp_path: Path) -> None:
    """None of these is read where masks and boxes belong to the image."""
    for name, content, _, sentences, _ in cases():
        (tmp_path / name).write_bytes(content)
        if sentences and sentences != (said.FIRST,) and not (said.TURNED in sentences and name.endswith("tif")):
            refused(lambda name=name: read_rgb(tmp_path / name), tmp_path / name)
