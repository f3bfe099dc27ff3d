"""A run as one HTML file: table, what it used, figures, and every image with its label maps, to look through.

It needs no server and no network: open it in a browser.
"""

import argparse
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.recipe import recipe_to_dict
from deconvnet.support.errors import UsageError
from experiments.arguments import add_table_arguments
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from experiments.paper_comparison import Comparison

log = logging.getLogger(__name__)

SIDE = 320  # px of a picture's longer side, so that 350 images stay far below MOST_BYTES
LEAST_SIDE, MOST_SIDE = 32, 4096
MOST_BYTES = 30_000_000  # of a page that opens at once and can be sent about


def main(options: argparse.Namespace) -> None:
    """Reads the run, writes the page."""
    from deconvnet.data.dataset import DATA_SETS
    from deconvnet.reporting.page import write_page
    from experiments.gallery import read_gallery
    from experiments.paper_comparison import read_comparison

    if not LEAST_SIDE <= options.side <= MOST_SIDE:
        raise UsageError(f"--side {options.side}: expected {LEAST_SIDE} to {MOST_SIDE} pixels")
    compared = read_comparison(options)
    record = compared.record
    root = options.voc_root or record.voc_root
    if root is None:
        raise UsageError(f"{options.run}: does not say where its images are; give --voc-root")
    voc = DATA_SETS[record.recipe.data.format](root, compared.classes)
    report = options.run / "report"
    out = options.out or report / "report.html"
    if out.suffix != ".html":
        raise UsageError(f"--out {out}: expected a file name that ends in .html")
    facts = {heading.replace("**", ""): text for heading, text in compared.description.items()}
    gallery = read_gallery(options.run, compared, voc, options.side)
    write_page(out, "run.html", gallery, name=options.run.resolve().name, facts=facts, table=table(compared),
               times=step_times(options.run), recipe=recipe_to_dict(record.recipe), figures=figures(report))
    size = out.stat().st_size
    if size > MOST_BYTES:
        log.warning("%s: %d MB; --side makes the pictures smaller", out, size / 1e6)
    print(f"wrote {out}: {len(gallery.entries)} images, {size / 1e6:.1f} MB; open it in a browser")


def table(compared: "Comparison") -> dict[str, Any]:
    """Table 1 as run.html shows it."""
    from experiments.paper_comparison import PAPER

    by_cell = {(line["row"], line["class"]): line for line in compared.lines}
    groups = {"mean": ""} | ({"subset mean": f"mean of {len(compared.subset)}: "} if compared.subset else {})
    kinds = {PAPER: ("paper_voc2012_test", ""), "this run": ("this_run", ""), "difference": ("difference", "+")}
    if not compared.with_paper:
        kinds = {"this run": kinds["this run"]}
    rows = []
    for result in compared.results:
        lines = [by_cell[result.row.title, group] for group in groups]
        cells = [{"text": _number(line[key], sign), "own": key == "this_run"}
                 for line in lines for key, sign in kinds.values()]
        images = f", {result.images} images" if result.images else ""
        rows.append({"title": result.row.title, "on": f"{result.source}{images}" if result.iou else "not run",
                     "mean": lines[0]["this_run"],
                     "cells": [*cells, {"text": _number(result.pixel_accuracy), "own": False}]})
    classes = [{"name": name, "cells": [_number(by_cell[result.row.title, name]["this_run"])
                                        for result in compared.results]} for name in compared.classes]
    return {"headings": [*(of + kind for of in groups.values() for kind in kinds), "pixel accuracy: this run"],
            "rows": rows, "classes": classes, "notes": _notes(compared), **_warning(compared)}


def _warning(compared: "Comparison") -> dict[str, str]:
    """What task the numbers are of: said where they stand."""
    from experiments.paper_comparison import DIFFERENT_TASKS, HOW_DIFFERENT

    if not compared.with_paper:
        return {"warning": "", "why": "The classes are not VOC's 21, so the paper has no numbers to compare with."}
    server = [result.row.title for result in compared.results if result.from_server]
    if len(server) == len(compared.results):
        return {"warning": "", "why": "Both columns are results of the VOC 2012 test server."}
    but = f" (Not so {', '.join(server)}: from the VOC 2012 test server.)" if server else ""
    return {"warning": DIFFERENT_TASKS, "why": HOW_DIFFERENT + but}


def _notes(compared: "Comparison") -> list[str]:
    notes = []
    if compared.background_only is not None:
        notes.append(f"Label maps of nothing but {compared.classes[0]} would have a mean of "
                     f"{compared.background_only:.1f} here.")
    if compared.subset:
        notes.append(f"Mean of {len(compared.subset)}: {', '.join(compared.subset)}.")
    notes += [f"{result.row.title} is not run: {result.command}" for result in compared.results if not result.iou]
    return notes


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.1f}"


def step_times(run: Path) -> list[tuple[str, str]]:
    """The steps of stages.run that were timed, and the time that each took."""
    from deconvnet.schemas import StepsRecord, read_json

    path = run / "steps.json"
    known = read_json(path, StepsRecord).steps if path.is_file() else {}
    return [(command, str(timedelta(seconds=round(step.seconds)))) for command, step in known.items()
            if step.seconds is not None]


def figures(report: Path) -> list[dict[str, str]]:
    """Title, caption and data URI of what experiments.figures has drawn, a PNG or an SVG, whichever is smaller.

    Without a list of them: the sheet. Raises UserError for a damaged list.
    """
    from deconvnet.reporting.pictures import file_uri
    from experiments.records import listed_figures

    folder, found = report / "figures", []
    for one in listed_figures(folder / "figures.json"):
        files = [folder / name for name in (one.png, one.svg) if name and (folder / name).is_file()]
        if files:
            uri = file_uri(min(files, key=lambda path: path.stat().st_size))
            found.append({"title": one.title, "caption": one.caption, "uri": uri})
    sheet = report / "sheet.png"
    if not found and sheet.is_file():
        found.append({"title": "Images, truth and label maps, evenly spaced in the split's list", "caption": "",
                      "uri": file_uri(sheet)})
    return found


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.report", __doc__.strip(), "python -m experiments.report runs/voc")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: the run's own)")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split)")
    add_table_arguments(parser)
    parser.add_argument("--side", type=int, metavar="PIXELS", default=SIDE,
                        help=f"longer side of the gallery's pictures (default: {SIDE})")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="default: RUN/report/report.html")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
