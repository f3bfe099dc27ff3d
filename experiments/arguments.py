"""Options that several commands of this room have; without what reads a run, so that --help answers at once."""

import argparse


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of paper_comparison.read_comparison, beside RUN and --split."""
    parser.add_argument("--aggregate", choices=("max", "sum", "mean"), default="max", help="default: max")
    parser.add_argument("--subset-classes", metavar="NAME,NAME,...", help="also give the mean IoU of these classes")
    parser.add_argument("--server-result", metavar="ROW=FILE", action="append", default=[],
                        help="the VOC test server's result of a row (fcn8s, deconvnet-max, ...): CSV with the header "
                             "class,iou, in percent; may repeat")
