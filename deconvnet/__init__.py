"""DeconvNet (Noh, Hong, Han, ICCV 2015), reproduced. The public API; nothing else is stable:

    Segmenter, Segmentation     labels images (section 5 of the paper): docs/api.md
    load_recipe(name)           a recipe by its name or file
    build_network(name, recipe) a network of the registry, with random weights

One convention for the whole project, converted only at the edges (Caffe BGR, OpenCV xywh, VOC 1-based):

- image: RGB uint8, H x W x 3;
- mask: uint8, H x W, class indices with 255 for void;
- box: int (x1, y1, x2, y2), 0-based, half-open: pixel columns x1 .. x2 - 1;
- scores: float32, C x H x W, before the softmax.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deconvnet.inference.segmentation import Segmentation
    from deconvnet.models.build import build_network
    from deconvnet.recipe_files import load_recipe
    from deconvnet.segmenter import Segmenter

__all__ = ["Segmentation", "Segmenter", "build_network", "load_recipe"]

# Imported on first use: the CRF's processes import this package without needing torch.
_MODULES = {
    "Segmentation": "deconvnet.inference.segmentation",
    "Segmenter": "deconvnet.segmenter",
    "build_network": "deconvnet.models.build",
    "load_recipe": "deconvnet.recipe_files",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
