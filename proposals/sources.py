"""The proposal sources by their names in recipe key proposals.source.

A new one is a file of its own, an entry of PROPOSAL_SOURCES, its name among that key's choices, and, where it has
choices, a section of the recipe. What each must keep to is tested for every entry:
tests/proposals/test_proposal_sources.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from deconvnet.recipe import Recipe
from proposals.edge_boxes import EdgeBoxes
from proposals.grid import Grid


class ProposalSource(Protocol):
    """Finds boxes in an image (RGB uint8, H x W x 3, of any size from 1 x 1), the same ones every time."""

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At most proposals.count boxes and their scores, best first: of a smaller count the first ones.

        Boxes: int32 N x 4, x1, y1, x2, y2, 0-based, half-open, not empty, inside the image. Scores: float32 N, finite,
        never rising; their scale is the source's own. N may be 0.
        """

    def shaped_by(self) -> dict[str, object]:
        """Everything that determines which boxes are found, as JSON values; it shows whether a file or run has other
        boxes.

        It has "proposals.source", "proposals.count" and, where there is one beneath, "edges", the edge detector's name.
        """


# Each is constructed from the recipe and --edge-model's file or None, in every process: it need not be picklable.
PROPOSAL_SOURCES: dict[str, Callable[[Recipe, Path | None], ProposalSource]] = {
    "edge_boxes": EdgeBoxes,
    "grid": Grid,
}


def make_source(recipe: Recipe, edge_model: Path | None) -> ProposalSource:
    """The source of recipe key proposals.source. Raises as the sources do."""
    return PROPOSAL_SOURCES[recipe.proposals.source](recipe, edge_model)
