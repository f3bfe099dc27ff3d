"""How much memory the labelling of an image takes: one that would take too much is refused before it is decoded.

Most of it are score maps (classes x height x width, float32), so it grows with both. Measured with 21 classes, in bytes
a pixel above what the process holds before (`python -m tests.peak_memory`): 213 from scores to labels without the CRF;
in the CRF's process 740 to 1,210 for nine photographs of VOC, 670 for a plain image; with 2 classes 318 where 21 take
990. Noise, in which no two neighbours are alike, takes twice as much as photographs.
"""

from pathlib import Path

from deconvnet.data.images import read_size
from deconvnet.models.registry import NETWORKS
from deconvnet.models.spec import WINDOWS
from deconvnet.recipe import Recipe
from deconvnet.support.errors import UserError

NUMBER = 4  # bytes, float32
IMAGE = 40  # bytes a pixel: the image, decoded twice over, what covers it, and its labels
CRF_FIXED, CRF_MAPS = 300, 10  # bytes a pixel for the lattice, whatever the classes; and the maps beside it


def bytes_a_pixel(size: tuple[int, int], recipe: Recipe, networks: list[str], crf: bool) -> float:
    """What a pixel of an image of this size (height, width) takes, in bytes, in the process that takes most.

    networks: one or two of NETWORKS. crf: each CRF process takes as much.
    """
    maps = 2.0  # scores and probabilities
    if any(NETWORKS[name].examples(recipe) == WINDOWS for name in networks):
        # the map, and the scores of the largest window there can be, resized to it
        share = recipe.windows.enlarge**2 * (max(size) / min(size) if recipe.windows.shape == "square" else 1)
        maps = max(maps, 1 + share)
    if len(networks) == 2:
        maps = max(maps, 4.0)  # scores and probabilities of both
    a_map = NUMBER * len(recipe.data.classes)
    need = IMAGE + maps * a_map
    return max(need, CRF_FIXED + CRF_MAPS * a_map) if crf else need


def check_memory(path: Path, recipe: Recipe, networks: list[str], crf: bool) -> None:
    """Raises UserError when the labelling of an image file would take more than infer.most_gigabytes."""
    check_size(str(path), read_size(path), recipe, networks, crf)


def check_size(name: str, size: tuple[int, int], recipe: Recipe, networks: list[str], crf: bool,
               remedy: str = "shrink the image") -> None:
    """The same of an image of this size (height, width). name, remedy: in the message."""
    height, width = size
    most, pixel = recipe.infer.most_gigabytes, bytes_a_pixel((height, width), recipe, networks, crf)
    need = height * width * pixel / 1e9
    if need > most:
        how = f"{len(recipe.data.classes)} classes{' and --crf' if crf else ''}"
        raise UserError(f"{name}: {width}x{height} is {height * width / 1e6:.1f} megapixels; with {how} that takes "
                        f"{need:.1f} GB of memory, and infer.most_gigabytes={most:g} allows {most * 1e3 / pixel:.1f} "
                        f"megapixels: {remedy}{', leave out --crf' if crf else ''} or, where there is the "
                        f"memory, --set infer.most_gigabytes={need + 1:.0f}")
