"""Pictures of a run: a sheet of its segmentations beside the truth, and the curves of its trainings."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from deconvnet.conventions import VOID
from deconvnet.data.dataset import DATA_SETS, SegmentationDataset
from deconvnet.data.images import read_label_png
from deconvnet.data.palette import voc_palette
from deconvnet.evaluation.rows import table_rows
from deconvnet.models.registry import NETWORKS
from deconvnet.recipe import Recipe
from deconvnet.recipe_limits import short
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UsageError, UserError
from experiments.records import log_lines, read_run
from stages.cli import make_parser, run_command

HEADINGS = {"FCN-8s": "FCN-8s", "DeconvNet": "DeconvNet", "EDeconvNet": "ensemble", "EDeconvNet+CRF": "ensemble + CRF"}
LOGGED = ("iteration", "loss", "pixel_accuracy", "validation_loss", "validation_accuracy")
CELL = 1.7  # inches of a picture's longer side
MOST_ROWS = 200  # of a sheet; Matplotlib draws no picture of more than 65,535 pixels a side


@dataclass
class SheetRow:
    """An image (RGB uint8, H x W x 3), its truth and its predictions by heading (labels, uint8 H x W)."""

    image_id: str
    image: np.ndarray
    labels: dict[str, np.ndarray]


def evenly_spaced(image_ids: list[str], count: int) -> list[str]:
    """The ids in the middle of `count` equal parts of the list: a fixed rule, so that none is picked by its looks."""
    count = min(count, len(image_ids))
    return [image_ids[(2 * part + 1) * len(image_ids) // (2 * count)] for part in range(count)]


def read_sheet(run: Path, recipe: Recipe, voc: SegmentationDataset, split: str, aggregate: str,
               image_ids: list[str]) -> list[SheetRow]:
    """The pictures of these images; rows that were not run are left out. Raises UserError for a missing prediction."""
    folders = {HEADINGS.get(row.title, row.title): run / "predictions" / split / row.folder
               for row in table_rows(aggregate, recipe) if row.title in HEADINGS or not row.paper}
    folders = {heading: folder for heading, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise UsageError(f"{run / 'predictions' / split}: no predictions yet; `python -m stages.infer --run {run} "
                         f"--split {split}` makes them")
    rows = []
    for image_id in image_ids:
        image, truth = voc.read_pair(image_id)
        labels = {"truth": truth}
        for heading, folder in folders.items():
            path = folder / f"{image_id}.png"
            if not path.is_file():
                raise UserError(f"{path}: no such prediction; run stages.infer for this split again")
            labels[heading] = read_label_png(path)
        rows.append(SheetRow(image_id, image, labels))
    return rows


def sheet(rows: list[SheetRow], classes: list[str], path: Path) -> None:
    """Writes the sheet as PNG: one image per row, headings, ids at the left, the colours of the classes that occur."""
    headings = ["image", *rows[0].labels]
    tall = [CELL * min(1.0, row.image.shape[0] / row.image.shape[1]) for row in rows]
    occurring = sorted({int(label) for row in rows for labels in row.labels.values() for label in np.unique(labels)})
    columns = max(2, len(headings))  # of the legend
    below = 0.16 * -(-len(occurring) // columns) + 0.15
    figure = Figure(figsize=(CELL * len(headings) + 0.2, sum(tall) + 0.04 * len(tall) + 0.2 + below), dpi=110,
                    layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0))
    axes = figure.subplots(len(rows), len(headings), squeeze=False, height_ratios=tall)
    palette = voc_palette()
    for row, line in zip(rows, axes, strict=True):
        pictures = [row.image, *(palette[labels] for labels in row.labels.values())]
        for picture, axis in zip(pictures, line, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(row.image_id, fontsize=7)
    for heading, axis in zip(headings, axes[0], strict=True):
        axis.set_title(heading, fontsize=9)
    patches = [Patch(facecolor=palette[label] / 255, edgecolor="black", linewidth=0.5, label=_name(label, classes))
               for label in occurring]
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=7, frameon=False,
                  handlelength=1.2)
    _save(figure, path)


def trainings(recipe: Recipe) -> list[tuple[str, list[str]]]:
    """The networks of the table, each with the trainings that follow each other."""
    return [(spec.title, [training.name for training in spec.trainings(recipe)])
            for spec in NETWORKS.values() if spec.in_table]


def curves(run: Path, recipe: Recipe, path: Path) -> None:
    """Writes loss and pixel accuracy of the run's trainings as PNG: thin lines training, dots validation.

    Trainings that follow each other share an axis of iterations. Raises UsageError when there is no log yet.
    """
    logs = [(title, [(name, read_log(run / name / "log.csv")) for name in names if (run / name / "log.csv").is_file()])
            for title, names in trainings(recipe)]
    logs = [(title, found) for title, found in logs if found]
    if not logs:
        raise UsageError(f"{run}: no training log (stage1/log.csv, ...) yet; stages.train writes them")
    figure = Figure(figsize=(5 * len(logs), 5.5), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(logs), squeeze=False, sharex="col")
    for column, (title, found) in enumerate(logs):
        start = 0.0
        for name, log in found:
            for axis, measure in zip(axes[:, column], ("loss", "accuracy"), strict=True):
                _curve(axis, log, measure, start, name)
                if start:
                    axis.axvline(start, color="grey", linewidth=0.8, linestyle=":")
            start += log["iteration"].max(initial=0)
        axes[0, column].set(title=title, ylabel="loss")
        axes[1, column].set(ylabel="pixel accuracy", xlabel="iteration", ylim=(0, 1))
        axes[0, column].legend(fontsize=8)
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    _save(figure, path)


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns LOGGED of a training's log.csv as float64; NaN where a line has no number. Raises UserError."""
    return {name: np.array([float(line[name] or "nan") for line in log_lines(path)]) for name in LOGGED}


def _curve(axis: Axes, log: dict[str, np.ndarray], measure: str, start: float, name: str) -> None:
    training, validation = {"loss": ("loss", "validation_loss"),
                            "accuracy": ("pixel_accuracy", "validation_accuracy")}[measure]
    line = axis.plot(start + log["iteration"], log[training], linewidth=0.9, label=name)[0]
    measured = ~np.isnan(log[validation])
    axis.plot(start + log["iteration"][measured], log[validation][measured], "o", markersize=4, color=line.get_color(),
              markeredgecolor="black", markeredgewidth=0.5, label=f"{name}, validation")


def chosen_images(text: str, known: list[str]) -> list[str]:
    """The ids that --images asks for, of those of the split. Raises UsageError."""
    if text.isdecimal() and text not in known:
        if len(text) > 9 or not 1 <= int(text) <= MOST_ROWS:
            raise UsageError(f"--images {short(text)}: expected 1 to {MOST_ROWS} images")
        return evenly_spaced(known, int(text))
    chosen, in_split = text.split(","), set(known)
    unknown = [image_id for image_id in chosen if image_id not in in_split]
    if unknown:
        raise UsageError(f"--images: {short(unknown[0])} is not in the split; expected a number or ids of the split")
    if len(chosen) > MOST_ROWS:
        raise UsageError(f"--images: {len(chosen)} ids; expected at most {MOST_ROWS}")
    return chosen


def _name(label: int, classes: list[str]) -> str:
    return "void" if label == VOID else classes[label] if label < len(classes) else f"class {label}"


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})  # the same run, the same bytes


def main(options: argparse.Namespace) -> None:
    """The sheet, and the curves beside it."""
    record = read_run(options.run)
    recipe, voc_root = record.recipe, options.voc_root or record.voc_root
    if voc_root is None:
        raise UsageError(f"{options.run}: does not say where its images are; give --voc-root")
    voc = DATA_SETS[recipe.data.format](voc_root, recipe.data.classes)
    split = options.split or recipe.data.val_split
    known = voc.image_ids(split)
    chosen = chosen_images(options.images, known)
    out = options.out or options.run / "report" / "sheet.png"
    if out.suffix != ".png":
        raise UsageError(f"--out {out}: expected a file name that ends in .png")
    sheet(read_sheet(options.run, recipe, voc, split, options.aggregate, chosen), recipe.data.classes, out)
    print(f"wrote {out}: {len(chosen)} of {len(known)} images of {split}")
    if any((options.run / name / "log.csv").is_file() for _, names in trainings(recipe) for name in names):
        curves(options.run, recipe, out.with_name("curves.png"))
        print(f"wrote {out.with_name('curves.png')}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.figures", __doc__.strip(), "python -m experiments.figures runs/voc --images 12")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: the run's own)")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split)")
    parser.add_argument("--aggregate", choices=("max", "sum", "mean"), default="max", help="default: max")
    parser.add_argument("--images", default="8", metavar="N|ID,ID,...",
                        help="how many images, evenly spaced in the split's list, or their ids (default: 8)")
    parser.add_argument("--out", type=Path, metavar="FILE.png",
                        help="default: RUN/report/sheet.png; curves.png is written beside it")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
