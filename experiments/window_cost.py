"""`python -m experiments.window_cost`: what windows cost, cut while training or kept in a file; ratios and full size.

Both ways give the same pixels. Measured on one core with the paper's recipe (250 x 250) on a split of the data set, and
extrapolated to VOC 2012 with SBD.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deconvnet.support.atomic import write_json
from stages.cli import make_parser, run_command

IMAGES = 12031  # VOC 2012 train and val with SBD's labels, the paper's training images
SAMPLE = 400  # windows read each way


def measure(voc_root: Path, split: str, folder: Path) -> dict[str, float]:
    """Seconds and bytes of a stage 2 window, both ways, and of an image's proposals."""
    from deconvnet.data.examples import WindowCrops
    from deconvnet.data.row_files import read_rows
    from deconvnet.recipe_files import load_recipe
    from deconvnet.run_folder import RunFolder
    from proposals.build import build_proposals, build_windows

    recipe = load_recipe("paper")
    found: dict[str, float] = {}
    for way, materialize in (("cut", False), ("kept", True)):
        run = RunFolder(folder / way, recipe, voc_root)
        started = time.perf_counter()
        build_proposals(run, split, None, 0, "stop")
        proposed = time.perf_counter()
        build_windows(run, split, 2, materialize, 0, "stop")
        path = run.windows(2, split)
        rows = read_rows(path, "windows")
        crops = WindowCrops(rows, None if materialize else run.voc(), recipe, True, (0,))
        chosen = np.random.default_rng(0).permutation(len(crops))[:SAMPLE]
        if way == "cut":
            found["seconds_proposals_per_image"] = (proposed - started) / len(rows.image_ids)
            found["windows_per_image"] = len(crops) / len(rows.image_ids)
        found[f"seconds_building_per_window_{way}"] = (time.perf_counter() - proposed) / len(crops)
        started = time.perf_counter()
        for position, row in enumerate(chosen):
            crops[position, int(row)]
        found[f"seconds_reading_per_window_{way}"] = (time.perf_counter() - started) / len(chosen)
        found[f"bytes_per_window_{way}"] = path.stat().st_size / len(crops)
    return found


def main(options: argparse.Namespace) -> None:
    """Measures, prints, records."""
    import cv2

    from deconvnet.run_folder import provenance

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.voc_root, options.split, Path(folder))
    windows = found["windows_per_image"] * IMAGES
    proposing = found["seconds_proposals_per_image"]
    print(f"{found['windows_per_image']:.1f} windows per image: {windows / 1e3:.0f} thousand for {IMAGES} images")
    print(f"proposals: {proposing:.2f} s per image, {proposing * IMAGES / 3600:.1f} core hours in all")
    for way in ("cut", "kept"):
        size, read = found[f"bytes_per_window_{way}"], found[f"seconds_reading_per_window_{way}"]
        print(f"{way:5} {size:9.0f} bytes per window, {size * windows / 1e9:7.2f} GB in all; "
              f"read in {1e3 * read:5.2f} ms, {1 / read:5.0f} per second and core")
    ratio = found["seconds_reading_per_window_cut"] / found["seconds_reading_per_window_kept"]
    print(f"cutting while training takes {ratio:.1f} times as long as reading a kept crop")
    if options.out:
        command = f"python -m experiments.window_cost --voc-root {options.voc_root} --split {options.split}"
        write_json(options.out, {"command": command, **provenance(), "seed": 0, **found})


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.window_cost", "Measures what windows cost, cut while training or kept in a file.",
                         "python -m experiments.window_cost --voc-root data/VOCdevkit --split val")
    parser.add_argument("--voc-root", type=Path, required=True, help="VOC-layout folder")
    parser.add_argument("--split", default="val", help="list in ImageSets/Segmentation (default: val)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
