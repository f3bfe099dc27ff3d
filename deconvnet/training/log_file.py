"""log.csv, a training's log: its columns, and what of a file that may be damaged can be read."""

import csv
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)

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


LOG_EVERY = 20  # iterations between lines of log.csv


@dataclass
class Running:
    """Means since the last line of the log; the time is that of the iterations, without validations and savings."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    rate: float = 0.0  # of the last iteration
    images: int = 0
    seconds: float = 0.0

    def add(self, loss: float, accuracy: float, rate: float, images: int, seconds: float) -> None:
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        self.rate = rate
        self.images += images
        self.seconds += seconds

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def speed(self) -> float:
        return self.images / self.seconds

    def in_short(self) -> dict[str, str]:
        """For the progress bar."""
        return {"loss": f"{self.loss:.3f}", "acc": f"{self.accuracy:.3f}", "img_s": f"{self.speed:.0f}"}


class LogFile:
    """log.csv; when a training goes on at an iteration, the lines behind it are dropped first."""

    def __init__(self, path: Path, iteration: int) -> None:
        kept = []
        if path.is_file() and iteration:
            try:
                lines, damaged = read_log(path)
            except UserError as error:
                lines, damaged = [], []
                log.warning("%s; starts over", error)
            if damaged:
                log.warning("%s: damaged: %d lines are skipped, line %d first", path, len(damaged), damaged[0])
            kept = [line for line in lines if int(line["iteration"]) <= iteration]
        self.path = path
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, line: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(line)
