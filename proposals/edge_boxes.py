"""EdgeBoxes (Zitnick and Dollar, ECCV 2014): object proposals from an edge map."""

from pathlib import Path

import cv2
import numpy as np

from deconvnet.recipe import PROPOSALS, Recipe, shaping
from deconvnet.support.errors import UsageError
from proposals.edge_detectors import make_detector
from proposals.edges import EdgeMap


class EdgeBoxes:
    """The paper's proposals [P 6.1]: see ProposalSource."""

    def __init__(self, recipe: Recipe, edge_model: Path | None) -> None:
        """Raises as the edge detector of proposals.edges does."""
        self.recipe = recipe
        self.detector = make_detector(recipe.proposals.edges, edge_model)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes and their objectness."""
        keys = self.recipe.proposals
        return propose(self.detector(image), keys.count, keys.alpha, keys.beta, keys.eta, keys.min_score)

    def shaped_by(self) -> dict[str, object]:
        """See ProposalSource."""
        return {"edges": self.detector.name, **shaping(self.recipe, PROPOSALS)}


def propose(edge_map: EdgeMap, count: int, alpha: float, beta: float, eta: float,
            min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` boxes (int32 N x 4, cut to the image) and their objectness (float32 N), best first.

    The parameters are the recipe's `proposals`. No box at all gives shapes (0, 4) and (0,).
    """
    if not 0 < alpha < 1:
        raise UsageError(f"proposals.alpha is {alpha}; expected a number between 0 and 1: it is the IoU of one step")
    # A new object for every image: it keeps state from one image to the next, and then gives other boxes.
    engine = cv2.ximgproc.createEdgeBoxes(alpha=alpha, beta=beta, eta=eta, minScore=min_score, maxBoxes=count)
    found, scores = engine.getBoundingBoxes(edge_map.strength, edge_map.orientation)
    if len(found) == 0:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.float32)
    height, width = edge_map.strength.shape
    boxes = np.asarray(found, np.int32).reshape(-1, 4)
    boxes[:, :2] -= 1  # OpenCV's corners are 1-based
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.int32)
    scores = np.asarray(scores, np.float32).reshape(-1)
    keep = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    order = keep[np.argsort(-scores[keep], kind="stable")][:count]
    return boxes[order], scores[order]
