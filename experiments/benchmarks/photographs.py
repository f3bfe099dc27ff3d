"""Photographs to measure on: those of --voc-root's val, else generated ones of VOC's size."""

import numpy as np

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.images import read_rgb
from deconvnet.data.synthetic import draw_scene
from deconvnet.data.voc import VocFolder
from experiments.benchmarks.base import Settings

SIDE = 500  # VOC's longer side


def photographs(settings: Settings, count: int) -> list[np.ndarray]:
    """RGB uint8 H x W x 3 each: real ones evenly spaced in the split, so that they show different things."""
    if not settings.voc_root:
        return [draw_scene(0, "val", index, 160 if settings.quick else SIDE)[0] for index in range(count)]
    voc = VocFolder(settings.voc_root, VOC_CLASSES)
    ids = voc.image_ids("val")
    return [read_rgb(voc.image_path(image_id)) for image_id in ids[:: max(1, len(ids) // count)][:count]]
