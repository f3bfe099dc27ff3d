"""The training curves of several runs over each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvnet.models.registry import NETWORKS
from experiments.comparison import Compared
from experiments.pictures.style import CURVES, save, styled
from experiments.pictures.training import Log, read_log

DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"  # also apart in grey


def draw_curves(runs: Sequence[Compared], path: Path) -> list[Path]:
    """Writes loss and validation accuracy of every training as PNG and SVG; no files where no run has a log.

    Thin lines: the loss of the training batches, each point the mean of a fiftieth of them. Markers: validation.
    """
    recipe = runs[0].record.recipe
    names = [training.name for spec in NETWORKS.values() for training in spec.trainings(recipe)]
    names = list(dict.fromkeys(name for name in names if any(_log(run, name).is_file() for run in runs)))
    if not names:
        return []
    paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    with styled():
        figure = _figure(runs, names)
    for one in paths:
        save(figure, one)
    return paths


def _figure(runs: Sequence[Compared], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(4.6 * len(names) + 0.4, 6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for name, (above, below) in zip(names, axes.T, strict=True):
        for number, run in enumerate(runs):
            if _log(run, name).is_file():
                _draw(above, below, read_log(_log(run, name)), number, run.name)
        above.set(title=name, ylabel="loss; markers: in validation")
        below.set(ylabel="pixel accuracy in validation", xlabel="iteration", ylim=(0, 1))
        for axis in (above, below):
            axis.grid(True)
    drawn = {label: handle for axis in axes[1] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3)
    return figure


def _log(run: Compared, name: str) -> Path:
    return run.folder / name / "log.csv"


def _draw(above: Axes, below: Axes, log: Log, number: int, label: str) -> None:
    iteration, loss, val_loss, val_accuracy = (log[name] for name in
                                               ("iteration", "loss", "validation_loss", "validation_accuracy"))
    look: dict[str, Any] = {"color": CURVES[number % len(CURVES)], "linestyle": DASHES[number % len(DASHES)]}
    marked = look | {"marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
    parts = [part for part in np.array_split(np.arange(len(loss)), 50) if len(part)]
    above.plot([iteration[part].mean() for part in parts], [loss[part].mean() for part in parts], linewidth=1, **look)
    measured = ~np.isnan(val_accuracy)
    above.plot(iteration[measured], val_loss[measured], **(marked | {"linestyle": ""}))
    below.plot(iteration[measured], val_accuracy[measured], linewidth=1.2, label=label, **marked)
