"""The images that a prediction gets wrong most: a list, and their label maps beside the truth, without the photographs.

What to look at first, and what a model card has to show; label maps carry no photograph's licence.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconvnet.conventions import VOID
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.data.dataset import SegmentationDataset

ACROSS = 3  # pairs of label maps in a row of the picture
CELL = 1.8  # inches of a label map's side
LEAST = 0.01  # share of an image below which a class is not told of


@dataclass
class Failure:
    """An image with its truth and prediction (labels, uint8 H x W), and the mean IoU over the truth's classes."""

    image_id: str
    iou: float
    truth: np.ndarray
    predicted: np.ndarray


def worst(voc: "SegmentationDataset", image_ids: list[str], folder: Path, count: int) -> list[Failure]:
    """The `count` images with the lowest mean IoU of their own, worst first; the list's order decides between equals.

    Raises UserError for a prediction that is missing or of another size.
    """
    from deconvnet.data.images import read_label_png
    from deconvnet.evaluation.scoring import check_predictions, score

    check_predictions(folder, image_ids)
    _, images = score(voc, image_ids, folder)
    measured = [one for one in images if not np.isnan(one.mean_iou)]  # the others are of nothing but void
    return [Failure(one.image_id, one.mean_iou, voc.read_mask(one.image_id),
                    read_label_png(folder / f"{one.image_id}.png"))
            for one in sorted(measured, key=lambda one: one.mean_iou)[:count]]


def told(labels: np.ndarray, classes: list[str]) -> str:
    """What a label map shows beside background, largest first, void not counted: 'cat 34 %, sofa 5 %'."""
    from deconvnet.reporting.gallery import shares

    return ", ".join(f"{classes[label]} {100 * share:.0f} %" for label, share in shares(labels).items()
                     if label and share >= LEAST) or "background only"


def described(failures: list[Failure], classes: list[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"{number}. {one.image_id}, mean IoU {100 * one.iou:.1f}: shows {told(one.truth, classes)}; "
                     f"labelled {told(one.predicted, classes)}" for number, one in enumerate(failures, 1))


def draw(failures: list[Failure], classes: list[str], path: Path) -> None:
    """Writes the pairs as PNG, numbered as in the list: truth at the left, prediction at the right."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from deconvnet.data.palette import voc_palette

    rows = -(-len(failures) // ACROSS)
    figure = Figure(figsize=(2 * ACROSS * CELL, rows * (CELL + 0.25) + 0.5), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 2 * ACROSS, squeeze=False)
    palette, occurring = voc_palette(), set()
    for axis in axes.flat:
        axis.set_axis_off()
    for number, one in enumerate(failures):
        row, column = divmod(number, ACROSS)
        pair = ((one.truth, f"{number + 1}. truth"), (one.predicted, f"{100 * one.iou:.1f}"))
        for place, (labels, title) in enumerate(pair):
            axis = axes[row, 2 * column + place]
            axis.imshow(palette[labels], interpolation="nearest")
            axis.set_title(title, fontsize=8)
            occurring |= set(np.unique(labels).tolist())
    patches = [Patch(facecolor=palette[label] / 255, edgecolor="black", linewidth=0.5,
                     label="void" if label == VOID else classes[label]) for label in sorted(occurring)]
    figure.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def main(options: argparse.Namespace) -> None:
    """The list, and the picture."""
    from deconvnet.data.dataset import DATA_SETS
    from experiments.records import read_run

    record = read_run(options.run)
    root = options.voc_root or record.voc_root
    if root is None:
        raise UsageError(f"{options.run}: does not say where its images are; give --voc-root")
    if options.count < 1:
        raise UsageError(f"--count {options.count}: expected 1 or more")
    if options.out and options.out.suffix != ".png":
        raise UsageError(f"--out {options.out}: expected a file name that ends in .png")
    recipe = record.recipe
    voc = DATA_SETS[recipe.data.format](root, recipe.data.classes)
    split = options.split or recipe.data.val_split
    folder = options.run / "predictions" / split / options.prediction
    found = worst(voc, voc.image_ids(split), folder, options.count)
    out = options.out or options.run / "report" / f"failures-{options.prediction}.png"
    draw(found, voc.classes, out)
    print(described(found, voc.classes))
    print(f"wrote {out}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.failures", __doc__.strip().splitlines()[0],
                         "python -m experiments.failures runs/voc --prediction deconvnet-max-fcn-crf")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--prediction", required=True, metavar="NAME",
                        help="a folder of RUN/predictions/SPLIT, for example deconvnet-max-fcn-crf")
    parser.add_argument("--count", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: the run's own)")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: RUN/report/failures-NAME.png")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
