"""Reads photographs as people have them: any common format, turned, grey, transparent, 16-bit, of any size.

For images of one's own only. A data set's images are read by deconvnet.data.images, which converts nothing: masks and
boxes would not follow.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from deconvnet.data.canvas import canvas_size
from deconvnet.data.images import EXIF_ORIENTATION, check_pixels, opened_image, rgb_array, told_in_a_line
from deconvnet.support.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif",
            ".avif")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "HEIF", "AVIF")  # no EPS: that runs Ghostscript
MOST_PIXELS = 250_000_000  # the largest cameras have 150 and 200 megapixels; 16-bit RGBA takes 8 bytes a pixel
FINER = 2  # a JPEG is decoded at this multiple of the working size, or more: what is coarser would be seen

TURNED = "turned upright, as its EXIF mark says"
FIRST = "has several frames or pages; the first is taken"
GREY = "grey; all three colours get its values"
PALETTE = "has a palette; its colours are taken"
CMYK = "CMYK; turned into RGB without a colour profile"
ALPHA = "has transparency; laid on white"
SIXTEEN = "16 bits a channel; brought to 8, 65535 becoming 255"
OTHER = "stored as {}; turned into RGB"
SHRUNK = "larger than infer.most_side={}; labelled at that size, and the labels enlarged"

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes
UNKNOWN_RANGE = {"I": "32-bit whole numbers", "F": "32-bit floating point"}
TURNS, SIDEWAYS = range(2, 9), range(5, 9)  # EXIF orientations other than upright; those that swap height and width


@dataclass(frozen=True, eq=False)
class Photograph:
    """image: RGB uint8 H x W x 3, upright, at the size at which it is labelled. size: the photograph's own height and
    width, upright. conversions: what was done to it, one sentence each.
    """

    image: np.ndarray
    size: tuple[int, int]
    conversions: tuple[str, ...] = ()


def read_photograph(given: Path | str | Image.Image | np.ndarray, name: str, most_side: int) -> Photograph:
    """A photograph in a file, a PIL image (its current frame) or an array (RGB uint8 H x W x 3, taken as it is).

    name: in messages. most_side: one with a longer side is shrunk to it, antialiased; 0: never. A large JPEG is not
    decoded in full. Raises UserError for what is no photograph, is cut short, or has over MOST_PIXELS.
    """
    if isinstance(given, str | Path):
        with _opened(Path(given)) as picture:
            return _converted(picture, name, most_side)
    if isinstance(given, Image.Image):
        check_pixels(name, given.width, given.height, MOST_PIXELS)
        with told_in_a_line(name):
            return _converted(given, name, most_side)
    image = rgb_array(given, name)
    size = image.shape[0], image.shape[1]
    check_pixels(name, size[1], size[0], MOST_PIXELS)
    smaller = working_size(size, most_side)
    if smaller == size:
        return Photograph(image, size)
    return Photograph(np.array(_shrunk(Image.fromarray(image), smaller)), size, (SHRUNK.format(most_side),))


def size_of(given: Path | str | Image.Image | np.ndarray, name: str) -> tuple[int, int]:
    """Its height and width, perhaps not upright yet; of a file, from its start. Raises UserError as read_photograph."""
    if isinstance(given, str | Path):
        with _opened(Path(given)) as picture:
            return picture.height, picture.width
    if isinstance(given, Image.Image):
        return given.height, given.width
    height, width = rgb_array(given, name).shape[:2]
    return height, width


def working_size(size: tuple[int, int], most_side: int) -> tuple[int, int]:
    """The height and width at which a photograph of this size is labelled: infer.most_side, 0 for its own."""
    return canvas_size(*size, most_side) if most_side else size


def _converted(picture: Image.Image, name: str, most_side: int) -> Photograph:
    tiles = getattr(picture, "tile", ())  # of a file, not decoded yet; Pillow keeps the upper 8 bits of 16-bit colours
    wide = picture.mode in SIXTEEN_BIT or any(";16" in str(tile[3]) for tile in tiles)
    if picture.mode in UNKNOWN_RANGE and not wide:
        raise UserError(f"{name}: {UNKNOWN_RANGE[picture.mode]}, of which no one can tell what is black and what is "
                        "white; expected 8 or 16 bits: convert it")
    frames = picture.tell() == 0 and getattr(picture, "n_frames", 1) > 1
    mark = _mark(picture)
    own = picture.height, picture.width
    size = working_size(own, most_side)
    if isinstance(picture, JpegImageFile) and size != own:
        picture.draft(None, (FINER * size[1], FINER * size[0]))
        picture.load()
    else:
        picture.load()
        own = picture.height, picture.width  # HEIC may find only now how it is turned
        size = working_size(own, most_side)
    turn = _mark(picture)  # upright where Pillow has turned it while decoding (TIFF)
    kinds = _kinds(picture, wide)
    small = _on_white(_shrunk(_plain(picture), size))
    small.getexif()[EXIF_ORIENTATION] = turn
    said = {FIRST: frames, TURNED: mark in TURNS, **dict.fromkeys(kinds, True), SHRUNK.format(most_side): size != own}
    return Photograph(np.array(ImageOps.exif_transpose(small)), own[::-1] if turn in SIDEWAYS else own,
                      tuple(sentence for sentence, true in said.items() if true))


def _mark(picture: Image.Image) -> object:
    return picture.getexif().get(EXIF_ORIENTATION, 1)


def _kinds(picture: Image.Image, wide: bool) -> list[str]:
    """What its pixels are, where that is not 8-bit RGB."""
    mode = picture.mode
    said = [SIXTEEN] if wide else []
    if mode in ("1", "L", "LA", "La", "I", *SIXTEEN_BIT):
        said.append(GREY)
    elif mode in ("P", "PA"):
        said.append(PALETTE)
    elif mode == "CMYK":
        said.append(CMYK)
    elif mode not in ("RGB", "RGBA", "RGBa"):
        said.append(OTHER.format(mode))
    return [*said, ALPHA] if picture.has_transparency_data else said


def _plain(picture: Image.Image) -> Image.Image:
    """The picture as L, LA, RGB, RGBA or CMYK, which can be shrunk with antialiasing."""
    if picture.mode in ("I", *SIXTEEN_BIT):
        values = np.asarray(picture).astype(np.uint16, copy=False)
        return Image.fromarray(cv2.convertScaleAbs(values, alpha=255 / 65535))
    if picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and "transparency" not in picture.info:
        return picture
    if picture.mode == "La":
        return picture.convert("LA")
    return picture.convert("RGBA" if picture.has_transparency_data else "L" if picture.mode == "1" else "RGB")


def _shrunk(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Antialiased; what is transparent adds no colour. size: height, width."""
    if (picture.height, picture.width) == size:
        return picture
    return picture.resize(size[::-1], Image.Resampling.BICUBIC, reducing_gap=2.0)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if picture.mode not in ("LA", "RGBA"):
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    formats = _formats()
    if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in formats and path.is_file():
        raise UserError(f"{path}: HEIC is read with Pillow's plugin: pip install pillow-heif, or convert it to JPEG")
    with _PILLOWS_LIMIT, opened_image(path, MOST_PIXELS, formats) as picture:
        yield picture


class _RaisedLimit:
    """Pillow's own limit of pixels, one for the whole process, is raised to ours while any thread reads a photograph.
    """

    def __init__(self) -> None:
        self.lock, self.readers, self.before = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self.lock:
            if not self.readers:
                self.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
            self.readers += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if not self.readers:
                Image.MAX_IMAGE_PIXELS = self.before


_PILLOWS_LIMIT = _RaisedLimit()


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this machine reads; HEIF where pillow_heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)
