"""Reads images and label maps from files; format and size are checked before they take memory."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from deconvnet.support.errors import UserError

EXIF_ORIENTATION = 0x0112
MOST_PIXELS = 50_000_000  # per image: edges and EdgeBoxes take 72 bytes per pixel, so 3.6 GB


def read_rgb(path: Path | str) -> np.ndarray:
    """An RGB uint8 image. Grey, RGBA, 16-bit, rotated by its EXIF orientation, cut short: a UserError that says what to
    do.
    """
    path = Path(path)
    with opened_image(path) as picture:
        wide = any(";16" in str(tile[3]) for tile in picture.tile)  # Pillow would keep the upper 8 bits of 16-bit RGB
        if picture.mode != "RGB" or wide:
            depth = "16-bit" if picture.mode.startswith("I") or wide else picture.mode
            raise UserError(f"{path}: {depth} image; expected 8-bit RGB: convert it, for example with Pillow's "
                            "convert('RGB')")
        if picture.getexif().get(EXIF_ORIENTATION, 1) != 1:
            raise UserError(f"{path}: rotated by its EXIF orientation, which masks and boxes do not follow; store the "
                            "pixels upright, for example with Pillow's ImageOps.exif_transpose")
        return np.array(picture)


def rgb_array(image: np.ndarray, name: str) -> np.ndarray:
    """An RGB uint8 array H x W x 3, contiguous. Raises UserError for anything else; name: for the message."""
    if not isinstance(image, np.ndarray):
        raise UserError(f"{name}: a {type(image).__name__}; expected a path, a PIL image, or an array, RGB uint8, "
                        "height x width x 3")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"{name}: an array of {image.dtype}, shape {image.shape}; expected RGB uint8, height x width x "
                        "3")
    return np.ascontiguousarray(image)


def read_size(path: Path | str) -> tuple[int, int]:
    """An image's height and width, from the start of its file. Raises UserError."""
    with opened_image(Path(path)) as picture:
        return picture.height, picture.width


def read_label_png(path: Path | str) -> np.ndarray:
    """A label map, uint8 H x W, from a palette PNG or a plain 8-bit index PNG. Raises UserError."""
    path = Path(path)
    with opened_image(path) as picture:
        # Pillow would stretch the values of grey PNGs of less than 8 bits to 0 .. 255; it keeps those of palette PNGs.
        eight_bit_grey = picture.mode == "L" and all(tile[3] == "L" for tile in picture.tile)
        if picture.format != "PNG" or not (picture.mode == "P" or eight_bit_grey):
            raise UserError(f"{path}: {picture.format} image of mode {picture.mode}; expected a label map: a palette "
                            "PNG, or an 8-bit grey one")
        return np.array(picture)


@contextmanager
def opened_image(path: Path, most_pixels: int = MOST_PIXELS,
                 formats: tuple[str, ...] | None = None) -> Iterator[ImageFile.ImageFile]:
    """The image, not decoded yet. One that is too large is refused here: half a megabyte may hold 169 megapixels.

    formats: Pillow's names of those that may be; None: all. Raises UserError.
    """
    with told_in_a_line(str(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its limit is not ours
                picture = Image.open(path, formats=formats)
        except Image.DecompressionBombError:
            assert Image.MAX_IMAGE_PIXELS is not None  # without a limit there is no such error
            raise UserError(_too_large(path, f"over {2 * Image.MAX_IMAGE_PIXELS:,} pixels", most_pixels)) from None
        with picture:
            check_pixels(str(path), picture.width, picture.height, most_pixels)
            yield picture


@contextmanager
def told_in_a_line(name: str) -> Iterator[None]:
    """Whatever is raised while an image is opened and decoded is raised as a UserError that begins with its name."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such image") from None
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a readable image: {error}") from None
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise UserError(f"{name}: the file is cut short, damaged or unreadable: {error}") from None


def check_pixels(name: str, width: int, height: int, most_pixels: int) -> None:
    """Raises UserError for an image of more pixels."""
    if width * height > most_pixels:
        raise UserError(_too_large(name, f"{width}x{height}", most_pixels))


def _too_large(name: Path | str, size: str, most_pixels: int) -> str:
    return f"{name}: {size} is too large; expected at most {most_pixels / 1e6:.0f} megapixels: shrink it or split it"
