"""`python -m stages.import_caffe`: a published .caffemodel becomes a safetensors file of this project."""

import argparse
import logging
import sys
from pathlib import Path

from deconvnet.models.caffemodel import BN_STATES, KINDS
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command

log = logging.getLogger(__name__)

BN_NOTES = {
    "folded": "BN is folded (scale and shift): ready for stages.infer, not for training",
    "unmeasured": "BN statistics are not in the file: run stages.bn_statistics before stages.infer",
}


def main(options: argparse.Namespace) -> None:
    """Reads the Caffe file and writes ours."""
    from safetensors.numpy import save_file

    from deconvnet.models.caffe import import_caffe  # with torch, which --help has no use for
    from deconvnet.models.weight_files import write_safetensors

    if options.to.suffix != ".safetensors":
        raise UsageError(f"--to {options.to}: expected a name that ends in .safetensors")
    imported = import_caffe(options.file, options.kind, options.bn)
    # straight from the mapped file: next to no memory of our own
    write_safetensors(save_file, imported.tensors, options.to, imported.metadata)
    count = sum(tensor.size for tensor in imported.tensors.values())
    about = ", ".join(f"{key} {value}" for key, value in imported.metadata.items()
                      if key not in ("kind", "source", "class_names"))
    log.info("%s: %s, %s, %s tensors, %s numbers", options.to, imported.metadata["kind"], about,
             len(imported.tensors), f"{count:,}")
    if "bn" in imported.metadata:
        log.info(BN_NOTES[imported.metadata["bn"]])


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.import_caffe",
        "Import Caffe weights, without Caffe: the authors' DeconvNet (training or BN-folded inference model), VGG16,\n"
        "FCN-8s/16s/32s. Every layer must be accounted for.",
        "python -m stages.import_caffe DeconvNet_trainval_inference.caffemodel --to DeconvNet.safetensors",
    )
    parser.add_argument("file", type=Path, metavar="FILE.caffemodel", help="older or newer binary Caffe format")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.safetensors", help="file to write")
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="network; auto: by the layers' names")
    parser.add_argument(
        "--bn", choices=("auto", *BN_STATES), default="auto",
        help="DeconvNet's BN layers: folded (inference model), unmeasured (training model); auto: by how the file "
        "declares them",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
