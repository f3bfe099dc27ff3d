"""The confusion matrix of the best row: which class is taken for which."""

import numpy as np
from matplotlib.figure import Figure

from deconvnet.evaluation.metrics import ConfusionMatrix
from experiments.pictures import Drawn
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import percent


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without predictions."""
    shown.require()
    title, confusion = best_row({title: confusion for title, (confusion, _) in shown.measured.items()})
    kept, shares = true_class_shares(confusion.counts)
    if not kept:
        raise NotThere(f"{shown.data} have nothing but void in their masks; another split (--split) may have more")
    names = [shown.classes[label] for label in kept]
    return Drawn(matrix(shares, names, title), "Which class is taken for which",
                 f"Confusion matrix of {title}, the row of the highest mean IoU ({percent(confusion.mean_iou())}), "
                 f"over {shown.data}. A row is a class of the truth: the percentages of its pixels that got each "
                 "label, so the diagonal is the class's accuracy. Numbers under 0.5 are left out.",
                 {"row": title, "classes": names, "counts": confusion.counts[np.ix_(kept, kept)].tolist()})


def best_row(confusions: dict[str, ConfusionMatrix]) -> tuple[str, ConfusionMatrix]:
    """The one of the highest mean IoU; of equals, the first."""
    return max(confusions.items(), key=lambda one: np.nan_to_num(one[1].mean_iou()))


def true_class_shares(counts: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The classes that occur in truth or prediction, and what share of each one's true pixels got each label.

    counts: int64 C x C, a row is a true class. NaN for a class that the truth does not have.
    """
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
    some = counts[np.ix_(kept, kept)].astype(np.float64)
    total = some.sum(1, keepdims=True)
    return kept.tolist(), np.divide(some, total, out=np.full_like(some, np.nan), where=total > 0)


def matrix(shares: np.ndarray, names: list[str], title: str) -> Figure:
    """shares: float64 K x K, NaN for what does not exist."""
    side = 0.36 * len(names) + 1.6
    figure = Figure(figsize=(side + 0.4, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.sqrt(np.nan_to_num(shares)), cmap="Blues", vmin=0, vmax=1)  # the root: small shares are seen, too
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        axis.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7.5,
                  color="white" if shares[row, column] > 0.3 else "black")
    places = range(len(names))
    axis.set(xticks=places, yticks=places, yticklabels=names, xlabel=f"label that {title} gives", ylabel="truth")
    axis.set_xticks(places, names, rotation=90)
    axis.tick_params(length=0)
    return figure
