"""`python -m stages.download`: fetches VOC 2012, SBD, the structured-edge model and the VGG16 weights."""

import argparse
import logging
import sys
from pathlib import Path

from deconvnet.data.downloads import ITEMS, describe, fetch, remotes
from deconvnet.support.errors import UsageError, UserError
from stages.cli import make_parser, run_command

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Fetches the requested files, and says how to get the others by hand."""
    for name in options.items:
        if name not in ITEMS:
            raise UsageError(f"{name}: not one of {', '.join(ITEMS)}")
    names = options.items or ITEMS
    if options.list:
        for name in names:
            for remote in remotes()[name]:
                print(f"{name}\n{describe(remote, options.to)}")
        return
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries are ours to report
    failed = []
    for name in names:
        for remote in remotes()[name]:
            try:
                print(fetch(remote, options.to))
            except UserError as error:
                log.error("%s", error)
                failed.append((name, remote))
    if failed:
        print("\nTo put in place by hand, then run the same command again:", file=sys.stderr)
        for name, remote in failed:
            print(f"{name}\n{describe(remote, options.to)}", file=sys.stderr)
        raise UserError(f"not fetched: {', '.join(remote.path for _, remote in failed)} (why, and what to put where: "
                        "above); downloaded parts are kept")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.download",
        "Fetches the public files of a full reproduction: voc2012 (1.9 GB), sbd (1.3 GB), edges (OpenCV's structured "
        "forest), vgg16 (2 files, 0.5 GB each). Resumes interrupted downloads, verifies checksums, unpacks. Without a "
        "network it says what to put where by hand.",
        "python -m stages.download voc2012 sbd --to data",
    )
    parser.add_argument("items", nargs="*", metavar="ITEM", help=f"of {', '.join(ITEMS)}; default: all")
    parser.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="the data folder (default: data)")
    parser.add_argument("--list", action="store_true", help="print addresses, places, sizes, checksums; fetch nothing")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
