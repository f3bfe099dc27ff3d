"""Pictures as text: data URIs, which a page holds in itself."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from deconvnet.data.images import opened_image
from deconvnet.data.palette import voc_palette
from deconvnet.data.photographs import MOST_PIXELS

QUALITY = 78  # of WebP, for photographs
MIME = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}


def shrunk_size(image: np.ndarray, side: int) -> tuple[int, int]:
    """Height and width of an array H x W (x 3) whose longer side is to be at most `side`."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def photograph_uri(image: np.ndarray, side: int) -> str:
    """An image (RGB uint8 H x W x 3) as WebP, shrunk to this longer side, antialiased."""
    height, width = shrunk_size(image, side)
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _encoded(small, "webp", quality=QUALITY, method=4)


def labels_uri(labels: np.ndarray, side: int) -> str:
    """Labels (uint8 H x W) as a PNG in VOC's colours whose background is transparent: it lies over the photograph.

    Shrunk to this longer side by the nearest pixel. Its palette has the colours that occur and no other, so that a
    pixel takes few bits.
    """
    height, width = shrunk_size(labels, side)
    small = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    occurring = np.union1d([0], small)
    picture = Image.fromarray(np.searchsorted(occurring, small).astype(np.uint8))
    picture.putpalette(voc_palette()[occurring].tobytes())
    return _encoded(picture, "png", transparency=0, optimize=True)


def file_uri(path: Path) -> str:
    """A PNG, JPEG or SVG file as it is."""
    return _uri(MIME[path.suffix], path.read_bytes())


def read_labels(path: Path) -> np.ndarray:
    """A label map as read_label_png reads it, also one of a photograph's size. Raises UserError."""
    with opened_image(path, MOST_PIXELS) as picture:
        return np.array(picture)


def _encoded(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return _uri(f"image/{kind}", buffer.getvalue())


def _uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
