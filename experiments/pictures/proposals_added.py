"""The paper's Figure 6: one image's labels as proposals are added, largest first."""

import numpy as np

from deconvnet.evaluation.metrics import or_none
from experiments.pictures import Drawn
from experiments.pictures.adding import labels_by_count
from experiments.pictures.grid import GridRow, Panel, picture_grid
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import SKY, VERMILION, coloured, percent

COUNTS = (1, 2, 5, 10, 20, 50)


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without DeconvNet's weights and label maps, or proposals."""
    image_id, counts = shown.best_image(), counts_up_to(shown.recipe.infer.proposals)
    image, truth = shown.voc.read_pair(image_id)
    found = labels_by_count(shown, image_id, counts)
    numbers: dict[str, object] = {"image": image_id, "counts": counts}
    rows, occurring = [], set(np.unique(truth).tolist())
    for order, prefixes in found.items():
        iou = [shown.iou_of(labels, truth, image_id) for _, _, labels in prefixes]
        numbers[f"mean_iou_by_{order}"] = list(map(or_none, iou))
        above = {"size": "largest proposals first", "objectness": "best proposals first, as the pipeline takes them"}
        boxes = [Panel(image, boxes=windows, box_colours=[SKY] * (len(windows) - 1) + [VERMILION])
                 for _, windows, _ in prefixes]
        labelled = [Panel(coloured(labels), percent(own)) for (_, _, labels), own in zip(prefixes, iou, strict=True)]
        rows += [GridRow([Panel(image), *boxes], above=above[order]), GridRow([Panel(coloured(truth), "mean IoU"),
                                                                             *labelled])]
        occurring |= {label for _, _, labels in prefixes for label in np.unique(labels).tolist()}
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
