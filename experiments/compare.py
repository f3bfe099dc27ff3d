"""Runs beside each other: recipes, curves, rows with paired bootstrap intervals, and the images that changed most."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.support.atomic import write_json, write_text
from deconvnet.support.errors import UsageError
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from experiments.comparison import Compared

MOST_RESAMPLES = 1_000_000


def compare(runs: "Sequence[Compared]", options: argparse.Namespace) -> dict[str, Any]:
    """All that is found, for the JSON file. Raises UsageError for runs that cannot be compared."""
    from deconvnet.run_folder import provenance
    from experiments.comparison import common_split, compared_row, recipe_table

    split = common_split(runs, options.split)
    titles = list(dict.fromkeys(row.title for run in runs for row in run.rows()))
    rows = [compared_row(runs, title, split, options.resamples, options.seed) for title in titles]
    found = [row for row in rows if row]
    if not found:
        raise UsageError(f"{options.runs[0]}: no row of the table was predicted on {split!r} by it and by another of "
                         f"the runs; `python -m stages.infer --run {options.runs[0]} --split {split}` predicts one")
    return {
        "split": split, "images": len(runs[0].voc.image_ids(split)), "classes": runs[0].voc.classes,
        "interval": {"level": 0.95, "method": "paired percentile bootstrap over images", "resamples": options.resamples,
                     "seed": options.seed},
        "runs": [{"name": run.name, "folder": str(run.folder), "recipe": run.record.recipe.name,
                  "seed": run.record.recipe.seed, "commit": run.record.made_with.commit} for run in runs],
        "recipe": recipe_table(runs), "rows": found, "compared_with": provenance(),
    }


def to_markdown(found: dict[str, Any], images: int) -> str:
    """The same as a report. images: how many of those that changed most are named."""
    from experiments.table1 import percent

    names = [run["name"] for run in found["runs"]]
    text = ["# Runs compared", "", f"{found['images']} images of {found['split']}; differences are from {names[0]}.",
            "", _table(["", "folder", "recipe", "seed", "commit"],
                   [[run[key] for key in ("name", "folder", "recipe", "seed", "commit")] for run in found["runs"]])]
    text += ["", "## What differs in the recipes", ""]
    text.append(_table(["", *names], [[key, *map(str, values)] for key, values in found["recipe"].items()])
                if found["recipe"] else "Nothing.")
    text += ["", "## Rows, percent", "", _rows(found["rows"]), "", _about_interval(found["interval"])]
    for row in found["rows"]:
        if row["settings"]:
            text += ["", f"{row['row']} was made otherwise than the recipes say (--set of stages.infer):", "",
                     _table(["", *names], [[key, *map(str, values)] for key, values in row["settings"].items()])]
    text += ["", "## The images that changed most", "", "Mean IoU of the image by itself, in percent.", ""]
    text.append(_table(["row", "run", "image", "before", "after", "difference"], [
        [row["row"], line["run"], one["id"], percent(one["before"]), percent(one["after"]),
         percent(one["difference"], "+")]
        for row in found["rows"] for line in row["runs"] for one in line.get("changed", [])[:images]]))
    return "\n".join(text) + "\n"


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    from experiments.table1 import percent

    lines = []
    for row in rows:
        for line in row["runs"]:
            cells = [row["row"], line["run"], percent(line["mean_iou"]), percent(line.get("pixel_accuracy"))]
            if "difference" in line:
                cells += [percent(line["difference"], "+"),
                          f"{percent(line['low'], '+')} to {percent(line['high'], '+')}"]
            lines.append(cells + [""] * (6 - len(cells)))
    return _table(["", "run", "mean IoU", "pixel accuracy", "difference", "95 % interval"], lines)


def _about_interval(interval: dict[str, Any]) -> str:
    return (f"The interval of the difference of mean IoU is that of {interval['resamples']:,} paired bootstrap draws "
            f"of the images (seed {interval['seed']}): how far other images like these might move it. Another training "
            "with another seed moves it too, which one run cannot tell.")


def _table(header: list[str], rows: list[list[Any]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def main(options: argparse.Namespace) -> None:
    """Compares, prints, writes."""
    from experiments.comparison import open_runs

    _check(options)
    runs = open_runs(options.runs, options.voc_root)
    found = compare(runs, options)
    text = to_markdown(found, options.images)
    write_text(options.to / "comparison.md", text)
    write_json(options.to / "comparison.json", found)
    drawn = _curves(runs, options.to)
    print(text)
    print(f"wrote {options.to}: {', '.join(['comparison.md', 'comparison.json', *(path.name for path in drawn)])}")


def _check(options: argparse.Namespace) -> None:
    if len(options.runs) < 2:
        raise UsageError(f"{options.runs[0]}: one run; expected two or more")
    if not 100 <= options.resamples <= MOST_RESAMPLES:
        raise UsageError(f"--resamples {options.resamples}: expected 100 to {MOST_RESAMPLES:,}")
    if options.images < 0:
        raise UsageError(f"--images {options.images}: expected 0 or more")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: expected 0 or more")


def _curves(runs: "Sequence[Compared]", to: Path) -> list[Path]:
    from experiments.comparison_curves import draw_curves

    return draw_curves(runs, to / "curves.png")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "experiments.compare",
        "Runs beside each other: what differs in their recipes, their training curves over each other, the rows of\n"
        "the table with the difference from the first run and a paired bootstrap interval over images, and the images\n"
        "that changed most. Prints it, and writes comparison.md, comparison.json, curves.png and curves.svg.",
        "python -m experiments.compare runs/voc runs/fixed --to runs/fixed/against-voc")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+",
                        help="run folders, two or more, of the same images and classes; the others are compared with "
                             "the first")
    parser.add_argument("--to", type=Path, metavar="FOLDER", default=Path("runs/comparison"),
                        help="where to write (default: %(default)s)")
    parser.add_argument("--split", help="split that was predicted (default: the recipes' validation split)")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: each run's own)")
    parser.add_argument("--images", type=int, default=5, metavar="N",
                        help="how many images that changed most are named for each row (default: 5; the JSON file has "
                             "all)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap draws (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
