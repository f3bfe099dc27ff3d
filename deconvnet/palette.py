"""Indexed PNGs with the VOC palette."""

from pathlib import Path

import numpy as np
from PIL import Image

from deconvnet.files import written_whole


def voc_palette() -> np.ndarray:
    """The VOC devkit's colours: uint8, 256 x 3; the bits of an index spread over the top bits of R, G, B."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                palette[index, channel] |= (bits >> channel & 1) << shift
            bits >>= 3
    return palette


def write_label_png(path: Path | str, labels: np.ndarray) -> None:
    """Writes a label map (uint8, H x W) as an indexed PNG with the VOC palette, whole or not at all."""
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(voc_palette().tobytes())
    with written_whole(path) as temporary:
        picture.save(temporary)
