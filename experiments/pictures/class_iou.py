"""IoU of each class, a bar for each row of the table."""

import numpy as np
from matplotlib.figure import Figure

from deconvnet.evaluation.metrics import or_none
from experiments.pictures import Drawn
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import ROWS, percent

BAR = 0.1  # inches


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without predictions."""
    shown.require()
    values = {title: confusion.class_iou() for title, (confusion, _) in shown.measured.items()}
    means = {title: confusion.mean_iou() for title, (confusion, _) in shown.measured.items()}
    numbers = {title: {"mean_iou": or_none(means[title]),
                       **{name: or_none(iou) for name, iou in zip(shown.classes, own, strict=True)}}
               for title, own in values.items()}
    said = ", ".join(f"{title} {percent(mean)}" for title, mean in means.items())
    return Drawn(bars(values, means, shown.classes), "IoU of each class",
                 f"Over {shown.data}, in percent; classes by falling IoU of the last row. A class without bars occurs "
                 f"in no mask and no label map, or has IoU 0. Mean IoU: {said}.", numbers)


def bars(values: dict[str, np.ndarray], means: dict[str, float], classes: list[str]) -> Figure:
    """Horizontal bars, a group for each class, in two columns. values: float64 C in 0 .. 1, by row of the table."""
    last = np.nan_to_num(list(values.values())[-1])
    order = np.array(sorted(range(len(classes)), key=lambda label: -last[label]))
    halves = np.array_split(order, 2)
    group = BAR * (len(values) + 1.5)
    figure = Figure(figsize=(8.5, group * len(halves[0]) + 1.2), layout="constrained")
    for axis, some in zip(figure.subplots(1, 2, sharex=True), halves, strict=True):
        for number, (title, own) in enumerate(values.items()):
            places = np.arange(len(some)) * group + number * BAR
            axis.barh(places, 100 * np.nan_to_num(own[some]), BAR * 0.9, color=ROWS.get(title, "0.7"),
                      label=f"{title} ({percent(means[title])})")
        axis.set(yticks=np.arange(len(some)) * group + (len(values) - 1) * BAR / 2,
                 yticklabels=[classes[label] for label in some], xlim=(0, 100), xlabel="IoU, percent",
                 ylim=(group * len(halves[0]) - BAR, -BAR))
        axis.grid(True, axis="x")
        axis.set_axisbelow(True)
    figure.legend(*axis.get_legend_handles_labels(), title="mean IoU in brackets", loc="outside lower center",
                  ncols=3)
    return figure
