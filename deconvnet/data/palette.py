"""Indexed PNGs with the VOC palette."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deconvnet.support.atomic import atomic_write

MADE_OF = "image"  # the PNG text with the hash of the image that a label map was made from


def voc_palette() -> np.ndarray:
    """The VOC devkit's colours: uint8, 256 x 3; the bits of an index are spread over the top bits of R, G, B."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                palette[index, channel] |= (bits >> channel & 1) << shift
            bits >>= 3
    return palette


def write_label_png(path: Path | str, labels: np.ndarray, made_of: str = "") -> None:
    """Writes a label map (uint8, H x W) as an indexed PNG with the VOC palette, completely or not at all.

    made_of: the hash of the image that it was made from, stored in the file.
    """
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(voc_palette().tobytes())
    texts = PngInfo()
    if made_of:
        texts.add_text(MADE_OF, made_of)
    with atomic_write(path) as temporary:
        picture.save(temporary, pnginfo=texts)


def label_png_made_of(path: Path) -> str:
    """The hash of the image that a label map was made from; empty if the file does not have it."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(MADE_OF, ""))
    except Exception:  # Pillow raises many kinds of errors for damaged files
        return ""
