"""Writes a network as an ONNX file, and compares it with torch before it is left there."""

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deconvnet.conventions import MEAN_RGB
from deconvnet.models.network_files import description
from deconvnet.models.onnx_files import IMAGES, SCORES, OnnxNetwork, check_packages, seal
from deconvnet.models.registry import NETWORKS
from deconvnet.models.weight_files import METADATA_KEY
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.runtime import network_input
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_BYTES = 2**31 - 2**24  # a protobuf message holds 2 GiB; the graph beside the weights is small
TRACED = 4  # windows that the exporter sees; it computes shapes only
COMPARED = (1, 2)  # windows in each batch of the comparison: other batches than the traced one
TYPICAL, LABELS = 1e-4, 0.98  # what a comparison must reach; see Comparison


@dataclass(frozen=True)
class Comparison:
    """How far onnxruntime's scores are from torch's, on random windows.

    largest, median: of the absolute differences. scale: the largest absolute score. labels: the share of pixels with
    the same most probable class.

    Two values of a pooling window may be so close that rounding decides which one is the larger. The switch then is
    another, and so are the scores around it, by a few percent of the largest: between two memory layouts of torch as
    well. So the median is held to rounding, not the largest difference; and most of the labels must be the same.
    """

    largest: float
    median: float
    scale: float
    labels: float

    @property
    def agrees(self) -> bool:
        """Whether this is rounding: the median at most TYPICAL of the scale, LABELS of the labels the same."""
        return self.median <= TYPICAL * self.scale and self.labels >= LABELS

    def __str__(self) -> str:
        return (f"largest difference {self.largest:.2g}, median {self.median:.2g}, of scores up to {self.scale:.3g}; "
                f"{100 * self.labels:.2f} % of the labels are the same")


def export_onnx(model: nn.Module, path: Path, kind: str, recipe: Recipe, origin: dict[str, Any]) -> Comparison:
    """Writes a network in evaluation mode as an ONNX file, float32, for any number of windows of its fixed side.

    The graph's input `images` is N x 3 x S x S, RGB minus the mean, its output `scores` N x C x S x S. What the
    network is stands in the metadata, as in its safetensors file. origin: where the weights are from. Raises UserError,
    and leaves no file, for a network that torch cannot export, that is too large, or whose scores in onnxruntime are
    not torch's.
    """
    check_packages("onnx", "onnxruntime", "onnxscript")
    size = sum(value.nbytes for value in model.state_dict().values())
    if size > MOST_BYTES:
        raise UserError(f"{path}: the weights take {size / 1e9:.1f} GB; an ONNX file holds {MOST_BYTES / 1e9:.1f} GB: "
                        f"export a narrower network ({NETWORKS[kind].recipe_section}.width)")
    side = NETWORKS[kind].side(recipe)
    proto = _graph(model, side, path)
    about = description(kind, recipe) | {
        "class_names": recipe.data.classes, "side": side, "mean_rgb": [round(float(mean), 3) for mean in MEAN_RGB],
        "origin": origin, "recipe": recipe_to_dict(recipe)}
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(about))
    proto.doc_string = (f"{NETWORKS[kind].title}. {IMAGES}: N x 3 x {side} x {side}, float32, RGB in 0 .. 255 minus "
                        f"{about['mean_rgb']}. {SCORES}: N x {about['classes']} x {side} x {side}, before the softmax.")
    content = proto.SerializeToString()
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.write(seal(content))
        found = compare(model, OnnxNetwork(temporary), side)
        if not found.agrees:
            raise UserError(f"{path}: not written: onnxruntime's scores are not torch's: {found}")
    return found


def _graph(model: nn.Module, side: int, path: Path) -> "ModelProto":
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # they tell each step, and warn of their own defaults
        logging.getLogger(name).setLevel(logging.ERROR)
    from torch.onnx import OnnxExporterError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            program = torch.onnx.export(model, (torch.zeros(TRACED, 3, side, side),), dynamo=True,
                                        input_names=[IMAGES], output_names=[SCORES],
                                        dynamic_shapes=({0: "batch"},), verbose=False)
    except OnnxExporterError as error:
        raise UserError(f"{path}: torch cannot export this network: {' '.join(str(error).split())[:300]}") from None
    assert program is not None  # it is one where dynamo=True
    proto: ModelProto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output, proto.graph):
        del part.metadata_props[:]  # source lines and paths of this machine
    return proto


def compare(model: nn.Module, exported: nn.Module, side: int) -> Comparison:
    """The two networks' scores of the same random windows, in batches of COMPARED."""
    generator = torch.Generator().manual_seed(0)
    differences, scale, same = [], 0.0, []
    with torch.inference_mode():
        for count in COMPARED:
            windows = network_input(torch.randint(0, 256, (count, 3, side, side), generator=generator))
            scores, others = model(windows).numpy(), exported(windows).numpy()
            differences.append(np.abs(scores - others))
            scale = max(scale, float(np.abs(scores).max()))
            same.append(scores.argmax(1) == others.argmax(1))
    flat = np.concatenate([one.ravel() for one in differences])
    return Comparison(float(flat.max()), float(np.median(flat)), scale,
                      float(np.concatenate([one.ravel() for one in same]).mean()))
