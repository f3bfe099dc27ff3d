"""The figures of a run, one file each; `python -m experiments.figures` draws them.

A figure's file has `draw(shown)`, which reads a run (shown.py) and returns a Drawn. What is measured stands in
functions of its own, apart from the drawing. A new one needs its file, and its name here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = (  # the names of their files in this folder, in the order in which a report shows them
    "comparison", "activations", "probabilities", "proposals_added", "proposals_curve", "windows", "unpooling",
    "class_iou", "confusion", "balance", "proposal_recall", "training",
)


@dataclass(frozen=True)
class Drawn:
    """A figure. caption: what one sees, by which rule it was picked, of which data. numbers: those behind it, as JSON.
    """

    figure: "Figure"
    title: str
    caption: str
    numbers: dict[str, Any]
