"""The paper's Figure 5: maps of one class's probability, by FCN-8s and by DeconvNet."""

import numpy as np

from deconvnet.evaluation.metrics import or_none
from experiments.pictures import Drawn
from experiments.pictures.grid import GridRow, Panel, photograph, picture_grid
from experiments.pictures.shown import NotThere, ShownRun, class_iou
from experiments.pictures.style import coloured, heated, percent

COUNT = 4  # classes
NETWORKS = {"fcn8s": "FCN-8s", "deconvnet": "DeconvNet"}


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without the weights of both networks."""
    from deconvnet.inference.ensemble import softmax

    scorers = [shown.scorer(kind) for kind in NETWORKS]  # both, before one works
    chosen = [shown.classes.index(name) for name in shown.chosen_classes] or largest_classes(shown.class_pixels, COUNT)
    if not chosen:
        raise NotThere(f"{shown.data} have no object in their masks; --classes names classes to show all the same")
    rows, numbers, occurring = [], {}, {0}
    for label in chosen:
        image_id = shown.image or shown.image_ids[int(shown.class_pixels[:, label].argmax())]
        image, truth = shown.voc.read_pair(image_id)
        maps = {scorer.kind: softmax(shown.scores(scorer.kind, image_id)) for scorer in scorers}
        name = shown.classes[label]
        panels = [Panel(heated(own[label], 0, 1), f"class IoU {percent(class_iou(own.argmax(0), truth, label))}")
                  for own in maps.values()]
        rows.append(GridRow([photograph(image), Panel(coloured(truth)), *panels], name))
        numbers[name] = {"image": image_id, **{f"iou_{kind}": or_none(class_iou(own.argmax(0), truth, label))
                                               for kind, own in maps.items()}}
        occurring |= set(np.unique(truth).tolist())
    rule = "named with --image" if shown.image else f"the one of {shown.data} that has most pixels of it"
    which = "named with --classes" if shown.chosen_classes else "those with most pixels in the split"
    return Drawn(picture_grid(rows, ["image", "truth", *NETWORKS.values()], sorted(occurring), shown.classes, cell=1.5),
                 "Probability of a class, FCN-8s and DeconvNet (the paper's Figure 5)",
                 "The probability of the class at the left, from dark (0) to bright (1), as softmax of each network's "
                 f"scores, before ensemble and CRF. Classes: {which}. Image of each class: {rule}. Below: the IoU of "
                 "this class in this image, of the most probable labels.", numbers)


def largest_classes(pixels: np.ndarray, count: int) -> list[int]:
    """The classes but background with most pixels, largest first (pixels: int64 M x C); none without a pixel."""
    total = pixels.sum(0)
    return [label for label in sorted(range(1, len(total)), key=lambda label: -total[label]) if total[label]][:count]
