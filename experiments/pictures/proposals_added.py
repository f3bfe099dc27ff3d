"""The paper's Figure 6: one image's labels as proposals are added, largest first."""

import numpy as np

from deconvnet.evaluation.metrics import or_none
from experiments.pictures import Drawn
from experiments.pictures.adding import ORDERS, labels_by_count, score_proposals
from experiments.pictures.grid import GridRow, Panel, photograph, picture_grid
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import SKY, VERMILION, coloured, percent

COUNTS = (1, 2, 5, 10, 20, 50)
ABOVE = {"size": "largest proposals first", "objectness": "best proposals first, as the pipeline takes them"}


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without DeconvNet's weights and label maps, or proposals."""
    shown.scorer("deconvnet")  # before proposals are made, which takes a while
    image_id, counts = shown.best_image(), counts_up_to(shown.recipe.infer.proposals)
    image, truth = shown.voc.read_pair(image_id)
    scored = score_proposals(shown, image_id)
    numbers: dict[str, object] = {"image": image_id, "counts": counts}
    rows, occurring = [], set(np.unique(truth).tolist())
    for name, ordered in ORDERS.items():
        order = ordered(scored.windows)
        labels = list(labels_by_count(shown, scored, order, counts))
        iou = [shown.iou_of(own, truth, image_id) for own in labels]
        numbers[f"mean_iou_by_{name}"] = list(map(or_none, iou))
        boxes = [scored.windows[order[:count]] for count in counts]
        seen = [photograph(image, boxes=own, box_colours=[SKY] * (len(own) - 1) + [VERMILION] * bool(len(own)))
                for own in boxes]
        given = [Panel(coloured(own), percent(value)) for own, value in zip(labels, iou, strict=True)]
        rows += [GridRow([photograph(image), *seen], above=ABOVE[name]),
                 GridRow([Panel(coloured(truth), "mean IoU"), *given])]
        occurring |= {label for own in labels for label in np.unique(own).tolist()}
    figure = picture_grid(rows, ["image, truth", *(f"{count} proposal{'s' if count > 1 else ''}" for count in counts)],
                          sorted(occurring), shown.classes, cell=1.25)
    return Drawn(figure, "An image's labels as proposals are added (the paper's Figure 6)",
                 f"Image {image_id} ({shown.best_image_rule}). Above the windows so far, the last one red; below the "
                 f"labels that their aggregated scores ({shown.aggregate}) give, without ensemble and CRF, and their "
                 f"mean IoU in this image. The windows are those of the {counts[-1]} best proposals; a pixel that none "
                 "covers is background.", numbers)


def counts_up_to(most: int) -> list[int]:
    """COUNTS below `most`, and `most`."""
    return [*(count for count in COUNTS if count < most), most]
