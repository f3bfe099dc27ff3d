"""The figures of a run, one file each; `python -m experiments.figures` draws them.

A figure's file has `draw(shown)`, which reads a run (shown.py) and returns a Drawn. What is measured stands in
functions of its own, apart from the drawing. A new one needs its file, and a line here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {  # name: its file in this folder; in the order in which a report shows them
    "comparison": "comparison",
    "class_iou": "class_iou",
    "confusion": "confusion",
    "training": "training",
}


@dataclass(frozen=True)
class Drawn:
    """A figure. caption: what one sees, by which rule it was picked, of which data. numbers: those behind it, as JSON.
    """

    figure: "Figure"
    title: str
    caption: str
    numbers: dict[str, Any]
