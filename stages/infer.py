"""`python -m stages.infer`: label maps of a split or of any images, by one network or two, with or without CRF."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.models.registry import NETWORKS as NETWORK_SPECS
from deconvnet.models.registry import PARTNERS, partner_name
from deconvnet.recipe import CHECKPOINTS, NETWORKS, PROPOSALS, WINDOWS
from deconvnet.support.errors import UsageError
from deconvnet.support.startup import let_waiting_threads_sleep
from deconvnet.support.workers import check_workers, default_workers
from stages.cli import add_engine_arguments, add_run_arguments, engine_of, make_parser, run_command

if TYPE_CHECKING:
    from deconvnet.run_folder import RunFolder
    from deconvnet.segmenter import Segmenter
    from deconvnet.support.engines import Engine

log = logging.getLogger(__name__)

OF_IMAGES = ("recursive", "on_error", "probabilities")  # options that a split has no use for


def main(options: argparse.Namespace) -> None:
    """Scores, ensemble, CRF, PNGs."""
    weights = given_weights(options)
    if options.edge_model and not options.edge_model.is_file():  # it may not be needed, but was meant to be there
        raise UsageError(f"{options.edge_model}: no such structured-forest model file")
    workers = default_workers() if options.workers is None else options.workers
    if options.engine == "local":
        check_workers(workers, least=1)
    if options.workers_per_gpu and options.engine != "ray":
        raise UsageError("--workers-per-gpu is for --engine ray alone")
    for option in OF_IMAGES:
        if getattr(options, option) and not options.images:
            raise UsageError(f"--{option.replace('_', '-')} is for --images alone")
    if options.crf and options.engine == "local":
        let_waiting_threads_sleep()
    from deconvnet.inference.sources import Source
    from deconvnet.labelling import label
    from deconvnet.run_folder import open_run
    from deconvnet.segmenter import Segmenter

    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS), needs_images=not options.images)
    segmenter = Segmenter.of(run, options.model, options.ensemble, options.crf, options.device, options.aggregate,
                             options.edge_model, weights)
    with engine_of(options, options.workers, options.device, options.workers_per_gpu or 1) as engine:
        if options.images:
            _label_images(run, segmenter, options, workers, engine)
            return
        source = Source(run, segmenter.proposer, options.split, options.out)
        label(run, segmenter, source, not options.out, options.overlay, workers, engine)


def _label_images(run: "RunFolder", segmenter: "Segmenter", options: argparse.Namespace, workers: int,
                  engine: "Engine | None") -> None:
    from deconvnet.inference.photograph_files import photograph_files
    from deconvnet.photograph_labelling import Wanted, label_photographs

    left_out: dict[Path, str] = {}

    def leave_out(path: Path, error: UsageError) -> None:
        log.warning("left out: %s", error)
        left_out[path] = str(error)

    on_error, out = options.on_error or "stop", options.out or run.root / "labelled"
    files = photograph_files(options.images, options.recursive, out, leave_out if on_error == "skip" else None)
    wanted = Wanted(options.overlay, options.probabilities)
    label_photographs(run, segmenter, files, out, wanted, on_error, workers, left_out, engine)


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
    images.add_argument("--images", type=Path, nargs="+", metavar="FILE_OR_FOLDER",
                        help="label these photographs instead: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC (with "
                             "pillow-heif), turned, grey, transparent, 16-bit, of any size up to 250 megapixels: above "
                             "infer.most_side they are labelled smaller, and their labels enlarged")
    parser.add_argument("--recursive", action="store_true", help="--images: folders within folders too")
    parser.add_argument("--on-error", choices=("stop", "skip"),
                        help="--images: stop at a file that cannot be used, or skip it and name it in the log and in "
                             "labels.json (default: stop)")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="the model's, stages.export's .onnx file too (default: the run's; DeconvNet's of stage 2, "
                             "else stage 1)")
    for partner, kind in PARTNERS.items():
        parser.add_argument(f"--{partner}-weights", type=Path, metavar="FILE",
                            help=f"{kind}'s, a file of this project or a published one (default: the run's)")
    parser.add_argument("--edge-model", type=Path, metavar="FILE",
                        help="structured-edge model, used if there is no proposals file")
    parser.add_argument("--overlay", action="store_true", help="write the labels over the image, with a legend, too")
    parser.add_argument("--probabilities", action="store_true",
                        help="--images: write every class's probabilities too (probabilities/*.npz, float16)")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where label maps go, in a folder named after the settings, for example deconvnet-max-crf "
                             "(default: in the run, predictions/SPLIT, or labelled for --images)")
    parser.add_argument("--workers", type=int,
                        help="CRF processes (default: one per core); with --engine ray, processes that label (default: "
                             "one per core of the cluster or, with GPUs, --workers-per-gpu)")
    parser.add_argument("--workers-per-gpu", type=int, metavar="N",
                        help="--engine ray: processes that share a GPU, so that it works while others make proposals "
                             "or run the CRF (default: 1)")
    parser.add_argument("--device", default="auto",
                        help="cpu, cuda, cuda:1, ..., mps for Apple's GPU (default: NVIDIA's where there is one)")
    add_engine_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
