"""What Segmenter returns for an image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deconvnet.inference.enlarging import most_probable
from deconvnet.inference.overlays import overlay


@dataclass(frozen=True)
class Found:
    """A class that an image shows. pixels, share: of the labels at full size; mean_probability: of the class, over the
    pixels that have it.
    """

    name: str
    index: int
    pixels: int
    share: float
    mean_probability: float


@dataclass(frozen=True, eq=False)  # arrays are not compared by ==
class Segmentation:
    """What an image shows, pixel by pixel.

    labels: uint8 H x W, indices into class_names: the most probable class, at the image's full size, upright.
    class_names: C names, 0 is background.

    The other arrays have the size at which it was labelled, h x w: smaller where a side is above infer.most_side.
    probabilities: float32 C x h x w in 0 .. 1, which sum to one over the classes: with the CRF its posterior, else the
    network's or the ensemble's. proposals: int32 N x 4, x1, y1, x2, y2, 0-based, half-open, best first, of which the
    best infer.proposals became windows; N is 0 where no network sees windows. image: what was labelled, RGB uint8
    h x w x 3.

    conversions: what was done to the photograph before, a sentence each; none for 8-bit RGB, upright, and not too
    large. seconds: what all of it took; where several are at work in CRF processes, their waiting is not counted.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    proposals: np.ndarray
    class_names: tuple[str, ...]
    image: np.ndarray
    conversions: tuple[str, ...] = ()
    seconds: float = 0.0

    def overlay(self, legend: bool = True) -> np.ndarray:
        """The image that was labelled with the labels' colours (VOC's) over it; the background stays as it is.

        legend: with a strip below that names the classes; False: the picture alone, RGB uint8 h x w x 3.
        """
        return overlay(self.image, most_probable(self.probabilities), self.class_names, legend)

    def found(self) -> list[Found]:
        """The classes of the labels, background too, by falling area."""
        smaller, counts = most_probable(self.probabilities), Image.fromarray(self.labels).histogram()
        found = [Found(name, index, pixels, pixels / self.labels.size,
                       float(self.probabilities[index][smaller == index].mean()))
                 for index, (name, pixels) in enumerate(zip(self.class_names, counts, strict=False)) if pixels]
        return sorted(found, key=lambda one: -one.pixels)
