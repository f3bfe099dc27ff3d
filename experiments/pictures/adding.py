"""One image's proposals, scored once and then aggregated in prefixes: what the first 1, 2, 5, ... of them give."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from experiments.pictures.shown import ShownRun

if TYPE_CHECKING:
    from torch import Tensor

# Of windows (int32 N x 4) that come by decreasing objectness, the order in which they are added.
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "size": lambda windows: np.argsort(-areas(windows), kind="stable"),
    "objectness": lambda windows: np.arange(len(windows)),
}


def areas(windows: np.ndarray) -> np.ndarray:
    """Pixels of windows, int64 N."""
    return (windows[:, 2:] - windows[:, :2]).astype(np.int64).prod(1)


@dataclass(frozen=True)
class Scored:
    """An image's windows that the pipeline labels it with (int32 N x 4, its best infer.proposals), by decreasing
    objectness, the proposals that they are about, and DeconvNet's scores of each (float32 C x S x S, on the CPU).
    size: the image's height and width.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    windows: np.ndarray
    scores: "list[Tensor]"


def score_proposals(shown: ShownRun, image_id: str) -> Scored:
    """Each window's own scores, before they are aggregated."""
    from deconvnet.inference.scoring import scoring_windows, window_scores

    image = shown.voc.read_image(image_id)
    boxes = shown.source.boxes(image_id, image)
    windows = scoring_windows(boxes, shown.recipe)
    used = (box for box in boxes if len(scoring_windows(box[None], shown.recipe)))  # not left out as too small
    boxes = np.array(list(islice(used, len(windows))), np.int32).reshape(-1, 4)
    model, device = shown.scorer("deconvnet").opened
    scores = [own.cpu() for _, own in window_scores(model, image, windows, shown.recipe, device)]
    return Scored((image.shape[0], image.shape[1]), boxes, windows, scores)


def labels_by_count(shown: ShownRun, scored: Scored, order: np.ndarray, counts: Sequence[int]) -> Iterator[np.ndarray]:
    """The labels (uint8 H x W) that the first `count` windows of an order give together, for each of rising counts.

    Counts above their number give what all of them give.
    """
    import torch

    from deconvnet.inference.aggregation import Aggregation

    keys = shown.recipe.infer
    total = Aggregation(len(shown.classes), *scored.size, keys.aggregate, keys.outside, torch.device("cpu"))
    added = 0
    for count in counts:
        for number in order[added:count]:
            total.add(scored.scores[number], scored.windows[number], keys.resize)
        added = max(added, min(count, len(order)))
        yield total.result().argmax(0).numpy().astype(np.uint8)
