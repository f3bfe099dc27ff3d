"""`python -m stages.inspect`: the network as the paper's Table 2, a recipe with its origins, what a file holds."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvnet.recipe import Recipe, recipe_difference, recipe_keys, recipe_to_dict, shapes
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

LONG = 60  # characters of a value before it is shortened


def print_network(recipe: Recipe) -> None:
    """Table 2 of this recipe's network, with parameters and FLOPs."""
    from deconvnet.models.layer_table import layer_table

    rows = layer_table(recipe.network, len(recipe.data.classes))
    print(f"DeconvNet of recipe {recipe.name}: width {recipe.network.width:g}, {len(recipe.data.classes)} classes, "
          f"unpooling: {recipe.network.unpooling}\n")
    parameters, flops = sum(row.parameters for row in rows), sum(row.flops for row in rows)
    print_table(("layer", "kernel", "stride", "pad", "output size", "parameters", "FLOPs"), [
        *((row.name, *("" if value is None else str(value) for value in (row.kernel, row.stride, row.pad)),
           f"{row.height} x {row.width} x {row.channels}",
           *(f"{count:,}" if count else "" for count in (row.parameters, row.flops)))
          for row in rows),
        ("total", "", "", "", "", f"{parameters:,}", f"{flops:,}"),
    ])
    print("\nParameters: weights, biases, BN's scales and shifts. FLOPs: of one window's (de)convolutions; a product\n"
          "and a sum count as two. The paper's Table 2 gives the output layer a pad of 1, which would make its map\n"
          "226 x 226; the size beside it there, and this network, have 0.")


def print_recipe(recipe: Recipe) -> None:
    """Every key: value, mark, the paper's default where it differs, note with the origin, what it shapes."""
    paper = recipe_to_dict(Recipe())
    print(f"Recipe {recipe.name}. * differs from the paper's default. [P]: paper, [R]: the authors' release, "
          "[I]: inferred; no mark: our own choice.")
    section, shaped = "", shapes(recipe)
    for name, (value, item) in recipe_keys(recipe).items():
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            print()
        differs = value != paper[name]
        default = f"   (paper: {_short(paper[name])})" if differs else ""
        print(f"{'*' if differs else ' '} {name} = {_short(value)}{default}")
        print(f"      {item.metadata['note']}")
        print(f"      shapes: {', '.join(shaped[name]) or 'nothing'}")


def print_checkpoint(path: Path) -> None:
    """A training's checkpoint."""
    from deconvnet.training.checkpoint import load_checkpoint

    content = load_checkpoint(path, None, "meta")  # sizes without the weights
    print(f"{path}: checkpoint of {content['training']} at iteration {content['iteration']:,} "
          f"({content['position']:,} examples seen), best validation pixel accuracy {content['best']:.4f}\n")
    print_differences(content["recipe"])
    print_tensors(content["model"])


def print_safetensors(path: Path) -> None:
    """A network's weights."""
    from deconvnet.models.weight_files import read_safetensors

    tensors, metadata = read_safetensors(path)
    print(f"{path}: weights" + ("" if metadata else ", not of this project (no description in it)"))
    print_about(metadata)
    print_tensors(tensors)


def print_onnx(path: Path) -> None:
    """An exported network: what the file says of it."""
    from deconvnet.models.onnx_files import read_about

    print(f"{path}: network for onnxruntime")
    print_about(read_about(path))


def print_about(metadata: dict[str, Any]) -> None:
    """What a network's file says of it, and how its recipe differs from the paper's."""
    for name, value in metadata.items():
        if name != "recipe":
            print(f"  {name}: {json.dumps(value)}")
    print()
    if metadata.get("recipe"):
        print_differences(metadata["recipe"])


def print_hdf5(path: Path) -> None:
    """A file of proposals, windows or scores: attributes, datasets, ranges of numbers, rows by class."""
    import h5py

    from deconvnet.data.row_files import attributes_of, opened, read_rows

    with opened(path) as file:
        attributes = {name: _decoded(value) for name, value in attributes_of(file).items()}
        ours = read_rows(path, attributes["format"]) if attributes.get("format") in ("proposals", "windows") else None
        recipe = attributes.pop("recipe", None)
        kind = "score maps of an image" if set(file) == {"scores"} else "HDF5, not of this project"
        version = f", version {attributes.pop('format_version')}" if "format_version" in attributes else ""
        print(f"{path}: {attributes.pop('format', kind)}{version}")
        for name, value in attributes.items():
            print(f"  {name}: {_short(value)}")
        print()
        if isinstance(recipe, dict):
            print_differences(recipe)
        rows: list[tuple[str, ...]] = []

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                rows.append((name, *_dataset(item)))

        file.visititems(visit)
        shown = rows if len(rows) <= 40 else rows[:20]
        print_table(("dataset", "shape", "type", "values"), shown)
        if len(shown) < len(rows):
            print(f"... and {len(rows) - len(shown):,} more")
    if ours and "class_index" in ours.columns:
        counts = np.bincount(ours.columns["class_index"], minlength=len(attributes["classes"]))
        print("\nrows by class: " + ", ".join(f"{name} {count:,}" for name, count
                                               in zip(attributes["classes"], counts, strict=True) if count))


def print_tensors(tensors: "dict[str, Tensor]") -> None:
    """Names, shapes, types, and the sum of learned numbers (running statistics and counters left out)."""
    print_table(("tensor", "shape", "type"), [
        (name, " x ".join(map(str, tensor.shape)) or "a number", str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    ])
    learned = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith((".weight", ".bias")))
    print(f"\n{len(tensors)} tensors, {learned:,} parameters")


def print_differences(made_with: dict[str, Any]) -> None:
    """The keys in which a file's recipe differs from the paper's."""
    differing = recipe_difference(made_with, recipe_to_dict(Recipe()))
    print(f"recipe {made_with.get('name', 'without a name')}, differs from the paper's in {len(differing)} keys")
    for name, (there, paper) in differing.items():
        print(f"  {name} = {_short(there)}   (paper: {_short(paper)})")
    print()


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Prints a plain table: the first column aligned left, the others right."""
    from tabulate import tabulate

    print(tabulate(rows, header, tablefmt="plain", disable_numparse=True,
                   colalign=("left", *["right"] * (len(header) - 1))))


def _dataset(data: "h5py.Dataset") -> tuple[str, str, str]:
    import h5py

    kind = data.dtype
    shape = " x ".join(f"{size:,}" for size in data.shape) or "one"
    whole = data.size and data.id.get_storage_size() >= data.nbytes  # else a few bytes might declare terabytes
    if kind.kind in "iuf" and whole and data.ndim <= 2:  # rows; score maps would be long to read
        values = data[()]
        if np.isnan(values).all():
            return shape, str(kind), "none (NaN)"
        return shape, str(kind), f"{np.nanmin(values):.6g} ... {np.nanmax(values):.6g}"
    return shape, "text" if h5py.check_string_dtype(kind) else "bytes" if kind.kind == "O" else str(kind), ""


def _decoded(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.item() if isinstance(value, np.generic) else value


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value) and len(", ".join(value)) > LONG:
        return f"{', '.join(value[:3])}, ... ({len(value)})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


PRINTERS = {".pt": print_checkpoint, ".safetensors": print_safetensors, ".onnx": print_onnx, ".h5": print_hdf5,
            ".hdf5": print_hdf5}


def main(options: argparse.Namespace) -> None:
    """Prints what was asked for."""
    if options.what in ("network", "recipe"):
        from deconvnet.recipe_files import load_recipe

        recipe = load_recipe(options.recipe or "paper", options.set)
        (print_network if options.what == "network" else print_recipe)(recipe)
        return
    path = Path(options.what)
    if options.recipe or options.set:
        raise UsageError(f"{path}: a file has its own recipe; --recipe and --set are for network and recipe")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {what}; expected network, recipe, or a file ({', '.join(PRINTERS)})")
    if path.suffix not in PRINTERS:
        raise UsageError(f"{path}: expected a file of this project: {', '.join(PRINTERS)}")
    PRINTERS[path.suffix](path)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.inspect",
                         "Shows the network as the paper's Table 2, a recipe with its origins, or what a file holds.",
                         "python -m stages.inspect network --recipe paper\n"
                         "  python -m stages.inspect runs/default/stage2/last.pt")
    parser.add_argument("what", metavar="network|recipe|FILE",
                        help="network: Table 2; recipe: every key; FILE: a checkpoint, safetensors or HDF5 file")
    parser.add_argument("--recipe", metavar="NAME", help="a recipe's name or YAML file (default: paper)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="change a recipe key; may repeat")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
