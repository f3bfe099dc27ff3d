"""`python -m stages.predict`: labels photographs with the networks that come with this package."""

import argparse
import sys
from pathlib import Path

from deconvnet.conventions import PRETRAINED
from deconvnet.support.startup import let_waiting_threads_sleep
from deconvnet.support.workers import check_workers, default_workers
from stages.cli import make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Label maps, overlays and labels.json; a line on each photograph."""
    check_workers(options.workers, least=1)
    if not options.no_crf:
        let_waiting_threads_sleep()
    from deconvnet.inference.overlays import percent_of
    from deconvnet.inference.photograph_files import photograph_files
    from deconvnet.photograph_labelling import Wanted, label_photographs
    from deconvnet.run_folder import read_run
    from deconvnet.schemas import LabelsRecord, read_json
    from deconvnet.segmenter import Segmenter, pretrained_networks

    files = photograph_files(options.images, options.recursive, options.out)
    run = read_run(PRETRAINED)
    segmenter = Segmenter.of(run, *pretrained_networks(), not options.no_crf, options.device)
    label_photographs(run, segmenter, files, options.out, Wanted(overlay=True), "skip", options.workers, {})
    folder = options.out / segmenter.name
    images = read_json(folder / "labels.json", LabelsRecord).images
    for name, path in files.items():
        if name in images:
            found = {one: percent_of(of["share"]) for one, of in images[name]["classes"].items() if one != "background"}
            told = ", ".join(f"{one} {share}" for one, share in found.items())
            print(f"{path}: {told or 'nothing that the network knows'}")
    print(f"pictures in {folder / 'overlays'}, label maps in {folder}; to look through: {folder / 'report.html'}")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.predict", "Labels photographs with the networks that come with this package "
                         "(docs/model_card.md: what they can do).", "python -m stages.predict photo.jpg holiday/")
    parser.add_argument("images", type=Path, nargs="+", metavar="FILE_OR_FOLDER", help="photographs, folders of them")
    parser.add_argument("--recursive", action="store_true", help="folders within folders too")
    parser.add_argument("--no-crf", action="store_true", help="without the dense CRF: faster, rounder outlines")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("labelled"),
                        help="where the results go (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=default_workers(), help="CRF processes (default: one per core)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
