"""`python -m stages.merge_sbd`: makes the split train_aug from VOC 2012 and SBD."""

import argparse
import sys
from pathlib import Path

from deconvnet.conventions import VOC_CLASSES
from stages.cli import make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Merges, and prints the size of each split."""
    from deconvnet.data.sbd import merge_sbd
    from deconvnet.data.voc import VocFolder

    counts = merge_sbd(VocFolder(options.voc_root, VOC_CLASSES), options.sbd_root)
    for split, count in counts.items():
        print(f"{split}: {count} images")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.merge_sbd",
        "Merges SBD's labels into a VOC 2012 folder: SegmentationClassAug, SegmentationObjectAug, train_aug.txt (VOC's "
        "train and every SBD image that is not in VOC's val) and trainval_aug.txt. Continues where it was stopped.",
        "python -m stages.merge_sbd --voc-root data/VOCdevkit/VOC2012 --sbd-root data/benchmark_RELEASE/dataset",
    )
    parser.add_argument("--voc-root", type=Path, required=True, metavar="VOC", help="the folder with JPEGImages")
    parser.add_argument("--sbd-root", type=Path, required=True, metavar="SBD",
                        help="the folder with cls, inst, img, train.txt and val.txt")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
