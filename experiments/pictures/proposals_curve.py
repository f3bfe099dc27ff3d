"""Mean IoU against the number of proposals, over the images of the split."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deconvnet.data.windows import best_overlap
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.support.progress import progress
from experiments.pictures import Drawn
from experiments.pictures.adding import ORDERS, Scored, labels_by_count, score_proposals
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
    chosen, share = [ConfusionMatrix(shown.classes)], []
    for image_id in progress(image_ids, desc="proposals", unit="image", disable=None):
        truth, scored = shown.voc.read_mask(image_id), score_proposals(shown, image_id)
        for order, own in confusions.items():
            _add(shown, scored, ORDERS[order](scored.windows), counts, own, truth, image_id)
        about = about_objects(shown, image_id, scored.boxes)
        _add(shown, scored, about, [most], chosen, truth, image_id)
        share.append(len(about) / max(1, len(scored.windows)))
    measured = {order: measures(own) for order, own in confusions.items()} | {"about_objects": measures(chosen)}
    best = max(measured["objectness"]["mean_iou"])
    at = counts[measured["objectness"]["mean_iou"].index(best)]
    oracle = measured["about_objects"]["mean_iou"][0]
    return Drawn(curve(counts, measured), "Mean IoU against the number of proposals",
                 f"DeconvNet alone ({shown.aggregate}, no ensemble, no CRF) on {len(image_ids)} of {shown.data}, "
                 f"evenly spaced; the {most} best proposals, added largest first (as in the paper's Figure 6) or best "
                 f"first (as the pipeline takes them). Best first, {at} proposals give the most, {percent(best)}. "
                 f"Dotted: only the {percent(float(np.mean(share)))} % of these {most} that overlap an object by an "
                 f"IoU of at least {shown.recipe.windows.stage2_overlap:g}, as training windows do, {percent(oracle)}; "
                 "that takes the truth to know. Right: what becomes of objects' and of background's pixels, best "
                 "first.",
                 {"images": image_ids, "counts": counts, "share_about_objects": float(np.mean(share)), **measured})


def _add(shown: ShownRun, scored: Scored, order: np.ndarray, counts: list[int], confusions: list[ConfusionMatrix],
         truth: np.ndarray, name: str) -> None:
    labelled = labels_by_count(shown, scored, order, counts)
    for confusion, labels in zip(confusions, labelled, strict=True):
        confusion.add(labels, truth, name)


def about_objects(shown: ShownRun, image_id: str, boxes: np.ndarray) -> np.ndarray:
    """Which of an image's proposals (int32 N x 4) overlap an object as much as those of stage 2 have to: indices."""
    objects = shown.voc.objects(image_id, None, shown.recipe.data.least_object_pixels)
    if not objects:
        return np.zeros(0, np.int64)
    _, iou = best_overlap(boxes, np.array([one.box for one in objects]))
    return np.flatnonzero(iou >= shown.recipe.windows.stage2_overlap)


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
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order in ORDERS:
        left.plot(counts, 100 * np.array(measured[order]["mean_iou"]), "o-", color=COLOURS[order], markersize=5,
                  label=CALLED[order])
    left.axhline(100 * measured["about_objects"]["mean_iou"][0], color="0.35", linestyle=":",
                 label="only those about objects")
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
    left.legend(loc="lower right")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
