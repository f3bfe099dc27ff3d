"""Unpooling at work on a real window: the switches of a pooling layer, and where they put activations back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.pictures import Drawn
from experiments.pictures.object_window import ObjectWindow, object_window
from experiments.pictures.shown import NotThere, ShownRun
from experiments.pictures.style import SKY

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 3  # whose pooling and unpooling are shown: of a window of 224, 56 x 56 to 28 x 28 and back
CELLS = 8  # the side of the part that is shown large, in cells of the map before pooling


@dataclass(frozen=True)
class Pooled:
    """What one channel's pooling and unpooling take and give, float32: before, unpooled 2N x 2N; pooled, decoded N x N;
    switches: int64 N x N, each maximum's place in the map before pooling, counted row by row.
    """

    before: np.ndarray
    pooled: np.ndarray
    switches: np.ndarray
    decoded: np.ndarray
    unpooled: np.ndarray


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without DeconvNet's weights and label maps, or for a network without switches."""
    kind = shown.recipe.network.unpooling
    if kind != "switches":
        raise NotThere(f"this run's network has no switches (network.unpooling: {kind}); one with switches shows them")
    found = object_window(shown)
    channel, maps = busiest_channel(shown, found)
    place = busiest_part(maps.pooled * maps.decoded, CELLS // 2)
    side = maps.before.shape[0]
    return Drawn(picture(found, maps, place), "Unpooling puts activations back where the maxima were",
                 f"The window of the largest object ({shown.classes[found.class_index]}) of image {found.image_id} ("
                 f"{found.rule}); pooling {BLOCK} and unpooling {BLOCK} in channel {channel}, where the product of "
                 "what both carry is largest. Above the whole maps, below the part in the blue square. Pooling keeps "
                 "the largest of each 2 x 2 cells and remembers where it was: the switch (blue). Unpooling puts what "
                 "the deconvolution network has by then computed for that place onto the switch, and zeros elsewhere.",
                 {"image": found.image_id, "window": found.window.tolist(), "block": BLOCK, "channel": channel,
                  "side": side, "part": [int(value) for value in place]})


def busiest_channel(shown: ShownRun, found: ObjectWindow) -> tuple[int, Pooled]:
    """The channel of the largest sum of pooled times decoded activations, and its maps."""
    import torch

    from deconvnet.inference.scoring import window_scores

    model, device = shown.scorer("deconvnet").opened
    maps: dict[str, Tensor] = {}

    def pooling(_: object, given: "tuple[Tensor, ...]", gives: "tuple[Tensor, Tensor]") -> None:
        maps.update(before=given[0], pooled=gives[0], switches=gives[1])

    def unpooling(_: object, given: "tuple[Tensor, ...]", gives: "Tensor") -> None:
        maps.update(decoded=given[0], unpooled=gives)

    hooks = [model.get_submodule(f"pool{BLOCK}").register_forward_hook(pooling),
             model.get_submodule(f"unpool{BLOCK}").register_forward_hook(unpooling)]
    try:
        with torch.inference_mode():
            list(window_scores(model, shown.voc.read_image(found.image_id), found.window[None], shown.recipe, device))
    finally:
        for one in hooks:
            one.remove()
    all_of_them = {name: (own[0].float() if own.is_floating_point() else own[0]).cpu().numpy()
                   for name, own in maps.items()}
    channel = int((all_of_them["pooled"] * all_of_them["decoded"]).sum((1, 2)).argmax())
    return channel, Pooled(**{name: own[channel] for name, own in all_of_them.items()})


def busiest_part(values: np.ndarray, side: int) -> tuple[int, int]:
    """Row and column where the square part (side x side) of the largest sum begins; of equals, the first."""
    side = min(side, *values.shape)
    parts = np.lib.stride_tricks.sliding_window_view(values, (side, side)).sum((2, 3))
    row, column = np.unravel_index(parts.argmax(), parts.shape)
    return int(row), int(column)


def picture(found: ObjectWindow, maps: Pooled, place: tuple[int, int]) -> Figure:
    """place: row and column of the part in the pooled map."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots(2, 5)
    size = len(maps.before)
    coarse = [slice(start, start + CELLS // 2) for start in place]
    fine = [slice(2 * start, 2 * start + CELLS) for start in place]
    scale = found.picture.shape[0] / size
    shown = [("window", found.picture, scale), (f"before pooling {BLOCK}", maps.before, 1.0),
             (f"after pooling {BLOCK}", maps.pooled, 0.5),
             (f"before unpooling {BLOCK}", maps.decoded, 0.5), (f"after unpooling {BLOCK}", maps.unpooled, 1.0)]
    for column, (title, whole, factor) in enumerate(shown):
        upper, lower = axes[:, column]
        side = f"{len(whole)} x {len(whole)}"
        upper.imshow(whole, cmap="inferno", vmin=0)
        upper.set_title(f"{title}\n{side}", fontsize=9.5)
        corner = (2 * place[1] * factor - 0.5, 2 * place[0] * factor - 0.5)
        upper.add_patch(Rectangle(corner, CELLS * factor, CELLS * factor, fill=False, edgecolor=SKY, linewidth=1.8))
        part = (whole[tuple(coarse)] if factor == 0.5 else whole[tuple(fine)] if factor == 1.0 else
                whole[tuple(slice(round(one.start * scale), round(one.stop * scale)) for one in fine)])
        lower.imshow(part, cmap="inferno", vmin=0, vmax=None if part.ndim == 3 else max(whole.max(), 1e-9))
        if part.ndim == 2:
            _lines(lower, len(part), 2 if factor == 1.0 else 1)
        if factor == 1.0:
            _switches(lower, maps.switches[tuple(coarse)], size, fine)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, color="0.6", linewidth=0.5)
    return figure


def _lines(axis: Axes, cells: int, every: int) -> None:
    for at in range(0, cells + 1):
        width = 1.2 if at % every == 0 else 0.3
        axis.axhline(at - 0.5, color="0.75", linewidth=width)
        axis.axvline(at - 0.5, color="0.75", linewidth=width)


def _switches(axis: Axes, switches: np.ndarray, size: int, part: list[slice]) -> None:
    for row, column in zip(*np.unravel_index(switches.ravel(), (size, size)), strict=True):
        axis.add_patch(Rectangle((column - part[1].start - 0.4, row - part[0].start - 0.4), 0.8, 0.8, fill=False,
                                 edgecolor=SKY, linewidth=1.6))
