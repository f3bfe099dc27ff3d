"""The paper's Table 1, and what a run or the VOC server's file has for its rows."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deconvnet.conventions import VOC_CLASSES
from deconvnet.evaluation.rows import Row, evaluate_command, infer_command
from deconvnet.schemas import Metrics, read_json
from deconvnet.support.errors import UsageError, UserError

PAPER_TABLE = Path(__file__).parent / "table1_voc2012_test.csv"


@dataclass
class Result:
    """What a run reached in a row. Numbers are percent; an IoU is None for a class absent from truth and prediction.

    source: the split, or the server's file; command: what makes the row, where iou is None. background_only: the mean
    IoU of label maps of nothing but background.
    """

    row: Row
    source: str = ""
    iou: dict[str, float | None] | None = None
    images: int | None = None
    pixel_accuracy: float | None = None
    background_only: float | None = None
    from_server: bool = False
    command: str = ""


def paper_table() -> dict[str, dict[str, float]]:
    """The paper's numbers, percent on the VOC 2012 test server: method -> class -> IoU, and 'mean'."""
    with PAPER_TABLE.open(newline="") as file:
        return {line["method"]: {name: float(line[name]) for name in VOC_CLASSES} | {"mean": float(line["mean_iou"])}
                for line in csv.DictReader(file)}


def class_mean(iou: Mapping[str, float | None], names: list[str]) -> float | None:
    """Mean IoU over those of `names` that have one, as deconvnet/evaluation/metrics.py; None where none has."""
    values = [value for name in names if (value := iou[name]) is not None]
    return sum(values) / len(values) if values else None


def percent(value: float | None, sign: str = "") -> str:
    """A fraction as a percentage; "-" for none and NaN. sign: "+" for one before positive numbers, too."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:{sign}.1f}"


def read_result(row: Row, run: Path, split: str, classes: list[str]) -> Result:
    """A row from its metrics.json; with the command that makes it where there is none. Raises UserError."""
    folder = run / "predictions" / split / row.folder
    path = folder / "metrics.json"
    if not path.is_file():
        commands = [evaluate_command(row, run, split)]
        if not folder.is_dir():
            commands.insert(0, infer_command(row, run, split))
        return Result(row, command=" && ".join(f"python {' '.join(command)}" for command in commands))
    metrics = read_json(path, Metrics, "run stages.evaluate again for this row")
    found = metrics.class_iou
    result = Result(row, metrics.split, {name: _percent(value) for name, value in found.items()}, metrics.images,
                    _percent(metrics.pixel_accuracy), _background_only([sum(counts) for counts in metrics.confusion]))
    if list(found) != classes:
        raise UserError(f"{path}: scored with the classes {', '.join(found)}; the run's recipe has "
                        f"{', '.join(classes)}; run stages.evaluate again")
    if result.source != split:
        raise UserError(f"{path}: scored on split {result.source!r}, expected {split!r}: run stages.evaluate again")
    return result


def read_server_result(row: Row, path: Path) -> Result:
    """A row from a file of the VOC server's results: CSV, header class,iou, percent, all 21 classes."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected the VOC server's results, CSV with the header class,iou")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        found = {line["class"].strip(): float(line["iou"]) for line in lines}
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error):
        raise UserError(f"{path}: expected CSV with the header class,iou and a percentage per class") from None
    wrong = sorted(set(VOC_CLASSES) ^ set(found))
    if wrong or len(lines) != len(found):
        raise UserError(f"{path}: expected one line for each of VOC's 21 classes; "
                        f"{f'look at {wrong[0]!r}' if wrong else 'some are there twice'}")
    outside = [name for name, value in found.items() if not 0 <= value <= 100]
    if outside:
        raise UserError(f"{path}: {outside[0]} has {found[outside[0]]}; expected percent, 0 to 100")
    return Result(row, "VOC 2012 test server", {name: found[name] for name in VOC_CLASSES}, from_server=True)


def _background_only(pixels: list[int]) -> float | None:
    """pixels: of each class, in the truth. Background's IoU is then its share, that of other classes in it is 0."""
    return 100 * pixels[0] / sum(pixels) / sum(count > 0 for count in pixels) if pixels[0] else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
