"""`python -m stages.infer`: label maps of a split or of any images, by one network or two, with or without CRF."""

import argparse
import sys
from pathlib import Path

from deconvnet.inference.sources import Source
from deconvnet.labelling import label
from deconvnet.models.registry import NETWORKS as NETWORK_SPECS
from deconvnet.models.registry import PARTNERS, partner_name
from deconvnet.recipe import CHECKPOINTS, NETWORKS, PROPOSALS, WINDOWS
from deconvnet.run_folder import open_run
from deconvnet.segmenter import Segmenter
from deconvnet.support.errors import UsageError
from deconvnet.support.workers import check_workers, default_workers
from stages.cli import add_run_arguments, make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Scores, ensemble, CRF, PNGs."""
    weights = given_weights(options)
    if options.edge_model and not options.edge_model.is_file():  # it may not be needed, but was meant to be there
        raise UsageError(f"{options.edge_model}: no such structured-forest model file")
    check_workers(options.workers, least=1)
    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS), needs_images=not options.images)
    segmenter = Segmenter.of(run, options.model, options.ensemble, options.crf, options.device, options.aggregate,
                             options.edge_model, weights)
    source = Source(run, segmenter.proposer, options.split, options.images, options.out)
    replace_others = source.split is not None and not options.out
    label(run, segmenter, source, replace_others, options.overlay, options.workers)


def given_weights(options: argparse.Namespace) -> dict[str, Path | None]:
    """The files that are named, by network: --weights is the model's, --fcn-weights that of the partner called fcn.

    Raises UsageError for a model that is a partner itself, with options that are none of its own; for weights of a
    partner that has no part.
    """
    given = {kind: getattr(options, f"{partner}_weights") for partner, kind in PARTNERS.items()}
    if partner := partner_name(options.model):
        if options.ensemble != "none" or options.weights:
            raise UsageError(f"--model {options.model} is {partner.upper()} alone: its weights are "
                             f"--{partner}-weights, and it has no --ensemble")
        return given
    for partner, kind in PARTNERS.items():
        if given[kind] and partner != options.ensemble:
            raise UsageError(f"--{partner}-weights {given[kind]}: {kind} has no part here; add --ensemble {partner}")
    return given | {options.model: options.weights}


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.infer",
                         "Labels a split or any images, by one network or an ensemble of two, with or without CRF.",
                         "python -m stages.infer --run runs/voc --aggregate max --ensemble fcn --crf\n"
                         "  python -m stages.infer --run runs/voc --images photo.jpg holiday/ --overlay --out labelled")
    add_run_arguments(parser)
    parser.add_argument("--model", choices=tuple(NETWORK_SPECS), default="deconvnet",
                        help="the network (default: deconvnet)")
    parser.add_argument("--aggregate", choices=("max", "sum", "mean"), help="(default: the recipe's infer.aggregate)")
    parser.add_argument("--ensemble", choices=(*PARTNERS, "none"), default="none",
                        help=f"with {' or '.join(PARTNERS.values())} (default: none)")
    parser.add_argument("--crf", action="store_true", help="finish with the dense CRF")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--split", help="a split list's name (default: the recipe's validation split)")
    images.add_argument("--images", type=Path, nargs="+", metavar="FILE_OR_FOLDER", help="label these images instead")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="the model's, stages.export's .onnx file too (default: the run's; DeconvNet's of stage 2, "
                             "else stage 1)")
    for partner, kind in PARTNERS.items():
        parser.add_argument(f"--{partner}-weights", type=Path, metavar="FILE",
                            help=f"{kind}'s, a file of this project or a published one (default: the run's)")
    parser.add_argument("--edge-model", type=Path, metavar="FILE",
                        help="structured-edge model, used if there is no proposals file")
    parser.add_argument("--overlay", action="store_true", help="write the labels blended with the image too")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where label maps go, in a folder named after the settings, for example deconvnet-max-crf "
                             "(default: in the run, predictions/SPLIT, or labelled for --images)")
    parser.add_argument("--workers", type=int, default=default_workers(), help="CRF processes (default: one per core)")
    parser.add_argument("--device", default="auto",
                        help="cpu, cuda, cuda:1, ..., mps for Apple's GPU (default: NVIDIA's where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
