"""The 20 VOC classes of the synthetic set: a silhouette, two colours and a texture each.

A class is drawn in its own coordinates, x and y in about -1 .. 1 with y downwards, and mapped to pixels by an affine
transform (2 x 3). The texture uses the object's coordinates too: it rotates and scales with the object, so that a
window warped to a fixed side looks the same for a class at any scale.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]  # OpenCV's HSV: hue 0 .. 179, saturation and value 0 .. 255

WHITE, BLACK, GLASS, SKIN = (25, 15, 250), (0, 0, 25), (95, 60, 235), (12, 110, 240)
SUBPIXEL_BITS = 4


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """A polygon, float64 4 x 2."""
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def disc(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """An ellipse as a polygon of 28 corners; a circle when `ry` is not given."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + (rx if ry is None else ry) * np.sin(turn)], 1)


def polygon(*corners: tuple[float, float]) -> np.ndarray:
    """A polygon from its corners."""
    return np.array(corners, float)


@dataclass(frozen=True)
class Kind:
    """How a class looks: textured body parts, then plain details on or beside them (union: the silhouette)."""

    body: list[np.ndarray]
    colours: tuple[Colour, Colour]
    texture: str
    details: list[np.ndarray]
    detail_colour: Colour


def _legs(*xs: float, top: float, bottom: float, width: float = 0.2) -> list[np.ndarray]:
    return [rectangle(x, top, x + width, bottom) for x in xs]


KINDS = {
    "aeroplane": Kind(
        [disc(0, 0, 1.0, 0.2), polygon((-0.2, 0), (0.25, 0), (-0.15, 0.85), (-0.45, 0.85)),
         polygon((-0.2, 0), (0.25, 0), (-0.15, -0.85), (-0.45, -0.85)),
         polygon((-0.95, -0.4), (-0.75, -0.4), (-0.5, 0), (-0.75, 0.4), (-0.95, 0.4))],
        ((100, 110, 250), WHITE), "across", [disc(0.72, 0, 0.14, 0.1)], BLACK),
    "bicycle": Kind(
        [polygon((-0.7, 0.4), (-0.3, -0.45), (0.5, -0.45), (0.75, 0.4), (0.5, 0.4), (0.2, 0), (0, 0.4)),
         rectangle(-0.5, -0.65, -0.1, -0.4), rectangle(0.3, -0.75, 0.7, -0.4)],
        ((0, 240, 235), (0, 240, 190)), "plain", [disc(-0.62, 0.35, 0.4), disc(0.62, 0.35, 0.4)], BLACK),
    "bird": Kind(
        [disc(0, 0.1, 0.65, 0.4), disc(0.55, -0.3, 0.3), polygon((-0.4, 0), (-1, -0.35), (-1, 0.3)),
         polygon((-0.3, 0.1), (0.25, 0), (-0.35, -0.8))],
        ((28, 240, 250), (20, 240, 245)), "diagonal",
        [polygon((0.8, -0.4), (1.1, -0.22), (0.8, -0.15))], (5, 240, 240)),
    "boat": Kind(
        [polygon((-1, 0.3), (1, 0.3), (0.65, 0.8), (-0.65, 0.8))],
        ((114, 240, 150), (114, 230, 90)), "along", [polygon((-0.05, 0.35), (-0.05, -1), (0.8, 0.35)),
                                                     polygon((-0.05, 0.35), (-0.05, -0.7), (-0.7, 0.35))], WHITE),
    "bottle": Kind(
        [polygon((-0.14, -1), (0.14, -1), (0.14, -0.5), (0.35, -0.25), (0.35, 1), (-0.35, 1), (-0.35, -0.25),
                 (-0.14, -0.5))],
        ((66, 230, 110), (62, 220, 175)), "across", [rectangle(-0.35, 0.1, 0.35, 0.5)], WHITE),
    "bus": Kind(
        [rectangle(-1, -0.65, 1, 0.5), disc(-0.55, 0.5, 0.22), disc(0.55, 0.5, 0.22)],
        ((13, 245, 245), (13, 245, 205)), "along", [rectangle(x, -0.5, x + 0.36, -0.08) for x in
                                                    (-0.9, -0.43, 0.05, 0.52)], GLASS),
    "car": Kind(
        [polygon((-1, 0), (-0.6, -0.05), (-0.35, -0.5), (0.35, -0.5), (0.65, -0.05), (1, 0.05), (1, 0.4), (-1, 0.4))],
        ((88, 245, 235), (88, 245, 190)), "plain",
        [disc(-0.55, 0.4, 0.24), disc(0.55, 0.4, 0.24),
         polygon((-0.4, -0.08), (-0.25, -0.38), (0.25, -0.38), (0.42, -0.08))], BLACK),
    "cat": Kind(
        [disc(0, 0.45, 0.55, 0.55), disc(0, -0.3, 0.45, 0.4), polygon((-0.45, -0.3), (-0.42, -0.95), (-0.05, -0.6)),
         polygon((0.45, -0.3), (0.42, -0.95), (0.05, -0.6)), polygon((0.4, 0.95), (0.95, 0.2), (1, 0.45), (0.55, 1))],
        ((130, 90, 190), (130, 110, 80)), "along", [disc(-0.18, -0.32, 0.09), disc(0.18, -0.32, 0.09)], (35, 230, 240)),
    "chair": Kind(
        [rectangle(-0.55, -1, -0.25, 1), rectangle(-0.55, 0, 0.55, 0.3), rectangle(0.27, 0, 0.55, 1),
         rectangle(-0.55, -1, -0.05, -0.1)],
        ((42, 240, 215), (42, 240, 130)), "grid", [], BLACK),
    "cow": Kind(
        [rectangle(-0.8, -0.4, 0.6, 0.3), *_legs(-0.8, -0.45, 0.1, 0.4, top=0.2, bottom=0.8),
         disc(0.75, -0.4, 0.3, 0.26)],
        (WHITE, BLACK), "blotches", [disc(0.98, -0.32, 0.12, 0.16)], (170, 110, 240)),
    "diningtable": Kind(
        [polygon((-0.75, -0.45), (0.75, -0.45), (1, 0.15), (-1, 0.15))],
        ((178, 240, 220), WHITE), "checker", _legs(-0.85, 0.65, top=0.15, bottom=0.8), (12, 200, 90)),
    "dog": Kind(
        [rectangle(-0.6, -0.15, 0.5, 0.35), *_legs(-0.6, 0.28, top=0.3, bottom=0.9, width=0.24), disc(0.6, -0.35, 0.35),
         polygon((-0.6, 0.1), (-1, -0.7), (-0.8, -0.75), (-0.4, -0.1)), rectangle(0.7, -0.35, 1.08, -0.08)],
        ((19, 210, 220), (14, 230, 110)), "dots", [disc(0.42, -0.3, 0.13, 0.3)], (10, 230, 60)),
    "horse": Kind(
        [disc(-0.1, 0, 0.65, 0.32), *_legs(-0.68, -0.4, 0.1, 0.35, top=0, bottom=1, width=0.17),
         polygon((0.2, 0), (0.5, -0.85), (0.8, -0.75), (0.55, 0.1)),
         polygon((0.45, -0.9), (0.65, -1), (1.05, -0.55), (0.9, -0.4))],
        ((6, 220, 140), (6, 220, 75)), "diagonal",
        [polygon((-0.65, -0.2), (-0.98, 0.5), (-0.8, 0.5), (-0.5, 0))], BLACK),
    "motorbike": Kind(
        [polygon((-0.95, -0.3), (0.1, -0.35), (0.35, -0.7), (0.7, -0.75), (0.75, 0.3), (-0.5, 0.35))],
        ((142, 240, 220), (142, 240, 110)), "rings", [disc(-0.62, 0.4, 0.38), disc(0.65, 0.4, 0.38),
                                                      rectangle(-0.95, -0.45, -0.1, -0.22)], BLACK),
    "person": Kind(
        [polygon((-0.35, -0.55), (0.35, -0.55), (0.55, 0.2), (0.38, 0.25), (0.28, 0.2), (-0.28, 0.2), (-0.38, 0.25),
                 (-0.55, 0.2))],
        ((160, 235, 245), (160, 235, 195)), "plain", [disc(0, -0.76, 0.25), *_legs(-0.28, 0.05, top=0.2, bottom=1,
                                                                                  width=0.23)], SKIN),
    "pottedplant": Kind(
        [disc(0, -0.25, 0.35),
         *[disc(0.5 * np.cos(t), -0.3 + 0.45 * np.sin(t), 0.28) for t in np.arange(8) * np.pi / 4]],
        ((50, 245, 215), (58, 245, 105)), "dots", [polygon((-0.45, 0.2), (0.45, 0.2), (0.32, 1), (-0.32, 1))],
        (6, 190, 195)),
    "sheep": Kind(
        [disc(0, 0, 0.6, 0.35), *[disc(0.55 * np.cos(t), 0.3 * np.sin(t), 0.24) for t in np.arange(9) * 2 * np.pi / 9]],
        (WHITE, (25, 35, 185)), "dots", [*_legs(-0.5, 0.3, top=0.35, bottom=0.8), disc(0.85, -0.15, 0.24, 0.26)],
        (0, 30, 70)),
    "sofa": Kind(
        [rectangle(-0.75, -0.55, 0.75, 0.3), rectangle(-1, -0.2, -0.6, 0.55), rectangle(0.6, -0.2, 1, 0.55),
         rectangle(-1, 0.15, 1, 0.55)],
        ((168, 120, 245), (168, 190, 185)), "checker", [], BLACK),
    "train": Kind(
        [polygon((-1, -0.35), (0.65, -0.35), (1, 0.1), (1, 0.35), (-1, 0.35))],
        ((76, 245, 165), (30, 240, 240)), "zigzag", [polygon((0.5, -0.25), (0.62, -0.25), (0.85, 0.05), (0.5, 0.05))],
        GLASS),
    "tvmonitor": Kind(
        [rectangle(-0.9, -0.7, 0.9, 0.5)],
        ((106, 255, 255), (106, 255, 190)), "along",
        [rectangle(-0.9, -0.7, 0.9, -0.55), rectangle(-0.9, 0.35, 0.9, 0.5), rectangle(-0.9, -0.7, -0.75, 0.5),
         rectangle(0.75, -0.7, 0.9, 0.5), rectangle(-0.2, 0.45, 0.2, 0.75), rectangle(-0.5, 0.7, 0.5, 0.9)], BLACK),
}


def silhouette(kind: Kind, transform: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of an object, bool H x W, clipped at the image's border."""
    return _filled(kind.body + kind.details, transform, height, width)


def extent(kind: Kind, transform: np.ndarray) -> np.ndarray:
    """The object's box before it is clipped at the border: float64 (x1, y1, x2, y2), in pixels."""
    corners = np.concatenate(kind.body + kind.details) @ transform[:, :2].T + transform[:, 2]
    return np.concatenate([corners.min(0), corners.max(0)])


def paint(image: np.ndarray, kind: Kind, transform: np.ndarray, random: np.random.Generator) -> None:
    """Paints an object on an image (RGB uint8, changed in place): its hue, brightness and texture vary a little."""
    height, width = image.shape[:2]
    change = np.array([random.uniform(-4, 4), random.uniform(0.85, 1.1), random.uniform(0.75, 1.08)])
    body = _filled(kind.body, transform, height, width)
    ys, xs = np.nonzero(body)
    inverse = cv2.invertAffineTransform(transform)
    u, v = inverse[:, :2] @ np.stack([xs, ys]) + inverse[:, 2:]
    share = _texture(kind.texture, u, v, random)[:, None]
    first, second = (_rgb(colour, change) for colour in kind.colours)
    light = random.uniform(-0.12, 0.12, 2)

    def lit(colour: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        grain = random.normal(0, 5, (len(u), 1))
        return np.clip(colour * (1 + light[0] * u + light[1] * v)[:, None] + grain, 0, 255)

    image[ys, xs] = lit(first * (1 - share) + second * share, u, v)
    ys, xs = np.nonzero(_filled(kind.details, transform, height, width))
    u, v = inverse[:, :2] @ np.stack([xs, ys]) + inverse[:, 2:]
    image[ys, xs] = lit(_rgb(kind.detail_colour, change), u, v)


def _filled(parts: list[np.ndarray], transform: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for part in parts:
        corners = part @ transform[:, :2].T + transform[:, 2]
        fixed_point = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [fixed_point], 1, shift=SUBPIXEL_BITS)
    return mask.astype(bool)


def _rgb(colour: Colour, change: np.ndarray) -> np.ndarray:
    hue = (colour[0] + change[0]) % 180
    hsv = np.array([[[hue, *np.clip(np.array(colour[1:]) * change[1:], 0, 255)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def _texture(name: str, u: np.ndarray, v: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The share of the second colour, 0 .. 1, at object coordinates (u, v)."""
    f = 2.5 * random.uniform(0.85, 1.15)  # periods per unit: about five across an object
    a, b = random.uniform(0, 1, 2)
    across, along = np.sin(2 * np.pi * (f * u + a)), np.sin(2 * np.pi * (f * v + b))
    if name == "plain":
        wave = np.sin(np.pi * (v + a))
    elif name == "across":
        wave = across
    elif name == "along":
        wave = along
    elif name == "diagonal":
        wave = np.sin(2 * np.pi * (f * 0.7 * (u + v) + a))
    elif name == "checker":
        wave = across * along * 2
    elif name == "dots":
        wave = (across + along - 0.7) * 1.5
    elif name == "grid":
        wave = (np.maximum(across, along) - 0.6) * 2.5
    elif name == "rings":
        wave = np.sin(2 * np.pi * (f * np.hypot(u, v) + a))
    elif name == "zigzag":
        wave = np.sin(2 * np.pi * (f * (v + 0.5 * np.abs((u * f + a) % 2 - 1)) + b))
    else:  # blotches: a sum of low-frequency waves in random directions
        turns = random.uniform(0, 2 * np.pi, 5)
        wave = sum(np.sin(5 * (np.cos(turn) * u + np.sin(turn) * v) + 7 * turn) for turn in turns) * 1.5
    return np.clip(0.5 + wave, 0, 1)  # steeper than a sine: mostly one colour or the other
