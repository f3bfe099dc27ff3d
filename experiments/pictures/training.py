"""The trainings: loss, pixel accuracy and learning rate, on one axis of iterations."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvnet.models.registry import NETWORKS
from deconvnet.recipe import Recipe
from experiments.pictures import Drawn
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import CURVES
from experiments.records import log_lines

LOGGED = ("iteration", "rate", "loss", "pixel_accuracy", "validation_loss", "validation_accuracy")
MEASURES = {"loss": ("loss", "validation_loss"), "pixel accuracy": ("pixel_accuracy", "validation_accuracy")}

Log = dict[str, np.ndarray]


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere when there is no log yet."""
    logs = read_logs(shown.run.root, shown.recipe)
    numbers: dict[str, Any] = {title: {name: {key: [None if np.isnan(value) else float(value) for value in column]
                                              for key, column in log.items()} for name, log in found}
                               for title, found in logs.items()}
    return Drawn(curves(logs), "The trainings",
                 "Loss, pixel accuracy and learning rate of each training; those that follow each other share an axis "
                 "of iterations, dotted lines part them. Lines: means of the training batches since the line before "
                 "in log.csv; dots: validation, on windows for DeconvNet and on whole images for FCN-8s.", numbers)


def trainings(recipe: Recipe) -> list[tuple[str, list[str]]]:
    """The networks of the table, each with the trainings that follow each other."""
    return [(spec.title, [training.name for training in spec.trainings(recipe)])
            for spec in NETWORKS.values() if spec.in_table]


def read_logs(run: Path, recipe: Recipe) -> dict[str, list[tuple[str, Log]]]:
    """The logs of the run, by network and training. Raises NotThere when there is none."""
    logs = {title: [(name, read_log(run / name / "log.csv")) for name in names if (run / name / "log.csv").is_file()]
            for title, names in trainings(recipe)}
    logs = {title: found for title, found in logs.items() if found}
    if not logs:
        raise NotThere(f"{run}: no training log (stage1/log.csv, ...) yet; `python -m stages.train --run {run}` writes "
                       "them")
    return logs


def read_log(path: Path) -> Log:
    """The columns LOGGED of a training's log.csv as float64; NaN where a line has no number. Raises UserError."""
    return {name: np.array([float(line[name] or "nan") for line in log_lines(path)]) for name in LOGGED}


def curves(logs: dict[str, list[tuple[str, Log]]]) -> Figure:
    """Loss, pixel accuracy and rate: thin lines training, dots validation."""
    figure = Figure(figsize=(4.6 * len(logs), 6.4), layout="constrained")
    axes = figure.subplots(3, len(logs), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 3, 1.6))
    for column, (title, found) in enumerate(logs.items()):
        start = 0.0
        for (name, log), colour in zip(found, CURVES, strict=False):
            for axis, measure in zip(axes[:2, column], MEASURES, strict=True):
                _curve(axis, log, measure, start, name, colour)
            axes[2, column].plot(start + log["iteration"], log["rate"], color=colour, drawstyle="steps-pre")
            if start:
                for axis in axes[:, column]:
                    axis.axvline(start, color="0.5", linewidth=0.8, linestyle=":")
            start += log["iteration"].max(initial=0)
        axes[0, column].set(title=title)
        axes[1, column].set(ylim=(0, 1))
        axes[2, column].set(yscale="log", xlabel="iteration")
        axes[0, column].legend()
        for axis in axes[:, column]:
            axis.grid(True)
    for axis, label in zip(axes[:, 0], ("loss", "pixel accuracy", "learning rate"), strict=True):
        axis.set_ylabel(label)
    return figure


def _curve(axis: Axes, log: Log, measure: str, start: float, name: str, colour: str) -> None:
    training, validation = MEASURES[measure]
    axis.plot(start + log["iteration"], log[training], linewidth=1.0, color=colour, label=name)
    measured = ~np.isnan(log[validation])
    axis.plot(start + log["iteration"][measured], log[validation][measured], "o", markersize=5, color=colour,
              markeredgecolor="black", markeredgewidth=0.6, label=f"{name}, validation")
