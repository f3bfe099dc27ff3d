"""The paper's Figure 7: images that DeconvNet labels better than FCN-8s, worse, and that the ensemble labels best."""

from collections.abc import Callable

import numpy as np

from experiments.pictures import Drawn
from experiments.pictures.grid import GridRow, Panel, photograph, picture_grid
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import coloured, errors, percent

EACH = 3  # images of a group
COLUMNS = ("FCN-8s", "DeconvNet", "EDeconvNet", "EDeconvNet+CRF")
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# By how much an image belongs to each group, of its mean IoUs of FCN-8s, DeconvNet and EDeconvNet.
GROUPS: dict[str, Measure] = {
    "DeconvNet is better than FCN-8s": lambda fcn, deconvnet, both: deconvnet - fcn,
    "FCN-8s is better than DeconvNet": lambda fcn, deconvnet, both: fcn - deconvnet,
    "EDeconvNet is better than both": lambda fcn, deconvnet, both: both - np.maximum(fcn, deconvnet),
}


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere unless the four rows are there and differ."""
    shown.require(*COLUMNS)
    iou = {title: shown.image_iou(title) for title in COLUMNS}
    found = groups(iou["FCN-8s"], iou["DeconvNet"], iou["EDeconvNet"], EACH)
    rows, numbers = [], {}
    for name, chosen in found.items():
        ids = [shown.image_ids[index] for index in chosen]
        numbers[name] = {image_id: {title: float(iou[title][index]) for title in COLUMNS}
                         for image_id, index in zip(ids, chosen, strict=True)}
        for index in chosen:
            rows.append(_row(shown, index, iou, name if index == chosen[0] else ""))
    if not rows:
        raise NotThere("the rows have the same mean IoU in every image: train longer, or compare on another split")
    occurring = sorted({label for index in (index for chosen in found.values() for index in chosen)
                        for label in _labels(shown, shown.image_ids[index])})
    figure = picture_grid(rows, ["image", "truth", "FCN-8s", "DeconvNet", "EDeconvNet", "EDeconvNet\n+CRF",
                                 "its errors"], occurring, shown.classes, cell=1.3, with_errors=True)
    counts = {name: int((difference(iou["FCN-8s"], iou["DeconvNet"], iou["EDeconvNet"]) > 0).sum())
              for name, difference in GROUPS.items()}
    sizes = "; ".join(f"{name} in {count} of them" for name, count in counts.items())
    return Drawn(figure, "FCN-8s, DeconvNet and their ensemble (the paper's Figure 7)",
                 f"Of {shown.data} those with the largest difference in the image's own mean IoU (percent, below each "
                 f"label map), each image in one group at most. {sizes}. The last column shows where EDeconvNet+CRF "
                 "is wrong, and how; void is grey.", {"better": counts, "shown": numbers})


def groups(fcn: np.ndarray, deconvnet: np.ndarray, both: np.ndarray, each: int) -> dict[str, list[int]]:
    """The images of each of GROUPS, largest difference first, none twice; fewer where no more differences are positive.

    fcn, deconvnet, both: each image's mean IoU, float64 M; NaN belongs nowhere.
    """
    taken: set[int] = set()
    found = {}
    for name, difference in GROUPS.items():
        by = np.nan_to_num(difference(fcn, deconvnet, both), nan=-1)
        order = [int(index) for index in np.argsort(-by, kind="stable") if by[index] > 0 and index not in taken]
        found[name] = order[:each]
        taken.update(found[name])
    return found


def _row(shown: ShownRun, index: int, iou: dict[str, np.ndarray], above: str) -> GridRow:
    image_id = shown.image_ids[index]
    image, truth = shown.voc.read_pair(image_id)
    labels = {title: shown.labels(title, image_id) for title in COLUMNS}
    panels = [Panel(coloured(own), percent(iou[title][index])) for title, own in labels.items()]
    wrong = Panel(errors(labels[COLUMNS[-1]], truth))
    return GridRow([photograph(image), Panel(coloured(truth), "mean IoU"), *panels, wrong], image_id, above)


def _labels(shown: ShownRun, image_id: str) -> set[int]:
    maps = [shown.voc.read_mask(image_id), *(shown.labels(title, image_id) for title in COLUMNS)]
    return {int(label) for labels in maps for label in np.unique(labels)}
