"""An image with its labels over it, and below it a legend of the classes found.

The background stays as it is; a thin white line runs around each region, so that it is seen where its colour (VOC's)
is dark, or cannot be told from another one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from deconvnet.data.palette import voc_palette

OPACITY = 0.55  # of the colours
LINE = 700  # px of the longer side for each px that the line is thick
LETTERS = 42  # px of the width for each px of the legend's letters
LEAST_LETTERS, MOST_LETTERS = 11.0, 30.0  # px
INCH = 100  # px

# matplotlib is imported where it is used: label maps do not need it.


def overlay(image: np.ndarray, labels: np.ndarray, class_names: Sequence[str], legend: bool = True) -> np.ndarray:
    """The overlay, RGB uint8, of an image (RGB uint8 H x W x 3) and its labels (uint8 H x W; 0 is background).

    legend: with the legend below, else H x W x 3; classes by falling area, with their share of the image.
    """
    counts = Image.fromarray(labels).histogram()
    found = sorted((index for index in range(1, len(class_names)) if counts[index]), key=lambda index: -counts[index])
    picture = _coloured(image, labels, found)
    if not legend:
        return picture
    names = [f"{class_names[index]}  {percent_of(counts[index] / labels.size)}" for index in found]
    return _one_above_the_other(picture, _legend(names, voc_palette()[found], image.shape[1]))


def _coloured(image: np.ndarray, labels: np.ndarray, found: Sequence[int]) -> np.ndarray:
    if not found:
        return image.copy()
    masks = [labels == index for index in found]
    picture = cv2.addWeighted(image, 1 - OPACITY, voc_palette()[labels], OPACITY, 0)
    np.copyto(picture, image, where=~np.any(masks, axis=0)[..., None])
    thickness = max(1, round(max(labels.shape) / LINE))
    for mask in masks:
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, (255, 255, 255), thickness, cv2.LINE_AA)
    return picture


def percent_of(share: float) -> str:
    """A class's share of an image, 0 to 1, in words; as in the report."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


def _legend(names: list[str], colours: np.ndarray, width: int) -> np.ndarray:
    """A white strip, RGB uint8, of this width or, where the longest name needs it, wider."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    letters = float(np.clip(width / LETTERS, LEAST_LETTERS, MOST_LETTERS))
    squares = [Patch(facecolor=colour / 255, edgecolor="0.25", linewidth=letters / 22, label=name)
               for name, colour in zip(names, colours, strict=True)]
    squares = squares or [Patch(facecolor="none", edgecolor="none", label="nothing but background")]
    for columns in range(len(squares), 0, -1):  # the most that find room
        figure = Figure(figsize=(width / INCH, 1), dpi=INCH)
        canvas = FigureCanvasAgg(figure)
        in_rows = [one for column in range(columns) for one in squares[column::columns]]  # matplotlib fills columns
        box = figure.legend(handles=in_rows, loc="center", ncols=columns, frameon=False, fontsize=letters * 72 / INCH,
                            handlelength=1.1, handleheight=1.1, handletextpad=0.5, columnspacing=1.6, borderpad=0.6,
                            borderaxespad=0)
        room = box.get_window_extent(canvas.get_renderer())
        if room.width <= width:
            break
    figure.set_size_inches(max(room.width, width) / INCH, room.height / INCH)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _one_above_the_other(picture: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """Both in the middle of a white sheet."""
    width = max(picture.shape[1], strip.shape[1])
    sheet = np.full((len(picture) + len(strip), width, 3), 255, np.uint8)
    for part, top in ((picture, 0), (strip, len(picture))):
        left = (width - part.shape[1]) // 2
        sheet[top : top + len(part), left : left + part.shape[1]] = part
    return sheet
