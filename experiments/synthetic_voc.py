"""`python -m experiments.synthetic_voc`: a synthetic data set in VOC's layout, made from a seed."""

import argparse
import sys
from pathlib import Path

from deconvnet.conventions import VOC_CLASSES
from stages.cli import make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Makes the set."""
    from deconvnet.data.synthetic import generate

    class_names = ["background", *options.classes.split(",")] if options.classes else VOC_CLASSES
    folder = generate(options.folder, options.train, options.val, options.seed, options.side, class_names)
    print(f"{folder}: {options.train} training and {options.val} validation images")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.synthetic_voc", "Makes a synthetic data set in VOC's layout, from a seed.",
                         "python -m experiments.synthetic_voc data/synthetic --train 300 --val 60")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the set is made in DIR/VOC2012")
    parser.add_argument("--train", metavar="N", type=int, default=300, help="training images (default: %(default)s)")
    parser.add_argument("--val", metavar="N", type=int, default=60, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--side", metavar="N", type=int, default=160,
                        help="about the longer side of an image, in pixels (default: %(default)s)")
    parser.add_argument("--classes", metavar="NAME,NAME,...",
                        help="the classes to draw, labelled 1, 2, ... in this order: give the same to the recipe's key "
                             "data.classes, after background (default: VOC's 20)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
