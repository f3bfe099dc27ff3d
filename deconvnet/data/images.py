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
    with _opened(path) as picture:
        return _upright_rgb(picture, str(path))


def rgb_of(image: Image.Image | np.ndarray, name: str) -> np.ndarray:
    """A PIL image or RGB uint8 array as an RGB uint8 array. Raises UserError as read_rgb does; name: for the message.
    """
    if isinstance(image, Image.Image):
        _check_pixels(name, image.width, image.height)
        return _upright_rgb(image, name)
    if not isinstance(image, np.ndarray):
        raise UserError(f"{name}: a {type(image).__name__}; expected a path, a PIL image, or an array, RGB uint8, "
                        "height x width x 3")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"{name}: an array of {image.dtype}, shape {image.shape}; expected RGB uint8, height x width x "
                        "3")
    _check_pixels(name, image.shape[1], image.shape[0])
    return np.ascontiguousarray(image)


def _upright_rgb(picture: Image.Image, name: str) -> np.ndarray:
    tiles = getattr(picture, "tile", [])  # of a file; Pillow would keep the upper 8 bits of 16-bit RGB
    wide = any(";16" in str(tile[3]) for tile in tiles)
    if picture.mode != "RGB" or wide:
        depth = "16-bit" if picture.mode.startswith("I") or wide else picture.mode
        raise UserError(f"{name}: {depth} image; expected 8-bit RGB: convert it, for example with Pillow's "
                        "convert('RGB')")
    if picture.getexif().get(EXIF_ORIENTATION, 1) != 1:
        raise UserError(f"{name}: rotated by its EXIF orientation, which masks and boxes do not follow; store the "
                        "pixels upright, for example with Pillow's ImageOps.exif_transpose")
    return np.array(picture)


def read_size(path: Path | str) -> tuple[int, int]:
    """An image's height and width, from the start of its file. Raises UserError."""
    with _opened(Path(path)) as picture:
        return picture.height, picture.width


def read_label_png(path: Path | str) -> np.ndarray:
    """A label map, uint8 H x W, from a palette PNG or a plain 8-bit index PNG. Raises UserError."""
    path = Path(path)
    with _opened(path) as picture:
        # Pillow would stretch the values of grey PNGs of less than 8 bits to 0 .. 255; it keeps those of palette PNGs.
        eight_bit_grey = picture.mode == "L" and all(tile[3] == "L" for tile in picture.tile)
        if picture.format != "PNG" or not (picture.mode == "P" or eight_bit_grey):
            raise UserError(f"{path}: {picture.format} image of mode {picture.mode}; expected a label map: a palette "
                            "PNG, or an 8-bit grey one")
        return np.array(picture)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image, not decoded yet. One that is too large is refused here: half a megabyte may hold 169 megapixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its limit is above ours
            picture = Image.open(path)
        with picture:
            _check_pixels(str(path), picture.width, picture.height)
            yield picture
    except Image.DecompressionBombError:
        assert Image.MAX_IMAGE_PIXELS is not None  # without a limit there is no such error
        raise UserError(_too_large(path, f"over {2 * Image.MAX_IMAGE_PIXELS:,} pixels")) from None
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a readable image: {error}") from None
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise UserError(f"{path}: the file is cut short, damaged or unreadable: {error}") from None


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(_too_large(name, f"{width}x{height}"))


def _too_large(name: Path | str, size: str) -> str:
    return (f"{name}: {size} is too large; expected at most {MOST_PIXELS / 1e6:.0f} megapixels: shrink it or split it")
