"""The four segmentation metrics and per-class IoU, from one confusion histogram over a whole data set.

With n_ij the pixels of class i predicted j, t_i = sum_j n_ij and p_i = sum_j n_ji (FCN, CVPR 2015, section 5):

    pixel accuracy          sum_i n_ii / sum_i t_i
    mean accuracy           mean_i n_ii / t_i
    mean IoU                mean_i n_ii / (t_i + p_i - n_ii)
    frequency weighted IoU  sum_i t_i n_ii / (t_i + p_i - n_ii) / sum_i t_i

Rules as in the VOC devkit (VOCevalseg.m): one histogram, never a mean over images; at the image's own size; void pixels
of the ground truth are ignored. A class that is predicted but absent from the ground truth has IoU 0 and counts in the
mean. A class absent from both has no IoU (0 / 0) and is left out of the mean; the devkit's mean would be NaN. The same
holds for accuracy and classes absent from the ground truth. Where every class occurs, as in VOC's own splits, this is
the plain mean.
"""

from typing import Any

import numpy as np

from deconvnet.conventions import VOID
from deconvnet.recipe_limits import short
from deconvnet.support.errors import UsageError, UserError


def chosen_classes(text: str | None, classes: list[str]) -> list[str]:
    """The names in `text`, "cat,dog"; none without a text. Raises UsageError for one that is not among the classes."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    check_classes(names, classes)
    return names


def check_classes(names: list[str], classes: list[str]) -> None:
    """Raises UsageError for a name that is not among the classes."""
    for name in names:
        if name not in classes:
            raise UsageError(f"class {short(name)} is not in the class list; expected some of {', '.join(classes)}")


class ConfusionMatrix:
    """Pixel counts, int64 C x C: a row is a true class, a column a predicted one. Metrics are fractions."""

    def __init__(self, classes: list[str]) -> None:
        self.classes = list(classes)
        self.counts = np.zeros((len(classes), len(classes)), np.int64)
        self.images = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray, name: str) -> None:
        """Counts one image's label maps (uint8, H x W; void pixels of the ground truth are ignored).

        name: the prediction's file or image id, for the error. Raises UserError for maps of different size and for
        labels above the last class; in the prediction also under void ground truth, and 255 itself, as the devkit does.
        """
        if prediction.shape != truth.shape:
            raise UserError(f"{name}: the prediction is {_size(prediction)}; expected {_size(truth)}, the size of the "
                            "mask")
        count = len(self.classes)
        if prediction.max(initial=0) >= count:
            raise UserError(f"{name}: predicted label {prediction.max()} is above the last class, {count - 1} "
                            f"({self.classes[-1]}); is the class list right?")
        labelled = truth != VOID
        true, predicted = truth[labelled].astype(np.int64), prediction[labelled].astype(np.int64)
        if true.max(initial=0) >= count:
            raise UserError(f"{name}: the mask has label {true.max()}, above the last class, {count - 1} "
                            f"({self.classes[-1]}), and not void (255); is the class list right?")
        self.counts += np.bincount(true * count + predicted, minlength=count * count).reshape(count, count)
        self.images += 1

    def include(self, other: "ConfusionMatrix") -> None:
        """Counts what another one of the same classes has counted."""
        self.counts += other.counts
        self.images += other.images

    def pixel_accuracy(self) -> float:
        """Share of pixels that are correct; NaN without pixels."""
        return float(_divide(self._hits().sum(), self.counts.sum()))

    def class_accuracy(self) -> np.ndarray:
        """Share of each true class's pixels that are correct, float64 C; NaN for a class absent from the ground truth.
        """
        return _divide(self._hits(), self.counts.sum(axis=1))

    def class_iou(self) -> np.ndarray:
        """Intersection over union of each class, float64 C; NaN for a class absent from ground truth and prediction."""
        return _divide(self._hits(), self.counts.sum(axis=1) + self.counts.sum(axis=0) - self._hits())

    def mean_accuracy(self) -> float:
        """Mean of class_accuracy over the classes that have one."""
        return _mean(self.class_accuracy())

    def mean_iou(self, names: list[str] | None = None) -> float:
        """Mean of class_iou over the classes that have one, of all or of `names`. Raises UsageError."""
        chosen = self.classes if names is None else names
        check_classes(chosen, self.classes)
        if not chosen:
            raise UsageError(f"no class to average over; expected some of {', '.join(self.classes)}")
        return _mean(self.class_iou()[[self.classes.index(name) for name in chosen]])

    def image_mean_iou(self) -> float:
        """Of one image's matrix: the mean of class_iou over the classes that its truth has; NaN without pixels.

        A few stray pixels of another class do not count as a class with IoU 0, as they would in mean_iou: they lower
        the IoU of the classes that they cover (Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation",
        NeurIPS 2023, define IoU per image so).
        """
        return _mean(self.class_iou()[self.counts.sum(axis=1) > 0])

    def frequency_weighted_iou(self) -> float:
        """Mean of class_iou weighted by the classes' true pixels; NaN without pixels."""
        present = self.counts.sum(axis=1) > 0
        weights = self.counts.sum(axis=1)[present]
        return float(_divide((weights * self.class_iou()[present]).sum(), self.counts.sum()))

    def summary(self) -> dict[str, Any]:
        """Everything, for a JSON file; an undefined metric is None (JSON has no NaN)."""
        return {
            "images": self.images,
            "pixels": int(self.counts.sum()),
            "pixel_accuracy": or_none(self.pixel_accuracy()),
            "mean_accuracy": or_none(self.mean_accuracy()),
            "mean_iou": or_none(self.mean_iou()),
            "frequency_weighted_iou": or_none(self.frequency_weighted_iou()),
            "classes": self.classes,
            "class_iou": {name: or_none(value) for name, value in zip(self.classes, self.class_iou(), strict=True)},
            "confusion": self.counts.tolist(),
        }

    def _hits(self) -> np.ndarray:
        return np.diagonal(self.counts)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def or_none(value: float) -> float | None:
    """A metric for a JSON file; None for NaN, a metric that does not exist."""
    return None if np.isnan(value) else float(value)


def _size(labels: np.ndarray) -> str:
    return "x".join(str(side) for side in labels.shape[::-1])
