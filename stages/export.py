"""`python -m stages.export`: networks as ONNX files, for programs without torch."""

import argparse
import logging
import sys
from pathlib import Path

from deconvnet.models.registry import NETWORKS as NETWORK_SPECS
from deconvnet.recipe import CHECKPOINTS, NETWORKS, PROPOSALS, WINDOWS, Recipe
from deconvnet.support.atomic import remove_leftovers
from deconvnet.support.errors import UsageError
from stages.cli import add_run, make_parser, run_command

log = logging.getLogger(__name__)

BOTH = ("deconvnet", "fcn8s")  # the ensemble's
FORMATS = ("onnx",)


def main(options: argparse.Namespace) -> None:
    """Writes a file for each network, compared with torch."""
    from deconvnet.inference.score_files import file_token
    from deconvnet.models.network_files import load_network
    from deconvnet.models.onnx_export import export_onnx

    networks, folder = chosen(options)
    remove_leftovers(folder)
    for kind, weights, recipe in networks:
        to = folder / f"{kind}.{options.to}"
        origin = {"weights": weights.name, "sha256_begins": file_token(weights)}
        found = export_onnx(load_network(weights, kind, recipe), to, kind, recipe, origin)
        side, classes = NETWORK_SPECS[kind].side(recipe), len(recipe.data.classes)
        log.info("%s: %s, N x 3 x %d x %d to N x %d x %d x %d", to, NETWORK_SPECS[kind].title, side, side, classes,
                 side, side)
        log.info("%s: onnxruntime against torch: %s", to.name, found)


def chosen(options: argparse.Namespace) -> tuple[list[tuple[str, Path, Recipe]], Path]:
    """What is exported, each network by its name, file and recipe; and the folder that it goes to.

    Raises UsageError for weights that are not there, or options that do not go together.
    """
    from deconvnet.inference.networks import weights_of_run
    from deconvnet.inference.weight_choice import networks_of_files
    from deconvnet.recipe_files import override
    from deconvnet.run_folder import read_run

    if not options.weights:
        if options.recipe:
            raise UsageError(f"--recipe {options.recipe}: a run has its own recipe; --recipe is for --weights")
        run = read_run(options.run, options.set, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS))
        kinds = dict.fromkeys(options.model or BOTH)  # each once
        return [(kind, weights_of_run(run, kind), run.recipe) for kind in kinds], options.out or run.root / options.to
    if not options.out:
        raise UsageError("--weights needs --out, the folder that the ONNX file is to be written into")
    (kind,), recipe = networks_of_files([options.weights], options.recipe)
    return [(kind, options.weights, override(recipe, options.set))], options.out


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "stages.export",
        "Writes the run's networks, or one --weights file, as ONNX files, each compared with torch in onnxruntime. A\n"
        "graph takes any number of images of one side: that of the windows, or of the canvas; it is float32. Not\n"
        "exported: training, and what is no network: proposals, aggregation of windows, ensemble, CRF. It needs the\n"
        "packages of the extra `export`.",
        "python -m stages.export --run runs/voc --to onnx\n"
        "  python -m stages.export --to onnx --weights network.safetensors --out exported",
    )
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    add_run(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", choices=tuple(NETWORK_SPECS), nargs="+",
                       help=f"the run's networks to export (default: {' and '.join(BOTH)})")
    which.add_argument("--weights", type=Path, metavar="FILE", help="a network's file, instead of a run's")
    parser.add_argument("--recipe", metavar="NAME", help="of --weights that carry none: a recipe or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="change a recipe key, fcn.canvas say; may repeat")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where NETWORK.onnx goes (default: onnx in the run folder)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
