"""log.csv, a training's log: its columns, and what of a file that may be damaged can be read."""

import math
from pathlib import Path

from deconvnet.support.errors import UserError

COLUMNS = ("iteration", "rate", "loss", "pixel_accuracy", "validation_loss", "validation_accuracy",
           "validation_mean_iou", "images_per_second")
ALWAYS = 3  # of them are in every line, the first ones
MOST_BYTES = 1 << 26


def read_log(path: Path) -> tuple[list[dict[str, str]], list[int]]:
    """The whole lines, as text by column, and the numbers of the damaged ones.

    A last line without its end, which a kill leaves, is neither. Raises UserError for a file that is no log at all.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; expected a training's log: remove it")
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    if texts and texts[0].rstrip("\r") != ",".join(COLUMNS):
        raise UserError(f"{path}: not a training's log; expected the columns that stages.train writes: remove it")
    lines, damaged = [], []
    for number, text in enumerate(texts[1:], start=2):
        cells = text.rstrip("\r").split(",")
        if _whole(cells):
            lines.append(dict(zip(COLUMNS, cells, strict=True)))
        else:
            damaged.append(number)
    return lines, damaged


def _whole(cells: list[str]) -> bool:
    if len(cells) != len(COLUMNS) or not (cells[0].isascii() and cells[0].isdecimal() and len(cells[0]) < 19):
        return False
    try:
        return not any(math.isnan(float(cell)) for cell in cells if cell) and all(cells[:ALWAYS])
    except ValueError:
        return False
