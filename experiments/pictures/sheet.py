"""The sheet: images of a split beside their truth and the label maps of every row, an IoU under each."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from deconvnet.data.images import read_label_png
from deconvnet.evaluation.rows import table_rows
from deconvnet.support.errors import UserError
from experiments.pictures.grid import GridRow, Panel, photograph, picture_grid
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import coloured, percent

HEADINGS = {"FCN-8s": "FCN-8s", "DeconvNet": "DeconvNet", "DeconvNet+CRF": "DeconvNet\n+ CRF", "EDeconvNet": "ensemble",
            "EDeconvNet+CRF": "ensemble\n+ CRF"}


@dataclass
class SheetRow:
    """An image (RGB uint8, H x W x 3), its truth and its predictions by heading (labels, uint8 H x W), and the own mean
    IoU of each prediction.
    """

    image_id: str
    image: np.ndarray
    truth: np.ndarray
    labels: dict[str, np.ndarray]
    iou: dict[str, float]


def evenly_spaced(image_ids: list[str], count: int) -> list[str]:
    """The ids in the middle of `count` equal parts of the list: a fixed rule, so that none is picked by its looks."""
    count = min(count, len(image_ids))
    return [image_ids[(2 * part + 1) * len(image_ids) // (2 * count)] for part in range(count)]


def read_sheet(shown: ShownRun, image_ids: list[str]) -> list[SheetRow]:
    """The pictures of these images; rows that were not run are left out. Raises UserError for a missing prediction."""
    folders = {HEADINGS.get(row.title, row.title): shown.folder(row)
               for row in table_rows(shown.aggregate, shown.recipe)}
    folders = {heading: folder for heading, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise NotThere(f"{shown.run.root / 'predictions' / shown.split}: no predictions yet; `python -m stages.infer "
                       f"--run {shown.run.root} --split {shown.split}` makes them")
    rows = []
    for image_id in image_ids:
        image, truth = shown.voc.read_pair(image_id)
        row = SheetRow(image_id, image, truth, {}, {})
        for heading, folder in folders.items():
            path = folder / f"{image_id}.png"
            if not path.is_file():
                raise UserError(f"{path}: no such prediction; run stages.infer for this split again")
            row.labels[heading] = read_label_png(path)
            row.iou[heading] = shown.iou_of(row.labels[heading], truth, str(path))
        rows.append(row)
    return rows


def sheet(rows: list[SheetRow], classes: list[str]) -> Figure:
    """One image per row, headings, ids at the left, the colours of the classes that occur."""
    headings = ["image", "truth", *rows[0].labels]
    occurring = sorted({int(label) for row in rows for labels in (row.truth, *row.labels.values())
                        for label in np.unique(labels)})
    lines = [GridRow([photograph(row.image), Panel(coloured(row.truth), "mean IoU"),
                      *(Panel(coloured(labels), percent(row.iou[heading])) for heading, labels in row.labels.items())],
                     row.image_id) for row in rows]
    return picture_grid(lines, headings, occurring, classes)
