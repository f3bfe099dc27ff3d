"""The training curves of several runs over each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvnet.models.registry import NETWORKS
from deconvnet.support.atomic import atomic_write
from experiments.comparison import Compared
from experiments.records import log_lines

# Okabe and Ito's colours, which are told apart with any common colour blindness; without the yellow: too light.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
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
    figure = Figure(figsize=(4.6 * len(names) + 0.4, 6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for name, (above, below) in zip(names, axes.T, strict=True):
        for number, run in enumerate(runs):
            if _log(run, name).is_file():
                _draw(above, below, log_lines(_log(run, name)), number, run.name)
        above.set(title=name, ylabel="loss; markers: in validation")
        below.set(ylabel="pixel accuracy in validation", xlabel="iteration", ylim=(0, 1))
        for axis in (above, below):
            axis.grid(alpha=0.3)
    drawn = {label: handle for axis in axes[1] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, frameon=False)
    return [_save(figure, path.with_suffix(suffix)) for suffix in (".png", ".svg")]


def _log(run: Compared, name: str) -> Path:
    return run.folder / name / "log.csv"


def _draw(above: Axes, below: Axes, lines: list[dict[str, str]], number: int, label: str) -> None:
    iteration, loss, val_loss, val_accuracy = (np.array([float(line[name] or "nan") for line in lines]) for name in
                                               ("iteration", "loss", "validation_loss", "validation_accuracy"))
    look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
    marked = look | {"marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
    parts = [part for part in np.array_split(np.arange(len(lines)), 50) if len(part)]
    above.plot([iteration[part].mean() for part in parts], [loss[part].mean() for part in parts], linewidth=1, **look)
    measured = ~np.isnan(val_accuracy)
    above.plot(iteration[measured], val_loss[measured], **(marked | {"linestyle": ""}))
    below.plot(iteration[measured], val_accuracy[measured], linewidth=1.2, label=label, **marked)


def _save(figure: Figure, path: Path) -> Path:
    unstamped = {".png": {"Software": None}, ".svg": {"Date": None}}[path.suffix]  # the same runs, the same bytes
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}), atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=110, metadata=unstamped)
    return path
