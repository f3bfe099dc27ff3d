"""Runs side by side: that they are comparable, what differs in their recipes, their rows with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deconvnet.data.contents import hash_file
from deconvnet.data.dataset import DATA_SETS, SegmentationDataset
from deconvnet.evaluation.metrics import ConfusionMatrix, or_none
from deconvnet.evaluation.paired import paired_difference
from deconvnet.evaluation.rows import Row, table_rows
from deconvnet.evaluation.scoring import check_predictions, confusions
from deconvnet.recipe import recipe_to_dict
from deconvnet.schemas import PredictionRecord, read_json
from deconvnet.support.errors import UsageError
from experiments.records import Record, read_run

UNLIKE = ("name",)  # a recipe key that differs without anything being done otherwise


@dataclass(frozen=True)
class Compared:
    """A run: its name in tables, its folder, what it tells of itself, and its data set."""

    name: str
    folder: Path
    record: Record
    voc: SegmentationDataset

    def row(self, title: str, split: str) -> Path | None:
        """The folder of a row's label maps; None where it was not predicted."""
        rows = {row.title: row for row in self.rows()}
        folder = self.folder / "predictions" / split / rows[title].folder if title in rows else None
        return folder if folder and folder.is_dir() else None

    def rows(self) -> list[Row]:
        """The rows of the table, aggregated as this run's recipe says."""
        return table_rows(self.record.recipe.infer.aggregate, self.record.recipe)


@dataclass
class RowScore:
    """A row of one run: each image's confusion matrix (int64, N x C x C), and the metrics of all, as fractions."""

    counts: np.ndarray
    mean_iou: float
    pixel_accuracy: float
    image_iou: np.ndarray  # float64 N; NaN for an image of void alone


def open_runs(folders: Sequence[Path], voc_root: Path | None) -> list[Compared]:
    """The runs. Raises UsageError for what is not a run folder, or does not say where its images are."""
    names = [folder.resolve().name for folder in folders]
    found = []
    for folder, name in zip(folders, names, strict=True):
        record = read_run(folder)
        root = voc_root or record.voc_root
        if root is None:
            raise UsageError(f"{folder}: does not say where its images are; give --voc-root")
        data = record.recipe.data
        found.append(Compared(name if names.count(name) == 1 else str(folder), folder, record,
                              DATA_SETS[data.format](root, data.classes)))
    return found


def common_split(runs: Sequence[Compared], split: str | None) -> str:
    """The split whose predictions are compared. Raises UsageError, unless all runs are of its same images and classes.
    """
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = first.record.recipe.data, run.record.recipe.data
        if theirs.classes != ours.classes:
            differs = sorted({*theirs.classes} ^ {*ours.classes})
            what = f"look at {differs[0]!r}" if differs else "they are in another order"
            raise UsageError(f"{run.folder}: its classes are not those of {first.folder} ({what}); only runs of the "
                             "same classes can be compared")
        if not split and theirs.val_split != ours.val_split:
            raise UsageError(f"{run.folder}: validates on {theirs.val_split!r}, {first.folder} on {ours.val_split!r}; "
                             "name one split with --split")
    split = split or first.record.recipe.data.val_split
    for run in runs[1:]:
        _check_images(first, run, split)
    return split


def _check_images(first: Compared, run: Compared, split: str) -> None:
    ours, theirs = first.voc.image_ids(split), run.voc.image_ids(split)
    if ours != theirs:
        differs = sorted({*theirs} ^ {*ours})
        what = f"look at {differs[0]!r}" if differs else "they are in another order"
        raise UsageError(f"{run.folder}: its split {split!r} is not that of {first.folder} ({what}); only predictions "
                         "of the same images can be compared")
    pairs = zip(ours, first.voc.files(ours), run.voc.files(theirs), strict=True)
    for image_id, one, other in pairs:
        if one[:2] != other[:2] and [hash_file(path) for path in one[:2]] != [hash_file(path) for path in other[:2]]:
            raise UsageError(f"{run.folder}: its image or mask {image_id!r} is not that of {first.folder}; only "
                             "predictions of the same images can be compared")


def recipe_table(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """The recipe keys that are not the same in all runs, with each run's value."""
    recipes = [recipe_to_dict(run.record.recipe) for run in runs]
    return {key: [recipe[key] for recipe in recipes] for key in recipes[0]
            if key not in UNLIKE and any(recipe[key] != recipes[0][key] for recipe in recipes)}


def row_settings(runs: Sequence[Compared], title: str, split: str) -> dict[str, list[Any]]:
    """Keys in which a row's label maps were made otherwise than their run's recipe says (stages.infer --set)."""
    made = []
    for run in runs:
        folder = run.row(title, split)
        path = folder / "settings.json" if folder else None
        made.append(read_json(path, PredictionRecord).recipe if path and path.is_file() else {})
    own = [recipe_to_dict(run.record.recipe) for run in runs]
    otherwise = {key for one, recipe in zip(made, own, strict=True) for key, value in one.items()
                 if recipe.get(key) != value}
    return {key: [one.get(key, recipe.get(key)) for one, recipe in zip(made, own, strict=True)]
            for key in sorted(otherwise)}


def read_row(run: Compared, folder: Path, image_ids: list[str]) -> RowScore:
    """Scores a row's label maps image by image. Raises UserError for one that is missing or of another size."""
    check_predictions(folder, image_ids)
    total, images, counts = ConfusionMatrix(run.voc.classes), [], []
    for own in confusions(run.voc, image_ids, folder):
        total.include(own)
        images.append(own.image_mean_iou())
        counts.append(own.counts)
    return RowScore(np.stack(counts), total.mean_iou(), total.pixel_accuracy(), np.array(images))


def compared_row(runs: Sequence[Compared], title: str, split: str, resamples: int, seed: int) -> dict[str, Any] | None:
    """One row of all runs, for a JSON file; None unless the first run and another have it. Fractions throughout.

    Each run's difference is from the first one's; so are the changes of its images, largest first.
    """
    folders = [run.row(title, split) for run in runs]
    if folders[0] is None or not any(folders[1:]):
        return None
    image_ids = runs[0].voc.image_ids(split)
    first: RowScore | None = None
    lines: list[dict[str, Any]] = []
    for run, folder in zip(runs, folders, strict=True):
        if folder is None:
            lines.append({"run": run.name, "mean_iou": None})
            continue
        score = read_row(run, folder, image_ids)
        line: dict[str, Any] = {"run": run.name, "mean_iou": or_none(score.mean_iou),
                                "pixel_accuracy": or_none(score.pixel_accuracy)}
        if first is not None:
            difference = paired_difference(first.counts, score.counts, resamples, seed)
            line |= {"difference": difference.value, "low": difference.low, "high": difference.high,
                     "changed": _changed(image_ids, first.image_iou, score.image_iou)}
        first = first or score
        lines.append(line)
    return {"row": title, "settings": row_settings(runs, title, split), "runs": lines}


def _changed(image_ids: list[str], before: np.ndarray, after: np.ndarray) -> list[dict[str, Any]]:
    """Every image whose own mean IoU changed, the most changed first."""
    change = np.nan_to_num(after - before)
    return [{"id": image_ids[place], "before": float(before[place]), "after": float(after[place]),
             "difference": float(change[place])}
            for place in np.argsort(-np.abs(change), kind="stable") if change[place]]
