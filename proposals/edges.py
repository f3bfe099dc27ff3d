"""Edge maps with orientation, thinned, as EdgeBoxes reads them.

Two detectors: Dollar and Zitnick's structured forest (ICCV 2013), which is EdgeBoxes' own and needs a trained model
file, and a colour gradient that needs nothing. Orientation and thinning are ours, the same for both: OpenCV has them
only on the structured-forest object.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from deconvnet.errors import UsageError, UserError

SCALES = (2.0, 4.0)  # px, Gaussian; compared on training images, see experiments/proposal_recall.py
FULL_STRENGTH = 50.0  # the colour step (Lab units) that counts as strength 1
RIDGE_SMOOTHING = 2.0  # px, Gaussian, before a ridge's orientation is measured
THINNING_RADIUS = 2  # px to either side, EdgeBoxes' own setting
SMALLEST_FOREST_SIDE = 32  # smaller images are padded: the forest looks at 32x32 patches


@dataclass
class EdgeMap:
    """Edges of an image, float32 H x W each.

    strength: 0 .. 1, 0 where thinned away. orientation: angle of the edge's normal, radians in [0, pi), with x to
    the right and y down: a vertical edge has 0, a horizontal one pi / 2.
    """

    strength: np.ndarray
    orientation: np.ndarray


class EdgeDetector(Protocol):
    """Turns an image (RGB uint8, H x W x 3) into its EdgeMap; `name` says which detector made it."""

    name: str

    def __call__(self, image: np.ndarray) -> EdgeMap: ...


class GradientDetector:
    """Colour steps in Lab, at several scales."""

    name = "gradient-v1"

    def __call__(self, image: np.ndarray) -> EdgeMap:
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        strength = sum(colour_steps(lab, sigma) for sigma in SCALES) / (len(SCALES) * FULL_STRENGTH)
        return thinned_edges(np.clip(strength, 0, 1), ridge_orientation(strength))


class StructuredDetector:
    """OpenCV's structured forest with the model in a file (.yml or .yml.gz)."""

    def __init__(self, model: Path | str) -> None:
        self.name = f"structured:{_check_model(Path(model))}"
        try:
            self._forest = cv2.ximgproc.createStructuredEdgeDetection(str(model))
        except cv2.error as error:
            raise UserError(f"{model}: not a structured-forest model: {error.err}") from None

    def __call__(self, image: np.ndarray) -> EdgeMap:
        height, width = image.shape[:2]
        below, right = max(0, SMALLEST_FOREST_SIDE - height), max(0, SMALLEST_FOREST_SIDE - width)
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        strength = self._forest.detectEdges(padded.astype(np.float32) / 255)[:height, :width]
        return thinned_edges(np.clip(strength, 0, 1), ridge_orientation(strength))


def make_detector(kind: str, model: Path | None) -> EdgeDetector:
    """The detector of recipe key proposals.edges; `model` is the structured forest's file, or None.

    auto: structured when there is a model file, else gradient. Raises UsageError when structured is asked for
    without one, UserError when the file is not a model.
    """
    if kind == "gradient" or (kind == "auto" and model is None):
        return GradientDetector()
    if model is None:
        raise UsageError("proposals.edges=structured needs the structured-forest model file (model.yml.gz); "
                         "give its path, or set proposals.edges=gradient")
    return StructuredDetector(model)


def colour_steps(lab: np.ndarray, sigma: float) -> np.ndarray:
    """Height of the colour step at each pixel (float32 H x W), the strongest channel's, in units of `lab`.

    A straight step of height h, smoothed by a Gaussian, has gradient h / (sqrt(2 pi) sigma) at its centre.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(dx, dy).max(2) * np.float32(np.sqrt(2 * np.pi) * sigma)


def ridge_orientation(strength: np.ndarray) -> np.ndarray:
    """Angle of the normal of the ridges in `strength`, as in EdgeMap: where the surface bends down the most.

    That is the eigenvector of the Hessian's smaller eigenvalue.
    """
    smooth = cv2.GaussianBlur(strength, (0, 0), RIDGE_SMOOTHING, borderType=cv2.BORDER_REPLICATE)
    xx = cv2.Sobel(smooth, cv2.CV_32F, 2, 0, borderType=cv2.BORDER_REPLICATE)
    xy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1, borderType=cv2.BORDER_REPLICATE)
    yy = cv2.Sobel(smooth, cv2.CV_32F, 0, 2, borderType=cv2.BORDER_REPLICATE)
    return np.mod(0.5 * np.arctan2(-2 * xy, yy - xx), np.pi).astype(np.float32)


def thinned_edges(strength: np.ndarray, orientation: np.ndarray) -> EdgeMap:
    """Keeps a pixel only where no point up to THINNING_RADIUS along its normal is stronger (read bilinearly)."""
    ys, xs = np.indices(strength.shape, dtype=np.float32)
    strongest = np.zeros_like(strength)
    for step in range(-THINNING_RADIUS, THINNING_RADIUS + 1):
        if step:
            points = [ys + step * np.sin(orientation), xs + step * np.cos(orientation)]
            np.maximum(strongest, map_coordinates(strength, points, order=1, mode="nearest"), out=strongest)
    return EdgeMap(np.where(strength >= strongest, strength, 0).astype(np.float32), orientation)


def _check_model(path: Path) -> str:
    """The first 12 digits of the SHA-256 of a model file. Raises UserError where OpenCV would crash or read rubbish."""
    if not path.is_file():
        raise UsageError(f"{path}: no such structured-forest model file")
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]
