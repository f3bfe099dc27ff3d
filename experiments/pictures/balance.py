"""Windows of each class in an epoch, before and after the classes are balanced."""

import numpy as np
from matplotlib.figure import Figure

from deconvnet.training.sampling import epoch_order
from experiments.pictures import Drawn
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import BLUE, ORANGE


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without the windows of the training split."""
    split, balance = shown.recipe.data.train_split, shown.recipe.windows.balance
    counts = {f"stage {stage}": windows_by_class(shown.window_rows(stage, split).columns["class_index"], balance,
                                                 len(shown.classes)) for stage in (1, 2)}
    numbers = {stage: {"before": dict(zip(shown.classes[1:], before[1:].tolist(), strict=True)),
                       "after": dict(zip(shown.classes[1:], after[1:].tolist(), strict=True))}
               for stage, (before, after) in counts.items()}
    return Drawn(bars(counts, shown.classes), "Windows of each class, before and after balancing",
                 f"Windows of {split} by the class of their object, as they are in the file, and as an epoch has them: "
                 + ("the windows of each class are repeated until it has as many as the most frequent one."
                    if balance == "repeat" else "this recipe does not balance (windows.balance: none)."), numbers)


def windows_by_class(classes: np.ndarray, balance: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How many windows each of `count` classes has in the file and in an epoch. classes: uint8 N, of each window."""
    order = epoch_order(classes, balance, (0,))
    return np.bincount(classes, minlength=count), np.bincount(classes[order], minlength=count)


def bars(counts: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str]) -> Figure:
    """A panel for each stage; background has no windows of its own."""
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    places = np.arange(1, len(classes))
    for axis, (stage, (before, after)) in zip(figure.subplots(1, len(counts)), counts.items(), strict=True):
        axis.barh(places - 0.2, after[1:], 0.4, color=ORANGE, label="in an epoch")
        axis.barh(places + 0.2, before[1:], 0.4, color=BLUE, label="in the file")
        axis.set(yticks=places, yticklabels=classes[1:], xlabel="windows",
                 title=f"{stage}: {before.sum():,} windows, {after.sum():,} in an epoch")
        axis.title.set_fontsize(10)
        axis.invert_yaxis()
        axis.margins(y=0.01)
        axis.grid(True, axis="x")
        axis.set_axisbelow(True)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
