"""How the figures look: letters, colours that colour-blind readers can tell apart, label maps on a light ground."""

from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from deconvnet.conventions import VOID
from deconvnet.data.palette import voc_palette
from deconvnet.support.atomic import atomic_write

DPI = 110
MOST_SIDE = 60_000  # pixels; Matplotlib draws no picture of more than 65,535 a side
# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), in an order in which neighbours differ most.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
CURVES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#000000")
ROWS = {"FCN-8s": ORANGE, "DeconvNet": BLUE, "DeconvNet+CRF": SKY, "EDeconvNet": GREEN, "EDeconvNet+CRF": "#333333"}
GROUND = (246, 246, 246)  # the background's colour in label maps: on VOC's black, dark classes cannot be seen
MISSED, INVENTED, CONFUSED, RIGHT = (0, 114, 178), (230, 159, 0), (213, 94, 0), (255, 255, 255)
ERRORS = {"object missed": MISSED, "object invented": INVENTED, "another class": CONFUSED}
STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=CURVES),
    "axes.grid": False, "grid.alpha": 0.3, "image.interpolation": "nearest", "image.cmap": "viridis",
    "svg.hashsalt": "deconvnet",  # the same run, the same bytes
}


def styled() -> AbstractContextManager[None]:
    """Within it, figures are made in this style."""
    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def coloured(labels: np.ndarray) -> np.ndarray:
    """A label map (uint8 H x W) in VOC's colours on a light ground: RGB uint8 H x W x 3."""
    palette = voc_palette()
    palette[0] = GROUND
    return palette[labels]


def colour_of(label: int) -> tuple[float, float, float]:
    """A class's colour as coloured() paints it, 0 .. 1."""
    red, green, blue = coloured(np.array([[label]], np.uint8))[0, 0] / 255
    return float(red), float(green), float(blue)


def errors(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where a label map (uint8 H x W) is wrong, and how, in the colours of ERRORS, void grey: RGB uint8 H x W x 3."""
    picture = np.full((*truth.shape, 3), RIGHT, np.uint8)
    wrong = labels != truth
    picture[wrong & (labels == 0)] = MISSED
    picture[wrong & (truth == 0)] = INVENTED
    picture[wrong & (labels > 0) & (truth > 0)] = CONFUSED
    picture[truth == VOID] = (225, 225, 225)
    return picture


def name_of(label: int, classes: list[str]) -> str:
    """A class's name in a legend."""
    return "void" if label == VOID else classes[label] if label < len(classes) else f"class {label}"


def percent(share: float) -> str:
    """0.7134 as '71.3'; a dash where there is nothing to measure."""
    return "–" if np.isnan(share) else f"{100 * share:.1f}"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG or SVG, by the file's suffix; the same figure, the same bytes."""
    kind = path.suffix.removeprefix(".")
    about = {"Software": None} if kind == "png" else {"Date": None}
    dpi = min(DPI, MOST_SIDE / max(figure.get_size_inches()))
    with atomic_write(path) as temporary, styled():
        figure.savefig(temporary, format=kind, metadata=about, dpi=dpi)


def heated(values: np.ndarray, least: float, most: float) -> np.ndarray:
    """A map (float H x W) from dark (least) to bright (most): RGB uint8 H x W x 3."""
    shares = (values - least) / (most - least) if most > least else np.zeros_like(values)
    return matplotlib.colormaps["inferno"](np.clip(shares, 0, 1), bytes=True)[..., :3]
