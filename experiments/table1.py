"""The rows of the table, the paper's and other networks': where a run keeps them, and how they are made."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deconvnet.conventions import VOC_CLASSES
from deconvnet.models.registry import NETWORKS, partner_name
from deconvnet.recipe import Recipe
from deconvnet.schemas import Metrics, read_json
from deconvnet.support.errors import UsageError, UserError

PAPER_TABLE = Path(__file__).parent / "table1_voc2012_test.csv"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    title: as in the paper. paper: its name in the CSV file, or None. folder: under RUN/predictions/SPLIT. infer: its
    options.
    """

    title: str
    paper: str | None
    folder: str
    infer: tuple[str, ...]


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


def table_rows(aggregate: str, recipe: Recipe | None = None) -> list[Row]:
    """FCN-8s, DeconvNet, DeconvNet+CRF, EDeconvNet, EDeconvNet+CRF; then the networks that the paper does not have.

    aggregate: max, sum or mean. recipe: the run's (default: the paper's), which says whether a network sees windows.
    """
    recipe = recipe or Recipe()
    main, partner = NETWORKS["deconvnet"], NETWORKS["fcn8s"]
    its_name = partner_name(partner.name)
    others = [spec for spec in NETWORKS.values() if spec.in_table and not spec.paper]
    plain = main.scores_name(recipe, aggregate)
    own = ("--aggregate", aggregate, "--ensemble", "none")
    both = ("--aggregate", aggregate, "--ensemble", its_name)
    title = main.paper
    assert title is not None  # the paper's own network
    return [
        Row(partner.title, partner.paper, partner.name, ("--model", partner.name)),
        Row(title, title, plain, own),
        Row(f"{title}+CRF", f"{title}+CRF", f"{plain}-crf", (*own, "--crf")),
        Row(f"E{title}", f"E{title}", f"{plain}-{its_name}", both),
        Row(f"E{title}+CRF", f"E{title}+CRF", f"{plain}-{its_name}-crf", (*both, "--crf")),
        *(Row(spec.title, None, spec.scores_name(recipe, aggregate), ("--model", spec.name, "--aggregate", aggregate))
          for spec in others),
    ]


def paper_rows(aggregate: str) -> list[Row]:
    """Those of the paper's Table 1."""
    return [row for row in table_rows(aggregate) if row.paper]


def infer_command(row: Row, run: Path, split: str) -> list[str]:
    """The arguments of python that predict a row."""
    return ["-m", "stages.infer", "--run", str(run), *row.infer, "--split", split]


def evaluate_command(row: Row, run: Path, split: str, voc_root: Path) -> list[str]:
    """The arguments of python that score a row's predictions."""
    return ["-m", "stages.evaluate", "--predictions", str(run / "predictions" / split / row.folder),
            "--voc-root", str(voc_root), "--split", split]


def paper_table() -> dict[str, dict[str, float]]:
    """The paper's numbers, percent on the VOC 2012 test server: method -> class -> IoU, and 'mean'."""
    with PAPER_TABLE.open(newline="") as file:
        return {line["method"]: {name: float(line[name]) for name in VOC_CLASSES} | {"mean": float(line["mean_iou"])}
                for line in csv.DictReader(file)}


def class_mean(iou: Mapping[str, float | None], names: list[str]) -> float | None:
    """Mean IoU over those of `names` that have one, as deconvnet/evaluation/metrics.py; None where none has."""
    values = [value for name in names if (value := iou[name]) is not None]
    return sum(values) / len(values) if values else None


def read_result(row: Row, run: Path, split: str, voc_root: Path, classes: list[str]) -> Result:
    """A row from its metrics.json; with the command that makes it where there is none. Raises UserError."""
    folder = run / "predictions" / split / row.folder
    path = folder / "metrics.json"
    if not path.is_file():
        commands = [evaluate_command(row, run, split, voc_root)]
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
