"""Edge maps with orientation, thinned, as EdgeBoxes reads them.

Two detectors: Dollar and Zitnick's structured forest (ICCV 2013), which is EdgeBoxes' own and needs a trained model
file, and a colour gradient that needs no file. Orientation and thinning are ours, the same for both: OpenCV has them
only on the structured-forest object.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deconvnet.support.errors import UsageError, UserError

SCALES = (3.0, 6.0)  # px, Gaussian; chosen, as is FULL_STRENGTH, on training images: see experiments/proposal_recall.py
FULL_STRENGTH = 100.0  # the colour step (Lab units) that counts as strength 1
RIDGE_SMOOTHING = 2.0  # px, Gaussian, before a ridge's orientation is measured
THINNING_RADIUS = 2  # px to either side, EdgeBoxes' own setting
# What OpenCV's detector reads from a model's options, without checking that they exist.
FOREST_SIZES = ("numberOfTrees", "numberOfTreesToEvaluate", "selfsimilarityGridSize", "stride", "shrinkNumber",
                "patchSize", "patchInnerSize", "numberOfGradientOrientations")
FOREST_RADII = ("gradientSmoothingRadius", "regFeatureSmoothingRadius", "ssFeatureSmoothingRadius",
                "gradientNormalizationRadius")
MOST_OF_AN_OPTION = 1000
FOREST_PARTS = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
SMALLEST_FOREST_SIDE = 32  # smaller images are padded: the forest looks at 32x32 patches


@dataclass
class EdgeMap:
    """Edges of an image, float32 H x W each.

    strength: 0 .. 1, 0 where thinned away. orientation: angle of the edge's normal, radians in [0, pi), with x to
    the right and y down: a vertical edge has 0, a horizontal one pi / 2.
    """

    strength: np.ndarray
    orientation: np.ndarray


class GradientDetector:
    """Colour steps in Lab, at several scales."""

    name = "gradient-v1"

    def __call__(self, image: np.ndarray) -> EdgeMap:
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        steps = np.asarray(sum(colour_steps(lab, sigma) for sigma in SCALES))
        strength = steps / (len(SCALES) * FULL_STRENGTH)
        return thinned_edges(np.clip(strength, 0, 1), ridge_orientation(strength))


class StructuredDetector:
    """OpenCV's structured forest with the model in a file (.yml or .yml.gz)."""

    def __init__(self, model: Path | None) -> None:
        """Raises UsageError without a file, UserError for a file that is not a model."""
        if model is None:
            raise UsageError("proposals.edges=structured needs the structured-forest model file (model.yml.gz); "
                             "give it as --edge-model, or set proposals.edges=gradient")
        _check_model(model)
        self.name = f"structured:{hashlib.sha256(model.read_bytes()).hexdigest()[:12]}"
        self._forest = cv2.ximgproc.createStructuredEdgeDetection(str(model))

    def __call__(self, image: np.ndarray) -> EdgeMap:
        height, width = image.shape[:2]
        below, right = max(0, SMALLEST_FOREST_SIDE - height), max(0, SMALLEST_FOREST_SIDE - width)
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        strength = self._forest.detectEdges(padded.astype(np.float32) / 255)[:height, :width]
        return thinned_edges(np.clip(strength, 0, 1), ridge_orientation(strength))


def colour_steps(lab: np.ndarray, sigma: float) -> np.ndarray:
    """Height of the colour step at each pixel (float32 H x W), the strongest channel's, in units of `lab`.

    A straight step of height h, smoothed by a Gaussian, has gradient h / (sqrt(2 pi) sigma) at its centre.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    one, two, three = np.moveaxis(np.hypot(dx, dy), 2, 0)  # NumPy's max over so short an axis takes four times as long
    return np.maximum(np.maximum(one, two), three) * np.float32(np.sqrt(2 * np.pi) * sigma)


def ridge_orientation(strength: np.ndarray) -> np.ndarray:
    """Angle of the normal of the ridges in `strength`, as in EdgeMap: the direction in which the surface bends most.

    That is the eigenvector of the Hessian's eigenvalue of larger magnitude: on the crest the surface bends down
    across the ridge, on the flanks up.
    """
    smooth = cv2.GaussianBlur(strength, (0, 0), RIDGE_SMOOTHING, borderType=cv2.BORDER_REPLICATE)
    xx = cv2.Sobel(smooth, cv2.CV_32F, 2, 0, borderType=cv2.BORDER_REPLICATE)
    xy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1, borderType=cv2.BORDER_REPLICATE)
    yy = cv2.Sobel(smooth, cv2.CV_32F, 0, 2, borderType=cv2.BORDER_REPLICATE)
    bend = np.where(xx + yy > 0, np.float32(1), np.float32(-1))
    angle = 0.5 * np.arctan2(bend * 2 * xy, bend * (xx - yy))  # float32, -pi / 2 ... pi / 2
    return np.where(angle < 0, angle + np.float32(np.pi), angle)


def thinned_edges(strength: np.ndarray, orientation: np.ndarray) -> EdgeMap:
    """Keeps a pixel only where no point up to THINNING_RADIUS along its normal is stronger (read bilinearly)."""
    from scipy.ndimage import map_coordinates

    left = np.flatnonzero(strength)  # the nearest points first: most pixels need not be compared with the others
    for distance in range(1, THINNING_RADIUS + 1):
        for step in (distance, -distance):
            ys, xs = np.unravel_index(left, strength.shape)
            angle = orientation[ys, xs]
            points = [ys.astype(np.float32) + step * np.sin(angle), xs.astype(np.float32) + step * np.cos(angle)]
            left = left[strength[ys, xs] >= map_coordinates(strength, points, order=1, mode="nearest")]
    thinned = np.zeros(strength.shape, np.float32)
    thinned.flat[left] = strength.flat[left]
    return EdgeMap(thinned, orientation)


def _check_model(path: Path) -> None:
    """Raises UserError for a file that is not a complete structured forest.

    OpenCV's loader checks nothing: a file with a missing part of the forest crashes the process.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such structured-forest model file")
    wanted = "expected a structured-forest model (OpenCV's model.yml.gz); fetch it again"
    try:
        if path.suffix == ".gz":
            _read_to_the_end(path)
        storage = cv2.FileStorage()
        problem = _missing_part(storage) if storage.open(str(path), cv2.FILE_STORAGE_READ) else "cannot be opened"
    except (cv2.error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = " ".join((getattr(error, "err", None) or str(error)).split())
        raise UserError(f"{path}: cannot be read ({reason}); {wanted}") from None
    if problem:
        raise UserError(f"{path}: {problem}; {wanted}")


def _read_to_the_end(path: Path) -> None:
    """Checks length and checksum of a .gz file: OpenCV reads a truncated one as far as it goes."""
    with gzip.open(path) as stream:
        while stream.read(1 << 20):
            pass


def _missing_part(storage: cv2.FileStorage) -> str:
    """The missing part of a forest in `storage`, or ""."""
    options = storage.getNode("options")
    for name in (*FOREST_SIZES, *FOREST_RADII):
        node = options.getNode(name) if options.isMap() else options
        if not node.isInt() or not int(name in FOREST_SIZES) <= node.real() <= MOST_OF_AN_OPTION:
            return f"options.{name} is missing, or not a whole number in its range"
    trees = options.getNode("numberOfTrees")
    parts = {}
    for name in FOREST_PARTS:
        node = storage.getNode(name)
        parts[name] = [node.at(index) for index in range(node.size())] if node.isSeq() else []
    sizes = {name: sum(row.size() for row in rows) for name, rows in parts.items()}
    nodes = sizes["childs"]
    if nodes == 0 or nodes % int(trees.real()):
        return f"{nodes} childs do not fit {int(trees.real())} trees"
    if sizes["featureIds"] != nodes or sizes["thresholds"] != nodes or sizes["edgeBoundaries"] <= nodes:
        return f"the sizes do not fit together: {sizes}"
    last_row = parts["edgeBoundaries"][-1]
    bins = int(last_row.at(last_row.size() - 1).real())
    return "" if sizes["edgeBins"] == bins else f"{sizes['edgeBins']} edgeBins instead of {bins}"
