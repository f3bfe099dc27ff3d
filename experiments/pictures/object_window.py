"""The window of one object, which the figures of activations and unpooling show."""

from dataclasses import dataclass

import numpy as np

from deconvnet.data.windows import cut, outside_value, window_labels
from deconvnet.inference.resizing import resize_picture
from experiments.pictures.shown import NotThere, ShownRun
from proposals.select import stage1_rows


@dataclass(frozen=True)
class ObjectWindow:
    """A window (int32 x1, y1, x2, y2) about an object, as the network sees it: picture RGB uint8 S x S x 3, labels of
    all classes uint8 S x S. rule: how its image was chosen, in a caption's words.
    """

    image_id: str
    class_index: int
    window: np.ndarray
    picture: np.ndarray
    labels: np.ndarray
    rule: str


def object_window(shown: ShownRun) -> ObjectWindow:
    """The window of the largest object (by pixels) of the best image. Raises NotThere, also without an object."""
    image_id, keys = shown.best_image(), shown.recipe.windows
    image, mask = shown.voc.read_pair(image_id)
    objects = shown.voc.objects(image_id, mask, shown.recipe.data.least_object_pixels)
    if not objects:
        raise NotThere(f"image {image_id}: its mask has no object, so no window; name another with --image")
    largest = int(np.argmax([one.mask.sum() for one in objects]))
    window = stage1_rows(objects, keys).window[largest]
    side = shown.recipe.network.input
    seen = resize_picture(cut(image, window, outside_value(keys)), side, shown.recipe.infer.resize)
    picture = seen.numpy().transpose(1, 2, 0).clip(0, 255).round().astype(np.uint8)
    return ObjectWindow(image_id, objects[largest].class_index, window, picture, window_labels(mask, window, side),
                        shown.best_image_rule)
