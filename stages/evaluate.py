"""`python -m stages.evaluate`: scores label maps against the masks of a split, together and image by image."""

import argparse
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.conventions import DEFAULT_RUN
from deconvnet.support.atomic import remove_leftovers, write_json, write_text
from deconvnet.support.errors import UsageError, UserError
from stages.cli import add_engine_arguments, default_run, engine_of, make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.data.dataset import SegmentationDataset
    from deconvnet.evaluation.metrics import ConfusionMatrix
    from deconvnet.evaluation.scoring import ImageScore
    from deconvnet.support.engines import Engine

log = logging.getLogger(__name__)


@dataclass
class Asked:
    """What is to be scored: folders of label maps, each of every image of a split."""

    voc: "SegmentationDataset"
    split: str
    folders: list[Path]


def asked_for(options: argparse.Namespace) -> Asked:
    """What the options ask for: a folder from anywhere, or a run's predictions. Raises UsageError."""
    from deconvnet.data.dataset import DATA_SETS
    from deconvnet.data.voc import VocFolder, check_split
    from deconvnet.evaluation.scoring import prediction_classes, read_class_list, recorded_classes
    from deconvnet.run_folder import read_run, recorded_voc_root

    if options.predictions and options.voc_root and not options.run:
        classes = read_class_list(options.classes) if options.classes else prediction_classes(options.predictions)
        return Asked(VocFolder(options.voc_root, classes), options.split or "val", [options.predictions])

    run = read_run(options.run or default_run())
    data, split = run.recipe.data, options.split or run.recipe.data.val_split
    check_split(split)
    folders = _predictions(run.root, split, options.predictions)
    classes = read_class_list(options.classes) if options.classes else data.classes
    for folder in folders:
        theirs = recorded_classes(folder)
        if theirs not in (None, classes) and not options.classes:
            raise UserError(f"{folder}: was predicted with the classes {', '.join(theirs or [])}; the run's recipe has "
                            f"{', '.join(classes)}: predict again, or say which are right with --classes")
    root = options.voc_root or recorded_voc_root(run.root, run.sources) or os.environ.get("DECONVNET_VOC_ROOT")
    if not root:
        raise UsageError(f"{run.root}: does not say where its images are; give --voc-root")
    return Asked(DATA_SETS[data.format](Path(root), classes), split, folders)


def _predictions(run: Path, split: str, named: Path | None) -> list[Path]:
    """Of a run's predictions of a split the one that is named, which may be another folder's path; else all."""
    place = run / "predictions" / split
    known = sorted(path for path in place.glob("[!.]*") if path.is_dir())
    if named and (place / named in known or named.is_dir()):
        return [place / named if place / named in known else named]
    if named:
        raise UsageError(f"{named}: no such folder, and no such prediction in {place}; expected one of "
                         f"{_names(known)}, or a folder with a prediction ID.png per image")
    if not known:
        raise UsageError(f"{place}: no predictions yet; `python -m stages.infer --run {run}` makes them")
    return known


def _names(folders: list[Path]) -> str:
    return ", ".join(path.name for path in folders) or "those that stages.infer makes"


def print_table(confusion: "ConfusionMatrix", images: "list[ImageScore]", subset: list[str]) -> None:
    """Prints the four metrics, the mean of the images' own mean IoU and the per-class IoU, in percent, one column."""
    from tabulate import tabulate

    from deconvnet.evaluation.scoring import image_mean

    print(f"{confusion.images:,} images, {int(confusion.counts.sum()):,} labelled pixels; percent\n")
    rows = [
        ("pixel accuracy", confusion.pixel_accuracy()),
        ("mean accuracy", confusion.mean_accuracy()),
        ("mean IoU", confusion.mean_iou()),
        ("frequency weighted IoU", confusion.frequency_weighted_iou()),
        ("images' own mean IoU", image_mean(images)),
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
    from deconvnet.evaluation.metrics import chosen_classes
    from deconvnet.evaluation.scoring import check_predictions
    from deconvnet.support.locks import held

    asked = asked_for(options)
    image_ids = asked.voc.image_ids(asked.split)
    subset = chosen_classes(options.subset_classes, asked.voc.classes)
    if options.comp6 and not options.comp6.name.endswith((".tgz", ".tar.gz")):
        raise UsageError(f"--comp6 {options.comp6}: expected a file name that ends in .tgz")
    if options.comp6 and len(asked.folders) > 1:
        raise UsageError("--comp6 packs one prediction: say which with --predictions, one of "
                         f"{_names(asked.folders)}")
    for folder in asked.folders:
        check_predictions(folder, image_ids)
    with engine_of(options) as engine:
        for number, folder in enumerate(asked.folders):
            if len(asked.folders) > 1:
                print(f"{chr(10) if number else ''}{folder.name}")
            with held(folder):
                _evaluate(asked, folder, image_ids, subset, options.comp6, engine)


def _evaluate(asked: Asked, folder: Path, image_ids: list[str], subset: list[str], comp6: Path | None,
              engine: "Engine | None") -> None:
    from deconvnet.evaluation.comp6 import pack_comp6
    from deconvnet.evaluation.metrics import or_none
    from deconvnet.evaluation.scoring import SCORE_FILES, has_masks, image_mean, images_csv, images_summary, score

    remove_leftovers(folder)
    voc, split = asked.voc, asked.split
    if comp6:
        remove_leftovers(comp6.parent)
        pack_comp6(voc, folder, image_ids, comp6)
        print(f"wrote {comp6}: {len(image_ids)} predictions")
        if not has_masks(voc, image_ids):
            print(f"split {split} has no masks here, so it is not scored: send the archive to the VOC server")
            return

    confusion, images = score(voc, image_ids, folder, engine)
    if not confusion.counts[:, 1:].any():
        log.warning("WARNING: every scored pixel is predicted %s: has the network learned anything?", voc.classes[0])
    print_table(confusion, images, subset)
    metrics = {"split": split, **confusion.summary(), "image_mean_iou": or_none(image_mean(images))}
    if subset:
        value = confusion.mean_iou(subset)
        metrics["subset"] = {"classes": subset, "mean_iou": None if math.isnan(value) else value}
    write_text(folder / "images.csv", images_csv(images, voc.classes))
    write_json(folder / "images.json", {"split": split, "images": images_summary(images, voc.classes)})
    write_json(folder / "metrics.json", metrics)
    print(f"\nwrote {folder / SCORE_FILES[0]}, {', '.join(SCORE_FILES[1:])}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.evaluate",
        "Scores label maps (ID.png) against a split's masks: pixel accuracy, mean accuracy, mean IoU, frequency\n"
        "weighted IoU, IoU of each class. Prints them and writes metrics.json beside the label maps, with the scores\n"
        "of each image in images.json and images.csv.\n"
        "Scores a run's predictions; or, with --predictions and --voc-root and without --run, those in any folder.",
        "python -m stages.evaluate --run runs/voc\n"
        "  python -m stages.evaluate --run runs/voc --predictions deconvnet-max-fcn-crf --comp6 comp6.tgz\n"
        "  python -m stages.evaluate --predictions labelled --voc-root data/synthetic/VOC2012 --split val",
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER",
                        help=f"run folder (default: $DECONVNET_RUN, else {DEFAULT_RUN})")
    parser.add_argument("--predictions", type=Path, metavar="NAME",
                        help="one of the run's predictions, or a folder with one ID.png per image (default: all of the "
                             "run's predictions of the split)")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: the run's own)")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split; without a "
                                        "run: val)")
    parser.add_argument("--classes", type=Path, metavar="FILE",
                        help="class names, one per line, background first (default: the run's, those that stages.infer "
                             "wrote beside its predictions, else VOC's 21)")
    parser.add_argument("--subset-classes", metavar="NAME,NAME,...", help="also give the mean IoU of these classes")
    parser.add_argument("--comp6", type=Path, metavar="FILE.tgz",
                        help="also pack the predictions for the VOC server; a split without masks is only packed")
    add_engine_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
