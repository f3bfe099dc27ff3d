"""Recall of object proposals: the share of objects that a box overlaps enough.

The gradient detector's scales and strength were chosen on 150 images of train.txt with their annotation boxes, none
of them in instances.txt, where recall is reported.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconvnet.conventions import VOC_CLASSES
from deconvnet.recipe import MOST_BOXES, Proposals, Recipe, recipe_keys
from deconvnet.recipe_limits import short
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UsageError
from deconvnet.support.progress import progress
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from proposals.build import ProposalWork

OVERLAPS = (0.5, 0.7)
OBJECTS_AT_ONCE = 500  # compared with all boxes: about 100 MB
MOST_COUNTS = 100


def best_so_far(objects: np.ndarray, boxes: np.ndarray, most: int) -> np.ndarray:
    """The best IoU of each object (int O x 4) with the first 1, 2, ..., `most` boxes (int N x 4): float64 O x most."""
    from deconvnet.data.windows import overlap

    table = np.zeros((len(objects), most))
    if len(boxes):
        running = np.maximum.accumulate(overlap(objects, boxes[:most]), axis=1)
        table[:, : running.shape[1]] = running
        table[:, running.shape[1]:] = running[:, -1:]
    return table


def measure_recall(work: "ProposalWork", split: str, counts: list[int]) -> tuple[int, dict[str, list[float]]]:
    """Number of objects, and recall for each count, by IoU."""
    voc, best = work.voc, []
    assert voc is not None  # recall needs its objects
    for image_id in progress(voc.image_ids(split), desc="recall", unit="image"):
        boxes, _ = work.propose(voc.read_image(image_id))
        objects = np.array([item.box for item in voc.objects(image_id)], np.int32).reshape(-1, 4)
        for some in np.array_split(objects, 1 + len(objects) // OBJECTS_AT_ONCE):
            best.append(best_so_far(some, boxes, max(counts))[:, np.array(counts) - 1])
    found = np.concatenate(best)
    if len(found) == 0:
        raise UsageError(f"{split}: its images have no object; recall needs some")
    return len(found), {str(overlap): (found >= overlap).mean(0).tolist() for overlap in OVERLAPS}


def parse_counts(text: str) -> list[int]:
    """Numbers of boxes from "10,50"."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not 1 <= len(counts) <= MOST_COUNTS or min(counts) < 1 or max(counts) > MOST_BOXES:
        raise argparse.ArgumentTypeError(f"{short(text)}: expected at most {MOST_COUNTS} numbers of boxes, 1 to "
                                         f"{MOST_BOXES}, such as 10,50,200")
    return counts


def main(options: argparse.Namespace) -> None:
    """Measures, prints the table and writes the JSON file."""
    from tabulate import tabulate

    from deconvnet.data.voc import VocFolder
    from deconvnet.run_folder import provenance
    from proposals.build import ProposalWork

    folder = VocFolder(options.voc_root, VOC_CLASSES)
    work = ProposalWork(folder, Recipe(proposals=Proposals(source=options.source, count=max(options.boxes))),
                        options.edge_model)
    objects, recall = measure_recall(work, options.split, options.boxes)
    images = len(folder.image_ids(options.split))
    print(f"{options.source}, edges: {work.edges}, {options.split}: {objects} objects in {images} images")
    print(tabulate([(f"IoU {overlap}", *(f"{value:.3f}" for value in values)) for overlap, values in recall.items()],
                   ("boxes", *map(str, options.boxes)), tablefmt="plain", disable_numparse=True,
                   colalign=("left", *["right"] * len(options.boxes))))
    if options.out:
        write_json(options.out, {
            "command": "python -m experiments.proposal_recall --voc-root VOC --split "
                       f"{options.split} --boxes {','.join(map(str, options.boxes))}"
                       + (f" --source {options.source}" if options.source != "edge_boxes" else "")
                       + (" --edge-model model.yml.gz" if options.edge_model else ""),
            **provenance(),
            "data": {"split": options.split, "images": images, "objects": objects,
                     "list": folder.fingerprint(options.split)},
            "edge_detector": work.edges,
            "seed": "none: nothing is random",
            **({} if not work.edges.startswith("gradient") else {
                "note": "scales and strength of the gradient detector were chosen on 150 images of train.txt with "
                        "their annotation boxes, none of them in instances.txt"}),
            "boxes": options.boxes,
            "recall": recall,
        })


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.proposal_recall", __doc__.splitlines()[0],
                         "python -m experiments.proposal_recall --voc-root data/VOCdevkit --split val")
    parser.add_argument("--voc-root", type=Path, required=True, help="VOC-layout folder")
    parser.add_argument("--split", default="val", help="list in ImageSets/Segmentation (default: val)")
    parser.add_argument("--boxes", type=parse_counts, default=[10, 50, 200, 1000, 2000],
                        help="numbers of boxes (default: 10,50,200,1000,2000)")
    sources = recipe_keys()["proposals.source"][1].metadata["choices"]
    parser.add_argument("--source", choices=sources, default="edge_boxes", help="default: %(default)s")
    parser.add_argument("--edge-model", type=Path, help="structured-forest model; without it, the gradient detector")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
