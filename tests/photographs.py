"""Files as people have them, of one known picture, and what must be seen in each: for reader, Segmenter and command."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, features

from deconvnet.data import photographs as said

HEIGHT, WIDTH = 48, 64
FLAT = 3  # what a lossy format may change of a smooth picture, in grey levels, on average


def smooth() -> np.ndarray:
    """Colours that change slowly, so that lossy formats keep them; no row, column or channel like another."""
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([40 + 3 * xs, 230 - 3 * ys, 60 + xs + 2 * ys], 2).astype(np.uint8)


def grey() -> np.ndarray:
    return smooth()[..., 0]


def opacity() -> np.ndarray:
    """Clear on the left, half clear in the middle, opaque on the right."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 0, 128
    return alpha


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def three(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def by_opencv(array: np.ndarray, suffix: str) -> bytes:
    """16-bit colours, which Pillow does not write; array: RGB(A) or grey."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(array.shape[-1] if array.ndim == 3 else 0)
    return cv2.imencode(suffix, array[..., order] if order else array)[1].tobytes()


def marked(kind: str, orientation: int, **options: object) -> tuple[bytes, np.ndarray]:
    """A file whose EXIF mark says how to turn it, and the picture upright, by NumPy."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(smooth()), kind, exif=exif, **options), turns[orientation](smooth())


Case = tuple[str, bytes, np.ndarray, tuple[str, ...], float]  # name, file, what is seen, what is said, error allowed


def cases() -> list[Case]:
    """Every format and every kind of pixels."""
    rgb, fine = Image.fromarray(smooth()), np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
    eight = np.rint(fine / 257.0).astype(np.uint8)
    clear = Image.fromarray(np.dstack([smooth(), opacity()]))
    palette = rgb.quantize(64)
    seen_palette = np.array(palette.convert("RGB"))
    colour_key = Image.fromarray(np.where(grey() > 100, 200, 50).astype(np.uint8))
    keyed = three(np.where(grey() > 100, 200, 255).astype(np.uint8))
    clear_palette = Image.fromarray((grey() // 64).astype(np.uint8))
    clear_palette.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10, 10, 10, 200])
    seen_clear = np.array([[255] * 3, [200, 10, 10], [10, 200, 10], [10, 10, 200]], np.uint8)[grey() // 64]
    other = Image.fromarray(255 - smooth())
    ink = Image.fromarray(np.dstack([255 - smooth(), np.zeros_like(grey())]), "CMYK")
    found: list[Case] = [
        ("plain.jpg", saved(rgb, "JPEG", quality=95), smooth(), (), FLAT),
        ("plain.png", saved(rgb, "PNG"), smooth(), (), 0),
        ("plain.webp", saved(rgb, "WEBP", quality=95), smooth(), (), FLAT),
        ("lossless.webp", saved(rgb, "WEBP", lossless=True), smooth(), (), 0),
        ("plain.bmp", saved(rgb, "BMP"), smooth(), (), 0),
        ("plain.tif", saved(rgb, "TIFF"), smooth(), (), 0),
        ("packed.tiff", saved(rgb, "TIFF", compression="tiff_lzw"), smooth(), (), 0),
        ("grey.jpg", saved(rgb.getchannel(0), "JPEG", quality=95), three(grey()), (said.GREY,), FLAT),
        ("grey.png", saved(rgb.getchannel(0), "PNG"), three(grey()), (said.GREY,), 0),
        ("bits.png", saved(rgb.getchannel(0).point(lambda v: 255 * (v > 100)).convert("1"), "PNG"),
         three(np.where(grey() > 100, 255, 0).astype(np.uint8)), (said.GREY,), 0),
        ("rgba.png", saved(clear, "PNG"), on_white(smooth(), opacity()), (said.ALPHA,), 0.5),
        ("rgba.tif", saved(clear, "TIFF"), on_white(smooth(), opacity()), (said.ALPHA,), 0.5),
        ("rgba.webp", saved(clear, "WEBP", lossless=True, exact=True), on_white(smooth(), opacity()), (said.ALPHA,),
         0.5),
        ("la.png", saved(Image.merge("LA", [rgb.getchannel(0), clear.getchannel(3)]), "PNG"),
         on_white(three(grey()), opacity()), (said.GREY, said.ALPHA), 0.5),
        ("keyed.png", saved(colour_key, "PNG", transparency=50), keyed, (said.GREY, said.ALPHA), 0),
        ("palette.png", saved(palette, "PNG"), seen_palette, (said.PALETTE,), 0),
        ("palette.gif", saved(palette, "GIF"), seen_palette, (said.PALETTE,), 0),
        ("clear.png", saved(clear_palette, "PNG", transparency=0), seen_clear, (said.PALETTE, said.ALPHA), 0),
        ("clear.gif", saved(clear_palette, "GIF", transparency=0), seen_clear, (said.PALETTE, said.ALPHA), 0),
        ("ink.jpg", saved(ink, "JPEG", quality=95), smooth(), (said.CMYK,), FLAT),
        ("ink.tif", saved(ink, "TIFF"), smooth(), (said.CMYK,), 0),
        ("ycc.tif", saved(rgb.convert("YCbCr"), "TIFF"), smooth(), (said.OTHER.format("YCbCr"),), FLAT),
        ("grey16.png", by_opencv(fine[..., 0], ".png"), three(eight[..., 0]), (said.SIXTEEN, said.GREY), 0),
        ("grey16.tif", by_opencv(fine[..., 0], ".tif"), three(eight[..., 0]), (said.SIXTEEN, said.GREY), 0),
        ("big_endian16.tif", saved(Image.fromarray(fine[..., 0].astype(">u2")), "TIFF"), three(eight[..., 0]),
         (said.SIXTEEN, said.GREY), 0),
        ("rgb16.png", by_opencv(fine[..., :3], ".png"), eight[..., :3], (said.SIXTEEN,), 0.5),
        ("rgb16.tif", by_opencv(fine[..., :3], ".tif"), eight[..., :3], (said.SIXTEEN,), 0.5),
        ("rgba16.png", by_opencv(fine, ".png"), on_white(eight[..., :3], eight[..., 3]), (said.SIXTEEN, said.ALPHA), 1),
        ("moving.gif", saved(palette, "GIF", save_all=True, append_images=[other.quantize(64)]), seen_palette,
         (said.FIRST, said.PALETTE), 0),
        ("moving.webp", saved(rgb, "WEBP", save_all=True, append_images=[other], lossless=True), smooth(),
         (said.FIRST,), 0),
        ("pages.tif", saved(rgb, "TIFF", save_all=True, append_images=[other]), smooth(), (said.FIRST,), 0),
        ("two.mpo", saved(rgb, "MPO", save_all=True, append_images=[other], quality=95), smooth(), (said.FIRST,), FLAT),
    ]
    if features.check("avif"):
        found.append(("plain.avif", saved(rgb, "AVIF", quality=95), smooth(), (), FLAT))
    for kind, suffix, options in (("JPEG", "jpg", {"quality": 95}), ("PNG", "png", {}), ("TIFF", "tif", {}),
                                  ("WEBP", "webp", {"lossless": True})):
        for orientation in range(2, 9) if kind == "JPEG" else (6, 3):
            content, upright = marked(kind, orientation, **options)
            found.append((f"turned{orientation}.{suffix}", content, upright, (said.TURNED,),
                          FLAT if kind == "JPEG" else 0))
    return found


def heic() -> list[Case]:
    """HEIC, upright and turned; only with pillow_heif."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    turned, exif = Image.fromarray(smooth()), Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()  # as telephones write it: turned by the format itself too
    return [("plain.heic", saved(Image.fromarray(smooth()), "HEIF", quality=95), smooth(), (), FLAT),
            ("turned.heic", saved(turned, "HEIF", quality=95), np.rot90(smooth(), -1), (), FLAT)]


def write(folder: Path, found: list[Case]) -> dict[str, Path]:
    """The files, by name."""
    for name, content, *_ in found:
        (folder / name).write_bytes(content)
    return {name: folder / name for name, *_ in found}


def header(path: Path, width: int, height: int, colour: int = 2) -> Path:
    """A PNG that says its size and holds no pixel: whoever decodes it finds it cut short. colour: 2 RGB, 3 palette."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
                     + palette + chunk(b"IDAT", b""))
    return path
