"""`python -m stages.evaluate`: scores label maps against the masks of a split."""

import argparse
import logging
import math
import sys
from pathlib import Path

from tabulate import tabulate

from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.voc import VocFolder
from deconvnet.evaluation.comp6 import pack_comp6
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.evaluation.scoring import check_predictions, has_masks, prediction_classes, read_class_list, score
from deconvnet.support.atomic import remove_leftovers, write_json
from deconvnet.support.errors import UsageError
from deconvnet.support.locks import held
from stages.cli import make_parser, run_command

log = logging.getLogger(__name__)


def print_table(confusion: ConfusionMatrix, subset: list[str]) -> None:
    """Prints the four metrics and the per-class IoU, in percent, one column under the other."""
    print(f"{confusion.images:,} images, {int(confusion.counts.sum()):,} labelled pixels; percent\n")
    rows = [
        ("pixel accuracy", confusion.pixel_accuracy()),
        ("mean accuracy", confusion.mean_accuracy()),
        ("mean IoU", confusion.mean_iou()),
        ("frequency weighted IoU", confusion.frequency_weighted_iou()),
    ]
    if subset:
        rows.append((f"mean IoU of {len(subset)}", confusion.mean_iou(subset)))
    classes = zip(confusion.classes, confusion.class_iou(), strict=True)
    cells = [(name, percent(value)) for name, value in rows]
    cells += [("", ""), ("IoU of each class", ""), *((name, percent(value)) for name, value in classes)]
    print(tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=("left", "right")))


def percent(value: float) -> str:
    """A fraction as a percentage; "-" for a metric that does not exist."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def main(options: argparse.Namespace) -> None:
    """Packs, scores, prints and writes what the options ask for."""
    classes = read_class_list(options.classes) if options.classes else prediction_classes(options.predictions)
    voc = VocFolder(options.voc_root, classes)
    image_ids = voc.image_ids(options.split)
    subset = [name.strip() for name in (options.subset_classes or "").split(",") if name.strip()]
    if subset:
        ConfusionMatrix(voc.classes).mean_iou(subset)  # an unknown name is an error now, not after the last image
    if options.comp6 and not options.comp6.name.endswith((".tgz", ".tar.gz")):
        raise UsageError(f"--comp6 {options.comp6}: expected a file name that ends in .tgz")
    check_predictions(options.predictions, image_ids)
    with held(options.predictions):
        _evaluate(options, voc, image_ids, subset)


def _evaluate(options: argparse.Namespace, voc: SegmentationDataset, image_ids: list[str], subset: list[str]) -> None:
    remove_leftovers(options.predictions)
    if options.comp6:
        remove_leftovers(options.comp6.parent)
        pack_comp6(voc, options.predictions, image_ids, options.comp6)
        print(f"wrote {options.comp6}: {len(image_ids)} predictions")
        if not has_masks(voc, image_ids):
            print(f"split {options.split} has no masks here, so it is not scored: send the archive to the VOC server")
            return

    confusion = score(voc, image_ids, options.predictions)
    if not confusion.counts[:, 1:].any():
        log.warning("WARNING: every scored pixel is predicted %s: has the network learned anything?", voc.classes[0])
    print_table(confusion, subset)
    metrics = {"split": options.split, **confusion.summary()}
    if subset:
        value = confusion.mean_iou(subset)
        metrics["subset"] = {"classes": subset, "mean_iou": None if math.isnan(value) else value}
    write_json(options.predictions / "metrics.json", metrics)
    print(f"\nwrote {options.predictions / 'metrics.json'}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.evaluate",
        "Scores a folder of label maps (ID.png) against a split's masks: pixel accuracy, mean accuracy, mean IoU, "
        "frequency\nweighted IoU, IoU of each class. Prints them and writes metrics.json into the folder.",
        "python -m stages.evaluate --predictions runs/default/predictions/val/deconvnet-max-fcn-crf "
        "--voc-root data/synthetic/VOC2012 --split val",
    )
    parser.add_argument("--predictions", type=Path, required=True, metavar="FOLDER",
                        help="folder with one ID.png per image")
    parser.add_argument("--voc-root", type=Path, required=True, metavar="FOLDER", help="the VOC-layout folder")
    parser.add_argument("--split", default="val", help="split that was predicted (default: %(default)s)")
    parser.add_argument("--classes", type=Path, metavar="FILE",
                        help="class names, one per line, background first (default: those that stages.infer wrote "
                             "beside its predictions, else VOC's 21)")
    parser.add_argument("--subset-classes", metavar="NAME,NAME,...", help="also give the mean IoU of these classes")
    parser.add_argument("--comp6", type=Path, metavar="FILE.tgz",
                        help="also pack the predictions for the VOC server; a split without masks is only packed")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
