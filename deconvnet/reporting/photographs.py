"""The report of photographs: each with its labels over it, and what they show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deconvnet.data.photographs import read_photograph
from deconvnet.reporting.gallery import Gallery, entry
from deconvnet.reporting.page import write_page
from deconvnet.reporting.pictures import read_labels

SIDE = 480  # px of a picture's longer side
MOST = 300  # photographs of a report: of more, the file would be slow to open


def write_report(folder: Path, files: Mapping[str, Path], images: Mapping[str, dict[str, Any]],
                 class_names: Sequence[str], facts: Mapping[str, str], left_out: Mapping[str, str]) -> Path:
    """Writes FOLDER/report.html, completely or not at all; its path.

    folder: of the label maps, NAME.png. files: photographs by name. images: what labels.json has of the first MOST,
    by name. facts: how they were labelled, heading -> text. left_out: why files were not, by path. Raises UserError for
    a file that cannot be read.
    """
    gallery = Gallery("Every photograph", list(class_names), ["labels"], 0, [], "shows")
    for name, path in list(files.items())[:MOST]:
        image = read_photograph(path, str(path), SIDE).image
        known = images[name]
        shows = {one["index"]: one["share"] for one in known["classes"].values()}
        made = entry(name, image, [read_labels(folder / f"{name}.png")], shows, SIDE)
        made.notes = list(known["conversions"])
        gallery.entries.append(made)
    write_page(folder / "report.html", "photographs.html", gallery, facts=facts, left_out=left_out, count=len(files))
    return folder / "report.html"
