"""The paper's Figure 4: what the layers of the deconvolution network do with one window, from coarse to fine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deconvnet.evaluation.metrics import or_none
from experiments.pictures import Drawn
from experiments.pictures.grid import GridRow, Panel, picture_grid
from experiments.pictures.object_window import ObjectWindow, object_window
from experiments.pictures.shown import ShownRun, class_iou
from experiments.pictures.style import coloured, heated, percent

if TYPE_CHECKING:
    from torch import Tensor, nn

COARSEST = "fc6_deconv"
BLOCKS = (5, 4, 3, 2, 1)  # of the deconvolution network, coarse to fine


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without DeconvNet's weights or label maps."""
    from deconvnet.inference.ensemble import softmax

    found = object_window(shown)
    maps, scores = forward_maps(shown, found)
    labels = scores.argmax(0).astype(np.uint8)
    chosen = {name: strongest(own) for name, own in maps.items()}
    name = shown.classes[found.class_index]
    probability = softmax(scores)[found.class_index]
    iou = class_iou(labels, found.labels, found.class_index)
    numbers = {"image": found.image_id, "window": found.window.tolist(), "class": name,
               "strongest": {layer: {"channel": index, "energy": float(np.square(maps[layer][index]).sum()),
                                     "side": maps[layer].shape[1]} for layer, index in chosen.items()},
               "class_iou": or_none(iou)}
    rows = _rows(found, {layer: maps[layer][index] for layer, index in chosen.items()}, scores[found.class_index],
                 probability, labels, name, percent(iou))
    occurring = sorted({*np.unique(labels).tolist(), *np.unique(found.labels).tolist()})
    return Drawn(picture_grid(rows, legend=occurring, classes=shown.classes, cell=1.3),
                 "Activations from coarse to fine (the paper's Figure 4)",
                 f"The window of the largest object ({name}) of image {found.image_id} ({found.rule}). Of each layer "
                 "of the deconvolution network the channel with the most energy (sum of squares over the map), after "
                 "batch normalisation and ReLU, from dark (0) to bright (its maximum); below each its side in pixels. "
                 "Unpooling places activations at the switches, so its maps are sparse; the deconvolutions after it "
                 f"fill them. Then the score map of {name} (all scores, dark to bright), its probability, and the "
                 "labels with the IoU of this class in the window.", numbers)


def forward_maps(shown: ShownRun, found: ObjectWindow) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each recorded layer's maps, float32 C x S x S, and the scores, float32 classes x S x S, of a window."""
    import torch

    from deconvnet.inference.scoring import window_scores

    model, device = shown.scorer("deconvnet").opened
    image = shown.voc.read_image(found.image_id)
    with recording(model) as maps, torch.inference_mode():
        ((_, scores),) = window_scores(model, image, found.window[None], shown.recipe, device)
    return {name: own[0].float().cpu().numpy() for name, own in maps.items()}, scores.cpu().numpy()


@contextmanager
def recording(model: "nn.Module") -> "Iterator[dict[str, Tensor]]":
    """Within it, a forward pass leaves here what each layer of the deconvolution network gives, after its ReLU."""
    from deconvnet.models.vgg16 import batch_norm_name

    children = dict(model.named_children())
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(_: object, __: object, output: "Tensor") -> None:
            maps[name] = output.detach().relu()  # of its own: the network's ReLU works in place
        return hook

    hooks = []
    for layer in decoder_layers(list(children)):
        normalised = children.get(batch_norm_name(layer), children[layer])
        hooks.append(normalised.register_forward_hook(keep(layer)))  # type: ignore[arg-type]
    try:
        yield maps
    finally:
        for one in hooks:
            one.remove()


def decoder_layers(children: list[str]) -> list[str]:
    """The deconvolutions and unpoolings among a network's children, in their order."""
    return [name for name in children
            if name == COARSEST or name.startswith("unpool") or (name.startswith("deconv") and "_" in name)]


def strongest(maps: np.ndarray) -> int:
    """The channel with the most energy: the largest sum of squares over its map (float32 C x S x S)."""
    return int(np.square(maps.astype(np.float64)).sum((1, 2)).argmax())


def _rows(found: ObjectWindow, maps: dict[str, np.ndarray], score: np.ndarray, probability: np.ndarray,
          labels: np.ndarray, name: str, iou: str) -> list[GridRow]:
    """Columns: the window, a block of the deconvolution network each, the outcome; rows: a layer each."""
    side = labels.shape[0]
    first = [Panel(found.picture, f"window, {side} x {side}"), _map(COARSEST, maps), None, None]
    last = [Panel(heated(score, score.min(), score.max()), f"score map, {name}"),
            Panel(heated(probability, 0, 1), f"probability, {name}"),
            Panel(coloured(labels), f"labels, {name} {iou}"), Panel(coloured(found.labels), "truth")]
    columns = [first]
    for block in BLOCKS:
        layers = [layer for layer in maps if layer.startswith(f"deconv{block}_")]
        own = [_map(layer, maps) for layer in (f"unpool{block}", *layers)]
        columns.append([*own, *[None] * (4 - len(own))])
    return [GridRow(list(row)) for row in zip(*columns, last, strict=True)]


def _map(layer: str, maps: dict[str, np.ndarray]) -> Panel:
    own = maps[layer]
    return Panel(heated(own, 0, own.max()), f"{layer}\n{own.shape[0]} x {own.shape[1]}")
