"""Mean IoU against the number of proposals, over the images of the split."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.support.progress import progress
from experiments.pictures import Drawn
from experiments.pictures.adding import ORDERS, labels_by_count
from experiments.pictures.sheet import evenly_spaced
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import BLUE, GREEN, ORANGE, VERMILION, percent

COUNTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
COLOURS = {"size": VERMILION, "objectness": BLUE}
CALLED = {"size": "largest first", "objectness": "best first"}


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without DeconvNet's weights or proposals."""
    most = shown.recipe.infer.proposals
    counts = [*(count for count in COUNTS if count < most), most]
    shown.scorer("deconvnet")
    shown.proposal_rows()
    image_ids = evenly_spaced(shown.image_ids, shown.curve_images)
    confusions = {order: [ConfusionMatrix(shown.classes) for _ in counts] for order in ORDERS}
    for image_id in progress(image_ids, desc="proposals", unit="image", disable=None):
        truth = shown.voc.read_mask(image_id)
        for order, prefixes in labels_by_count(shown, image_id, counts).items():
            for confusion, (_, _, labels) in zip(confusions[order], prefixes, strict=True):
                confusion.add(labels, truth, image_id)
    measured = {order: measures(own) for order, own in confusions.items()}
    best = max(measured["objectness"]["mean_iou"])
    at = counts[measured["objectness"]["mean_iou"].index(best)]
    return Drawn(curve(counts, measured), "Mean IoU against the number of proposals",
                 f"DeconvNet alone ({shown.aggregate}, no ensemble, no CRF) on {len(image_ids)} of {shown.data}, "
                 f"evenly spaced; the {most} best proposals, added largest first (as in the paper's Figure 6) or best "
                 f"first (as the pipeline takes them). Best first, {at} proposals give the most, {percent(best)}. "
                 "Right: what becomes of objects' and of background's pixels, best first.",
                 {"images": image_ids, "counts": counts, **measured})


def measures(confusions: list[ConfusionMatrix]) -> dict[str, list[float]]:
    """Of each confusion matrix, as shares: mean IoU; of objects' pixels those with the right label, with another
    class's, and with background; of background's pixels those with an object's label.
    """
    found: dict[str, list[float]] = {"mean_iou": [one.mean_iou() for one in confusions], "objects_right": [],
                                     "objects_confused": [], "objects_missed": [], "background_as_object": []}
    for one in confusions:
        objects, ground = one.counts[1:], one.counts[0]
        total = max(1, int(objects.sum()))
        right = int(np.diagonal(one.counts)[1:].sum())
        missed = int(objects[:, 0].sum())
        found["objects_right"].append(right / total)
        found["objects_missed"].append(missed / total)
        found["objects_confused"].append((int(objects.sum()) - right - missed) / total)
        found["background_as_object"].append(int(ground[1:].sum()) / max(1, int(ground.sum())))
    return found


def curve(counts: list[int], measured: dict[str, dict[str, list[float]]]) -> Figure:
    """Both panels."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order, own in measured.items():
        left.plot(counts, 100 * np.array(own["mean_iou"]), "o-", color=COLOURS[order], markersize=5,
                  label=CALLED[order])
    left.set(ylabel="mean IoU, percent", ylim=(0, None))
    lines: dict[str, Any] = {"objects_right": ("objects: right class", GREEN, "o-"),
                             "objects_confused": ("objects: another class", VERMILION, "s-"),
                             "objects_missed": ("objects: background", BLUE, "^-"),
                             "background_as_object": ("background: an object", ORANGE, "D--")}
    for name, (label, colour, marks) in lines.items():
        right.plot(counts, 100 * np.array(measured["objectness"][name]), marks, color=colour, markersize=5, label=label)
    right.set(ylabel="percent of the pixels, best first", ylim=(0, 100))
    for axis in (left, right):
        axis.set(xscale="log", xlabel="proposals")
        axis.set_xticks(counts, [str(count) if count in (1, 2, 5, 10, 20, 50) else "" for count in counts])
        axis.minorticks_off()
        axis.grid(True)
        axis.legend()
    return figure
