"""Pictures of a run: the paper's figures, the curves of its trainings, a sheet of segmentations beside the truth."""

import argparse
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.recipe_limits import short
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UsageError, UserError
from deconvnet.support.progress import progress
from experiments.pictures import FIGURES, Drawn
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from experiments.pictures.shown import ShownRun

log = logging.getLogger(__name__)

SHEET = "sheet"  # a PNG beside the table, as `python -m experiments.reproduce` places that
MOST_ROWS = 200  # images in the sheet
MOST_CURVE_IMAGES = 100_000


def main(options: argparse.Namespace) -> None:
    """The sheet, and the figures with their list."""
    from experiments.pictures.shown import ShownRun
    from experiments.records import read_run

    record = read_run(options.run)
    run = record.folder
    run.voc_root = options.voc_root or record.voc_root
    if run.voc_root is None:
        raise UsageError(f"{options.run}: does not say where its images are; give --voc-root")
    shown = ShownRun(run, options.split, options.aggregate, options.image, options.classes, options.curve_images)
    out = options.out or options.run / "report" / "sheet.png"
    if out.suffix != ".png":
        raise UsageError(f"--out {out}: expected a file name that ends in .png")
    _check_names(options, shown.image_ids, run.recipe.data.classes)
    images = chosen_images(options.images, shown.image_ids)
    wanted = options.only or [SHEET, *FIGURES]
    if SHEET in wanted:
        draw_sheet(shown, images, out)
    names = [name for name in FIGURES if name in wanted]
    if names:
        draw_figures(shown, names, options.to or options.run / "report" / "figures", bool(options.only), options.png)


def _check_names(options: argparse.Namespace, image_ids: list[str], classes: list[str]) -> None:
    """Raises UsageError for an image or class that is not there."""
    if options.image and options.image not in image_ids:
        raise UsageError(f"--image {short(options.image)}: not in the split; expected one of its {len(image_ids)} ids")
    unknown = [name for name in options.classes if name not in classes]
    if unknown:
        raise UsageError(f"--classes: {short(unknown[0])} is not in the class list; expected some of "
                         f"{', '.join(classes)}")
    if not 1 <= options.curve_images <= MOST_CURVE_IMAGES:
        raise UsageError(f"--curve-images {options.curve_images}: expected 1 to {MOST_CURVE_IMAGES}")


def draw_sheet(shown: "ShownRun", image_ids: list[str], path: Path) -> None:
    """Writes the sheet of these images."""
    from experiments.pictures.sheet import read_sheet, sheet
    from experiments.pictures.style import save, styled

    with styled():
        save(sheet(read_sheet(shown, image_ids), shown.classes), path)
    print(f"wrote {path}: {len(image_ids)} of {len(shown.image_ids)} images of {shown.split}")


def draw_figures(shown: "ShownRun", names: list[str], folder: Path, all_needed: bool, png_only: bool) -> None:
    """Writes NAME.png, NAME.svg and NAME.json of each figure into a folder, and the list of them, figures.json.

    A figure whose inputs are not there is left out, with a line in the log; where all_needed, that is an error. What
    an earlier call listed of other figures stays in the list. png_only: neither SVG nor JSON nor list.
    """
    from experiments.pictures.shown import NotThere
    from experiments.pictures.style import save, styled

    index, done = _read_index(folder / "figures.json"), 0
    for name in progress(names, desc="figures", unit="figure", disable=None):
        try:
            with styled():
                drawn: Drawn = import_module(f"experiments.pictures.{name}").draw(shown)
        except NotThere as error:
            if all_needed:
                raise
            index.pop(name, None)
            log.info("figure %s is left out: %s", name, error)
            continue
        done += 1
        if png_only:
            save(drawn.figure, folder / f"{name}.png")
        else:
            index[name] = write_figure(name, drawn, folder)
    if not png_only:
        write_json(folder / "figures.json", [index[name] for name in FIGURES if name in index])
    print(f"wrote {folder}: {done} of {len(names)} figures{'' if png_only else '; figures.json lists them'}")


def write_figure(name: str, drawn: Drawn, folder: Path) -> dict[str, str]:
    """Writes a figure's files; returns its entry in the list."""
    from experiments.pictures.style import save

    for kind in ("png", "svg"):
        save(drawn.figure, folder / f"{name}.{kind}")
    about = {"name": name, "title": drawn.title, "caption": drawn.caption}
    write_json(folder / f"{name}.json", {**about, "numbers": drawn.numbers})
    return {**about, "png": f"{name}.png", "svg": f"{name}.svg"}


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    """The list of an earlier call, by name; a damaged one is made anew."""
    from experiments.records import listed_figures

    try:
        entries = listed_figures(path)
    except UserError as error:
        log.warning("%s; made anew", error)
        entries = []
    return {one.name: one.model_dump() for one in entries if one.png and (path.parent / one.png).is_file()}


def chosen_images(text: str, known: list[str]) -> list[str]:
    """The ids that --images asks for, of those of the split. Raises UsageError."""
    from experiments.pictures.sheet import evenly_spaced

    if text.isdecimal() and text not in known:
        if len(text) > 9 or not 1 <= int(text) <= MOST_ROWS:
            raise UsageError(f"--images {short(text)}: expected 1 to {MOST_ROWS} images")
        return evenly_spaced(known, int(text))
    chosen, in_split = text.split(","), set(known)
    unknown = [image_id for image_id in chosen if image_id not in in_split]
    if unknown:
        raise UsageError(f"--images: {short(unknown[0])} is not in the split; expected a number or ids of the split")
    if len(chosen) > MOST_ROWS:
        raise UsageError(f"--images: {len(chosen)} ids; expected at most {MOST_ROWS}")
    return chosen


def figure_names(text: str) -> list[str]:
    """Names of figures from "comparison,training"."""
    names = text.split(",")
    unknown = [name for name in names if name not in (SHEET, *FIGURES)]
    if unknown:
        raise argparse.ArgumentTypeError(f"{short(unknown[0])}: expected some of {', '.join((SHEET, *FIGURES))}")
    return names


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.figures", __doc__.strip(), "python -m experiments.figures runs/voc --images 12")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--only", type=figure_names, default=[], metavar="NAME,NAME,...",
                        help=f"these alone, of {', '.join((SHEET, *FIGURES))} (default: all whose inputs are there)")
    parser.add_argument("--image", metavar="ID", help="for the figures of one image (default: each by its own rule)")
    parser.add_argument("--classes", type=lambda text: text.split(","), default=[], metavar="NAME,NAME,...",
                        help="of the probability maps (default: the four with most pixels in the split)")
    parser.add_argument("--curve-images", type=int, default=40, metavar="N",
                        help="how many images, evenly spaced, the curve of proposals is measured on (default: 40)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="of the figures (default: RUN/report/figures)")
    parser.add_argument("--png", action="store_true", help="for a page: the figures' PNGs alone, no SVG, JSON or list")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder (default: the run's own)")
    parser.add_argument("--split", help="split that was predicted (default: the recipe's validation split)")
    parser.add_argument("--aggregate", choices=("max", "sum", "mean"), default="max", help="default: max")
    parser.add_argument("--images", default="8", metavar="N|ID,ID,...",
                        help="of the sheet: how many, evenly spaced in the split's list, or their ids (default: 8)")
    parser.add_argument("--out", type=Path, metavar="FILE.png",
                        help="the sheet (default: RUN/report/sheet.png)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
