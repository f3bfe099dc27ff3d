"""The paper's Table 1 beside a run: prints it and writes it as Markdown, CSV and JSON."""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.conventions import VOC_CLASSES
from deconvnet.support.atomic import write_json, write_text
from experiments.arguments import add_table_arguments
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from experiments.table1 import Result


def to_markdown(run: dict[str, str], results: "list[Result]", lines: list[dict[str, Any]], classes: list[str],
                subset: list[str]) -> str:
    """The report: what this run is, means, every class, what is missing."""
    from experiments.paper_comparison import DIFFERENT_TASKS, HOW_DIFFERENT, PAPER

    by_cell = {(line["row"], line["class"]): line for line in lines}
    with_paper = classes == VOC_CLASSES
    text = ["# Table 1: the paper and this run", "", "## What this run used", ""]
    text += [f"- {name}: {value}" for name, value in run.items()]
    scored = [result for result in results if result.iou]
    text += ["", "## Mean IoU, percent", ""]
    if with_paper and any(not result.from_server for result in results):
        but = [result.row.title for result in results if result.from_server]
        text += [f"**{DIFFERENT_TASKS}**: {HOW_DIFFERENT}"
                 + (f" (Not so {', '.join(but)}: from the VOC 2012 test server.)" if but else ""), ""]
    if not with_paper:
        text += ["The classes are not VOC's 21, so the paper has no numbers to compare with.", ""]

    columns = ["mean"] + (["subset mean"] if subset else [])
    header = ["", "this run on"]
    for column in columns:
        of = "" if column == "mean" else f"mean of {len(subset)}: "
        header += [f"{of}{PAPER}", "this run", "difference"] if with_paper else [f"{of}this run"]
    table = []
    for result in results:
        images = f", {result.images} images" if result.images else ""
        cells = [result.row.title, f"{result.source}{images}" if result.iou else "not run"]
        for column in columns:
            cells += _cells(by_cell[result.row.title, column], with_paper)
        table.append([*cells, _number(result.pixel_accuracy)])
    text.append(_table([*header, "pixel accuracy: this run"], table))
    if scored and scored[0].background_only is not None:
        text += ["", f"Label maps of nothing but {classes[0]} would have a mean of {scored[0].background_only:.1f} "
                     "here."]
    if subset:
        text += ["", f"Mean of {len(subset)}: {', '.join(subset)}."]
    absent = [name for name in classes if any(result.iou and result.iou[name] is None for result in scored)]
    if absent:
        text += ["", "Left out of this run's mean, since truth and prediction lack them (in one row at least): "
                     f"{', '.join(absent)}."]

    text += ["", "## IoU of each class, percent", ""]
    if with_paper:
        text += [f"In each cell: {PAPER}, this run, difference.", ""]
    table = []
    for name in [*classes, *columns]:
        table.append([name, *(" ".join(_cells(by_cell[result.row.title, name], with_paper)) for result in results)])
    text.append(_table(["class", *(result.row.title for result in results)], table))
    missing = [result for result in results if not result.iou]
    if missing:
        text += ["", "## Not run", "", *(f"- {result.row.title}: `{result.command}`" for result in missing)]
    return "\n".join(text) + "\n"


def _cells(line: dict[str, Any], with_paper: bool) -> list[str]:
    own = _number(line["this_run"])
    return [_number(line["paper_voc2012_test"]), own, _number(line["difference"], "+")] if with_paper else [own]


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True,
                    colalign=("left", *["right"] * (len(header) - 1)))


def to_csv(lines: list[dict[str, Any]]) -> str:
    """A line for each row and class; empty where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def main(options: argparse.Namespace) -> None:
    """Reads, compares, prints, writes."""
    from experiments.paper_comparison import read_comparison

    compared = read_comparison(options)
    results, classes, lines = compared.results, compared.classes, compared.lines
    text = to_markdown(compared.description, results, lines, classes, compared.subset)
    out = options.out or options.run / "report"
    write_text(out / "table1.md", text)
    write_text(out / "table1.csv", to_csv(lines))
    write_json(out / "table1.json", {
        "run": compared.description, "split": compared.split, "aggregate": options.aggregate, "subset": compared.subset,
        "different_tasks": [result.row.title for result in results if not result.from_server] if compared.with_paper
        else None,
        "images": {result.row.title: result.images for result in results},
        "pixel_accuracy": {result.row.title: result.pixel_accuracy for result in results},
        "background_only": compared.background_only,
        "not_run": {result.row.title: result.command for result in results if not result.iou}, "table": lines,
    })
    print(text)
    print(f"wrote {out / 'table1.md'}, table1.csv, table1.json")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.reproduce", __doc__.splitlines()[0],
                         "python -m experiments.reproduce runs/voc --subset-classes cat,dog")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split)")
    add_table_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: RUN/report)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
