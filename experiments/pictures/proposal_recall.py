"""Recall of the run's proposals: the share of objects that a box overlaps enough, against the number of boxes."""

import numpy as np
from matplotlib.figure import Figure

from experiments.pictures import Drawn
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import BLUE, VERMILION
from experiments.proposal_recall import best_so_far

OVERLAPS = {0.5: BLUE, 0.7: VERMILION}


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without proposals or objects."""
    rows, most = shown.proposal_rows(), shown.recipe.proposals.count
    best = []
    for image_id in rows.image_ids:
        objects = shown.voc.objects(image_id, None, shown.recipe.data.least_object_pixels)
        boxes = np.array([one.box for one in objects], np.int32).reshape(-1, 4)
        best.append(best_so_far(boxes, rows.of_image(image_id)["boxes"], most))
    found = np.concatenate(best)
    if not len(found):
        raise NotThere(f"{shown.data} have no object in their masks; another split (--split) may have")
    recall = {level: (found >= level).mean(0) for level in OVERLAPS}
    told = [count for count in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if count <= most]
    said = "; ".join(f"with {count} boxes {recall[0.5][count - 1]:.2f} and {recall[0.7][count - 1]:.2f}"
                     for count in told if count in (10, 50, most))
    return Drawn(curves(recall, shown.recipe.infer.proposals), "Recall of the proposals",
                 f"The share of the {len(found)} objects of {shown.data} that one of the first boxes, best first, "
                 f"overlaps by an IoU of at least 0.5 or 0.7: {said}. Edges: {rows.attributes['edges']}. The dotted "
                 f"line: the {shown.recipe.infer.proposals} proposals that an image is labelled with.",
                 {"objects": len(found), "boxes": told,
                  **{f"recall_at_{level}": [float(own[count - 1]) for count in told]
                     for level, own in recall.items()}})


def curves(recall: dict[float, np.ndarray], used: int) -> Figure:
    """recall: float64, of the first 1, 2, ... boxes, by IoU."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axis = figure.subplots()
    for level, own in recall.items():
        axis.plot(np.arange(1, len(own) + 1), own, color=OVERLAPS[level], linewidth=2, label=f"IoU {level}")
    axis.axvline(used, color="0.4", linestyle=":", linewidth=1.2)
    axis.set(xscale="log", xlabel="boxes an image, best first", ylabel="recall", ylim=(0, 1.02), xlim=(1, None))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(True)
    axis.legend(loc="lower right")
    return figure
