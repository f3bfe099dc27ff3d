"""The edge detectors by their names in recipe key proposals.edges.

A new one needs a file of its own, an entry in EDGE_DETECTORS, and its name among that key's choices. The requirements
are tested for every entry in tests/proposals/test_edge_detectors.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from proposals.edges import EdgeMap, GradientDetector, StructuredDetector


class EdgeDetector(Protocol):
    """Turns an image (RGB uint8, H x W x 3, of any size from 1 x 1) into its EdgeMap, the same one every time.

    name: told in logs and files; detectors that find other edges have other names, so it holds a version, or a hash of
    the model file.
    """

    name: str

    def __call__(self, image: np.ndarray) -> EdgeMap: ...


# Each is constructed from --edge-model's file or None; raises UsageError if it needs one, UserError for a wrong one.
EDGE_DETECTORS: dict[str, Callable[[Path | None], EdgeDetector]] = {
    "structured": StructuredDetector,
    "gradient": lambda _: GradientDetector(),
}


def make_detector(kind: str, model: Path | None) -> EdgeDetector:
    """The detector of recipe key proposals.edges; `model` is the structured forest's file, or None.

    auto: structured when there is a model file, else gradient. Raises as the detectors do.
    """
    if kind == "auto":
        kind = "structured" if model else "gradient"
    return EDGE_DETECTORS[kind](model)
