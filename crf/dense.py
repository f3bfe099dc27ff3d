"""The fully connected CRF of Kraehenbuehl and Koltun (NIPS 2011), through pydensecrf.

Energy of a labelling: sum_i -log p_i(l_i) + sum_{i<j} [l_i != l_j] * (gaussian_weight * k_g(i, j) + bilateral_weight *
k_b(i, j)), with k_g = exp(-|position|^2 / 2 gaussian_sxy^2) and k_b = exp(-|position|^2 / 2 bilateral_sxy^2 -
|colour|^2 / 2 bilateral_srgb^2) of the differences of two pixels. Mean field minimises it; the library filters with a
permutohedral lattice, which only approximates the Gaussians (and, as all its users do, lets a pixel vote for itself).
"""

import math
from dataclasses import dataclass

import numpy as np
from pydensecrf import densecrf

NORMALIZATIONS = {"symmetric": densecrf.NORMALIZE_SYMMETRIC, "none": densecrf.NO_NORMALIZATION}
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # keeps -log finite without changing any other probability
SUM_TOLERANCE = 1e-3
MOST_NUMBERS = 2**31 - 1  # classes x height x width; beyond it pydensecrf writes out of bounds


@dataclass(frozen=True)
class CrfParameters:
    """The CRF's parameters; the defaults are the release's, but for the normalisation. Raises ValueError.

    sxy in pixels, srgb in grey levels, weights in nats. normalization: "symmetric" divides a kernel by the square roots
    of its row sums, so that a pixel's messages add up to about its weight; "none" does not, and messages of tens to
    hundreds of nats then overrule the unaries wherever a colour region is large. least_probability: see
    possible_classes.
    """

    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 20.0
    bilateral_srgb: float = 3.0
    bilateral_weight: float = 5.0
    iterations: int = 10
    normalization: str = "symmetric"
    least_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; expected a number above 0")
        for name in ("gaussian_weight", "bilateral_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a number of at least 0")
        if not isinstance(self.iterations, int) or self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; expected a whole number of at least 0")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {self.normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
        if not 0 <= self.least_probability <= 1:
            raise ValueError(f"least_probability is {self.least_probability}; expected a number from 0 to 1")


def dense_crf(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """The CRF's posterior, float32 C x H x W, sums to one over C.

    image: RGB uint8, H x W x 3. probabilities: float32, C x H x W, sums to one over C. Both may be any strided view.
    Raises ValueError, which says what is wrong, for anything else: pydensecrf itself returns noise or crashes.
    """
    check(image, probabilities)
    kept, likely = possible_classes(probabilities, parameters.least_probability)
    return of_all_classes(mean_field(image, likely, parameters), kept)


def possible_classes(probabilities: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The classes that take part, bool C, and their probabilities: those as probable as `least` at some pixel, or the
    most probable at one.

    The time of an iteration grows with their number, and an image shows a few of all classes. The others get 0.
    """
    kept = probabilities.max(axis=(1, 2)) >= least
    if not kept.all():
        kept[np.unique(probabilities.argmax(axis=0))] = True
    return kept, probabilities if kept.all() else probabilities[kept]


def of_all_classes(posterior: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A posterior of the classes that take part, float32, with zeros for those that do not."""
    if kept.all():
        return posterior
    whole = np.zeros((len(kept), *posterior.shape[1:]), np.float32)
    whole[kept] = posterior
    return whole


def mean_field(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """The posterior of these classes, which sums to one over them.

    The probabilities need not sum to one: what they lack is the same for all classes of a pixel.
    """
    if len(probabilities) == 1:
        return np.ones(probabilities.shape, np.float32)
    count, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(_unary(probabilities).reshape(count, height * width))
    picture = np.array(image, order="C")  # a copy: pydensecrf rejects read-only and strided arrays
    kernels = NORMALIZATIONS[parameters.normalization]
    crf.addPairwiseGaussian(sxy=parameters.gaussian_sxy, compat=parameters.gaussian_weight, normalization=kernels)
    crf.addPairwiseBilateral(sxy=parameters.bilateral_sxy, srgb=parameters.bilateral_srgb, rgbim=picture,
                             compat=parameters.bilateral_weight, normalization=kernels)
    posterior, *others = crf.startInference()
    for _ in range(parameters.iterations):  # as crf.inference() does, which would hold the unaries twice
        crf.stepInference(posterior, *others)
    return np.asarray(posterior).reshape(count, height, width)


def _unary(probabilities: np.ndarray) -> np.ndarray:
    """-log of the probabilities, without a second array of that size."""
    unary = np.clip(probabilities, LEAST_PROBABILITY, 1.0, out=np.empty(probabilities.shape, np.float32))
    np.log(unary, out=unary)
    return np.negative(unary, out=unary)


def check(image: np.ndarray, probabilities: np.ndarray) -> None:
    """Raises ValueError for what `dense_crf` does not take."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; expected uint8, height x width x 3")
    if probabilities.dtype != np.float32 or probabilities.ndim != 3:
        raise ValueError(f"probabilities are {probabilities.dtype} of shape {probabilities.shape}; expected float32, "
                         "classes x height x width")
    if probabilities.shape[1:] != image.shape[:2]:
        raise ValueError(f"probabilities are of {probabilities.shape[1:]} pixels and the image of {image.shape[:2]}; "
                         "expected the same height and width")
    if probabilities.size == 0:
        raise ValueError(f"probabilities are of shape {probabilities.shape}; expected at least one class and pixel")
    if probabilities.size > MOST_NUMBERS:
        raise ValueError(f"probabilities are {probabilities.size} numbers; pydensecrf counts them in 31 bits")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold a value that is not finite")
    least, most = float(probabilities.min()), float(probabilities.max())
    if least < 0 or most > 1:
        raise ValueError(f"probabilities lie in {least:g} to {most:g}; expected 0 to 1: softmax first")
    error = float(np.abs(probabilities.sum(axis=0, dtype=np.float64) - 1).max())
    if error > SUM_TOLERANCE:
        raise ValueError(f"probabilities do not sum to one over the classes (off by {error:g})")
