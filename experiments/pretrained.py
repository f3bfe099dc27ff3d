"""Packs a run's networks into the folder that `Segmenter.from_pretrained` reads: one byte a weight, recipe, record."""

import argparse
import sys
from pathlib import Path

from deconvnet.conventions import PACKED, PRETRAINED
from deconvnet.support.atomic import remove_leftovers, write_json
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Writes recipe.yaml, run.json and each network's file; prints their sizes."""
    from deconvnet.inference.networks import weights_of_run
    from deconvnet.models.network_files import load_network, save_network
    from deconvnet.models.weight_files import read_metadata
    from deconvnet.recipe_files import override, save_recipe
    from experiments.records import read_run

    record = read_run(options.run)
    # bf16 crawls on processors that lack it; classes nowhere as probable as 0.3 change nothing (docs/studies.md)
    recipe = override(record.recipe, ["runtime.precision=fp32", "crf.least_probability=0.3"])
    given = {"deconvnet": options.weights, "fcn8s": options.fcn_weights}
    if options.to.exists() and not (options.to / "recipe.yaml").is_file():
        raise UsageError(f"--to {options.to}: a folder of something else; expected a new one, or one that this "
                         "command made")
    options.to.mkdir(parents=True, exist_ok=True)
    remove_leftovers(options.to)
    save_recipe(recipe, options.to / "recipe.yaml")
    made_with = record.made_with.model_dump(exclude_unset=True, by_alias=True)
    write_json(options.to / "run.json", {name: value for name, value in made_with.items() if name != "from"})
    paths = {kind: options.to / training / "network.safetensors" for kind, training in PACKED.items()}
    for kind in (one for one in reversed(PACKED) if one in options.model):  # DeconvNet's leaves out what FCN-8s's has
        weights, path = weights_of_run(record.folder, kind, given[kind]), paths[kind]
        about = read_metadata(weights)
        path.parent.mkdir(exist_ok=True)
        model = load_network(weights, kind, recipe)
        beside = paths["fcn8s"] if kind != "fcn8s" and paths["fcn8s"].is_file() else None
        save_network(model, path, kind, recipe, about["bn"], about["origin"], compact=True, beside=beside)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, of {weights.stat().st_size / 1e6:.1f} MB")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.pretrained", __doc__.strip(), "python -m experiments.pretrained runs/voc_vgg")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--model", nargs="+", choices=tuple(PACKED), default=list(PACKED),
                        help="which networks (default: both); one that is not named stays as it is in the folder")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="DeconvNet's (default: the run's)")
    parser.add_argument("--fcn-weights", type=Path, metavar="FILE", help="FCN-8s's (default: the run's)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", default=PRETRAINED, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
