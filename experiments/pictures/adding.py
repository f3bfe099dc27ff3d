"""One image's proposals, scored once and then aggregated in prefixes: what the first 1, 2, 5, ... of them give."""

from collections.abc import Callable, Iterator, Sequence
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


def labels_by_count(shown: ShownRun, image_id: str, counts: Sequence[int]
                    ) -> dict[str, list[tuple[int, np.ndarray, np.ndarray]]]:
    """For each of ORDERS and each count: the count, the windows so far (int32), and the labels (uint8 H x W).

    The windows are those that the pipeline labels the image with (its best infer.proposals). Counts above their number
    give what all of them give.
    """
    from deconvnet.inference.scoring import scoring_windows, window_scores

    image = shown.voc.read_image(image_id)
    windows = scoring_windows(shown.source.boxes(image_id, image), shown.recipe)
    model, device = shown.scorer("deconvnet").opened
    scores = [own.cpu() for _, own in window_scores(model, image, windows, shown.recipe, device)]
    return {name: list(_prefixes(shown, image.shape[:2], windows, scores, order(windows), counts))
            for name, order in ORDERS.items()}


def _prefixes(shown: ShownRun, size: Sequence[int], windows: np.ndarray, scores: "list[Tensor]", order: np.ndarray,
              counts: Sequence[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    import torch

    from deconvnet.inference.aggregation import Aggregation

    keys = shown.recipe.infer
    total = Aggregation(len(shown.classes), size[0], size[1], keys.aggregate, keys.outside, torch.device("cpu"))
    added = 0
    for count in counts:
        for number in order[added:count]:
            total.add(scores[number], windows[number], keys.resize)
        added = max(added, min(count, len(order)))
        yield count, windows[order[:count]], total.result().argmax(0).numpy().astype(np.uint8)
