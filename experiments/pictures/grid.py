"""Pictures side by side, without gaps between them, each with a line of text below."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.pictures.style import ERRORS, colour_of, name_of

GAP = 0.05  # inches between pictures
LINE = 0.17  # inches of a line of small letters
SMALL = 8.5  # points
TALLEST = 2.0  # a picture's height in widths, from which on it is narrower than its column
LEGEND_COLUMN = 1.15  # inches


@dataclass(frozen=True)
class Panel:
    """A picture, RGB uint8 H x W x 3; the text below it; boxes over it (int N x 4), their colours; whether neighbouring
    pixels are mixed where it is drawn smaller than it is, as is right for photographs, never for label maps.
    """

    picture: np.ndarray
    below: str = ""
    boxes: np.ndarray | None = None
    box_colours: Sequence[str] = ()
    mixed: bool = False


def photograph(image: np.ndarray, below: str = "", boxes: np.ndarray | None = None,
               box_colours: Sequence[str] = ()) -> Panel:
    """A panel that shows an image, not labels."""
    return Panel(image, below, boxes, box_colours, mixed=True)


@dataclass(frozen=True)
class GridRow:
    """Pictures of one shape; None leaves a place empty. left: text at the left. above: a heading over the row."""

    panels: Sequence[Panel | None]
    left: str = ""
    above: str = ""

    def height(self, cell: float) -> float:
        """Inches of its pictures, which are `cell` wide."""
        shapes = [panel.picture.shape for panel in self.panels if panel]
        return cell * min(TALLEST, max(shape[0] / shape[1] for shape in shapes))

    @property
    def lines(self) -> int:
        """Of text below the pictures."""
        return max((panel.below.count("\n") + 1 if panel.below else 0 for panel in self.panels if panel), default=0)


def picture_grid(rows: Sequence[GridRow], headings: Sequence[str] = (), legend: Sequence[int] = (),
                 classes: Sequence[str] = (), cell: float = 1.5, with_errors: bool = False) -> Figure:
    """The figure. headings: of the columns. legend: the labels whose colours are explained; classes: their names.
    cell: a column's width in inches. with_errors: the legend explains the colours of an error map, too.
    """
    columns = max(len(row.panels) for row in rows)
    left = 0.24 if any(row.left for row in rows) else 0.04
    width = left + columns * cell + (columns - 1) * GAP + 0.04
    entries = [(name_of(label, list(classes)), colour_of(label)) for label in legend]
    entries += [(name, (red / 255, green / 255, blue / 255)) for name, (red, green, blue) in ERRORS.items()
                if with_errors]
    across = max(1, int(width // LEGEND_COLUMN))
    lines = -(-len(entries) // across)
    top = 0.1 + LINE * 1.3 * max((heading.count("\n") + 1 for heading in headings), default=0)
    heights = [row.height(cell) + row.lines * LINE + GAP + (2 * LINE if row.above else 0) for row in rows]
    height = top + sum(heights) + (lines * 0.2 + 0.1 if lines else 0)
    figure = Figure(figsize=(width, height))
    for column, heading in enumerate(headings):
        x = left + column * (cell + GAP) + cell / 2
        figure.text(x / width, 1 - (top - 0.06) / height, heading, ha="center", va="bottom", fontsize=9.5)
    down = top
    for row, own in zip(rows, heights, strict=True):
        _draw_row(figure, row, left, down, cell)
        down += own
    if entries:
        patches = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5, label=name) for name, colour in entries]
        figure.legend(handles=patches, loc="lower center", ncols=min(across, len(entries)), fontsize=SMALL,
                      handlelength=1.1, handleheight=1.0, columnspacing=1.2, borderaxespad=0.2)
    return figure


def _draw_row(figure: Figure, row: GridRow, left: float, down: float, cell: float) -> None:
    width, height = figure.get_size_inches()
    if row.above:
        down += 2 * LINE
        figure.text(left / width, 1 - (down - 0.06) / height, row.above, ha="left", va="bottom", fontsize=10,
                    fontweight="bold")
    tall = row.height(cell)
    if row.left:
        figure.text(0.05 / width, 1 - (down + tall / 2) / height, row.left, rotation=90, ha="left", va="center",
                    fontsize=SMALL)
    for column, panel in enumerate(row.panels):
        if panel is None:
            continue
        x = left + column * (cell + GAP)
        axis = figure.add_axes((x / width, 1 - (down + tall) / height, cell / width, tall / height))
        axis.imshow(panel.picture, interpolation="auto" if panel.mixed else "nearest")
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, linewidth=0.5, color="0.6")
        for (x1, y1, x2, y2), colour in zip(panel.boxes if panel.boxes is not None else (), panel.box_colours,
                                            strict=True):
            axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, linewidth=1.0,
                                     edgecolor=colour, clip_on=True))
        if panel.below:
            figure.text((x + cell / 2) / width, 1 - (down + tall + 0.03) / height, panel.below, ha="center", va="top",
                        fontsize=SMALL, linespacing=1.15)
