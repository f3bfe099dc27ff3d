"""From the published Caffe files to this project's state dicts.

    DeconvNet  stage_1/2_train_result (BN statistics not in it), DeconvNet_trainval_inference (BN folded)
    VGG16      VGG_ILSVRC_16_layers_conv, VGG_ILSVRC_16_layers (fc6, fc7 as inner products)
    FCN        fcn-8s-pascal (CVPR 2015, older names and layout), fcn8s-heavy-pascal, their 16s and 32s

What changes: names ('-' to '_', older FCN names), conv1_1's input channels BGR to RGB, inner products to
convolutions, biases and BN's scale and shift (1 x 1 x 1 x N, 1 x N x 1 x 1 or N) to N. Weights of convolutions
(out, in, kh, kw) and deconvolutions (in, out, kh, kw) have torch's layout. Expected shapes come from the network
itself; its width, input size and class count from the file. Every layer with weights must be used.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deconvnet.conventions import VOC_CLASSES
from deconvnet.models.caffemodel import CaffeLayer, read_caffemodel
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.fcn import SKIPS, UPSAMPLINGS, Fcn
from deconvnet.models.vgg16 import FC_CHANNELS, Vgg16Network
from deconvnet.recipe import Fcn as FcnRecipe
from deconvnet.recipe import Network
from deconvnet.support.errors import UserError

# Names in Caffe's own example of turning inner products into convolutions; fc8 is ImageNet's classifier.
VGG16_ALIASES = {"fc6_conv": "fc6", "fc7_conv": "fc7", "fc8_conv": "fc8"}
# fcn-8s-pascal (score-fr, score2, score4, upsample); the PASCAL-Context one (score59, upsample-fused-16).
FCN_ALIASES = {"score59": "score_fr", "score2": "upscore2", "score4": "upscore_pool4",
               "upsample_fused_16": "upscore_pool4"}
LAST_UPSAMPLING_ALIASES = ("upsample", "upscore")
# A folded layer computes scale * x + shift. A BatchNorm of variance 1024 (root 32) and weight 32 * scale computes
# exactly that for any bn_eps up to 3e-5: 1024 + eps is 1024 in float32.
FOLDED_VARIANCE = 1024.0
WIDEST = 16


@dataclass
class Imported:
    """A state dict (float32; mostly views of the file) and the metadata of its safetensors file.

    metadata: kind; width, input (DeconvNet) or fc6_kernel (FCN), class count, VOC's names if there are 21 classes;
    bn: 'folded', or 'unmeasured', when the tensors have no running statistics and `stages.bn_statistics` must measure
    them.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]


def import_caffe(path: Path | str, kind: str = "auto", bn: str = "auto") -> Imported:
    """Reads a .caffemodel as the state dict of one of KINDS. Raises UserError that names the file and the layer.

    bn: whether a DeconvNet's scale and shift are 'folded' (inference model) or 'unmeasured' (training model);
    auto: from the BN layers in the file (see `_bn_state`).
    """
    path = Path(path)
    layers = _own_names(read_caffemodel(path), kind, path)
    kind = _kind(layers) if kind == "auto" else kind
    if bn != "auto" and kind != "deconvnet":
        raise UserError(f"{path}: is a {kind}, which has no BN layers: omit --bn")
    if kind == "deconvnet":
        network, metadata = _deconvnet(layers, path)
        metadata["bn"] = _bn_state(layers, path) if bn == "auto" else bn
    elif kind == "vgg16":
        network, metadata = _vgg16(layers, path)
        layers.pop("fc8", None)
    else:
        network, metadata = _fcn(int(kind.removeprefix("fcn").removesuffix("s")), layers, path)
    modules = {name: module for name, module in network.named_children() if list(module.parameters())}

    _account(layers, modules, kind, path)
    tensors: dict[str, np.ndarray] = {}
    for name, module in modules.items():
        tensors |= _layer_tensors(name, module, layers[name], path)
    tensors["conv1_1.weight"] = np.ascontiguousarray(tensors["conv1_1.weight"][:, ::-1])  # BGR to RGB
    if isinstance(network, Fcn):
        _move_upsampling_biases(tensors, network.stride, layers, path)
    if metadata.get("bn") == "folded":
        _add_folded_statistics(tensors, modules)
    return Imported(tensors, {"kind": kind, "source": path.name} | metadata)


def _own_names(layers: dict[str, CaffeLayer], kind: str, path: Path) -> dict[str, CaffeLayer]:
    own = {name.replace("-", "_"): layer for name, layer in layers.items()}
    is_fcn = kind.startswith("fcn") or (kind == "auto" and _kind(own).startswith("fcn"))
    if is_fcn:
        last = UPSAMPLINGS[_fcn_stride(own)][-1]
        aliases = FCN_ALIASES | {name: last for name in LAST_UPSAMPLING_ALIASES}
    else:
        aliases = VGG16_ALIASES if "seg_score_voc" not in own else {}
    own = {}
    for name, layer in layers.items():
        name = name.replace("-", "_")
        name = aliases.get(name, name)
        if name in own:
            raise UserError(f"{path}: layers {own[name].name!r} and {layer.name!r} are both {name}")
        own[name] = layer
    return own


def _kind(layers: dict[str, CaffeLayer]) -> str:
    if "seg_score_voc" in layers:
        return "deconvnet"
    if "score_fr" in layers or "score59" in layers:
        return f"fcn{_fcn_stride(layers)}s"
    return "vgg16"


def _fcn_stride(layers: dict[str, CaffeLayer]) -> int:
    return 8 if "score_pool3" in layers else 16 if "score_pool4" in layers else 32


def _deconvnet(layers: dict[str, CaffeLayer], path: Path) -> tuple[nn.Module, dict[str, Any]]:
    width, kernel = _width(layers, path), _fc6_kernel(layers, path)
    classes = _class_count(layers, "seg_score_voc", path)
    recipe = Network(width=width, input=32 * kernel)
    with torch.device("meta"):  # shapes without memory
        network = DeconvNet(recipe, classes)
    return network, {"width": width, "input": recipe.input, **_described(classes)}


def _vgg16(layers: dict[str, CaffeLayer], path: Path) -> tuple[nn.Module, dict[str, Any]]:
    width, kernel = _width(layers, path), _fc6_kernel(layers, path)
    with torch.device("meta"):
        network = Vgg16Network(width, False, nn.Identity)
        network.add_fully_connected(kernel)
    return network, {"width": width, "input": 32 * kernel}


def _fcn(stride: int, layers: dict[str, CaffeLayer], path: Path) -> tuple[nn.Module, dict[str, Any]]:
    width, kernel = _width(layers, path), _fc6_kernel(layers, path)
    classes = _class_count(layers, "score_fr", path)
    with torch.device("meta"):
        network = Fcn(stride, classes, FcnRecipe(width=width, fc6_kernel=kernel))
    return network, {"width": width, "fc6_kernel": kernel, **_described(classes)}


def _width(layers: dict[str, CaffeLayer], path: Path) -> float:
    width = _outputs(layers, "fc6", path) / FC_CHANNELS
    if not 0 < width <= WIDEST:
        raise UserError(f"{path}: layer 'fc6' has {width * FC_CHANNELS:.0f} outputs; expected {FC_CHANNELS}")
    return width


def _fc6_kernel(layers: dict[str, CaffeLayer], path: Path) -> int:
    before, after = _outputs(layers, "conv5_3", path), _outputs(layers, "fc6", path)
    return max(1, round(math.sqrt(layers["fc6"].blobs[0].size / max(1, before * after))))


def _class_count(layers: dict[str, CaffeLayer], name: str, path: Path) -> int:
    count = _outputs(layers, name, path)
    if not 2 <= count <= 255:
        raise UserError(f"{path}: layer {layers[name].name!r} has {count} outputs; expected 2 to 255 classes")
    return count


def _described(classes: int) -> dict[str, Any]:
    """The number of classes, and VOC's names if it is VOC's number: Caffe's files have no class names."""
    return {"classes": classes, **({"class_names": VOC_CLASSES} if classes == len(VOC_CLASSES) else {})}


def _outputs(layers: dict[str, CaffeLayer], name: str, path: Path) -> int:
    if name not in layers:
        raise UserError(f"{path}: layer {name!r} is missing; expected a DeconvNet, VGG16 or FCN-8s, 16s or 32s")
    if len(layers[name].blobs) != 2:
        raise UserError(f"{path}: layer {layers[name].name!r} has {len(layers[name].blobs)} blobs; expected 2 "
                        "(weight, bias)")
    return layers[name].blobs[1].size


def _bn_state(layers: dict[str, CaffeLayer], path: Path) -> str:
    """Whether BN is folded; the blobs (scale, shift) look the same in both.

    The release's script that folds BN saves a net whose BN layers have three outputs (batch mean and variance too);
    those of the training nets have one. A net saved in INFERENCE mode is folded as well.
    """
    states = set()
    for name, layer in layers.items():
        if "bn" in name:
            if layer.top_count == 0 and not layer.bn_inference:
                states.add("unknown")
            else:
                states.add("folded" if layer.bn_inference or layer.top_count == 3 else "unmeasured")
    if len(states) == 1 and "unknown" not in states:
        return states.pop()
    raise UserError(f"{path}: its BN layers do not show whether BN is folded; give --bn folded (inference model) or "
                    "--bn unmeasured (training model)")


def _account(layers: dict[str, CaffeLayer], modules: dict[str, nn.Module], kind: str, path: Path) -> None:
    missing = [name for name in modules if name not in layers]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path}: layer {missing[0]!r}{more} of a {kind} is missing")
    for name, layer in layers.items():
        if name not in modules:
            raise UserError(f"{path}: layer {layer.name!r} has weights but is not part of a {kind}")


def _layer_tensors(name: str, module: nn.Module, layer: CaffeLayer, path: Path) -> dict[str, np.ndarray]:
    shapes = {key: tuple(value.shape) for key, value in module.named_parameters()}  # weight first, then bias
    upsampling = isinstance(module, nn.ConvTranspose2d) and module.bias is None
    if len(layer.blobs) != len(shapes) and not (upsampling and len(layer.blobs) == 2):
        raise UserError(f"{path}: layer {layer.name!r} has {len(layer.blobs)} blobs; expected {len(shapes)} "
                        f"({', '.join(shapes)})")
    found = {}
    for (key, shape), blob in zip(shapes.items(), layer.blobs, strict=False):
        if not _fits(blob.shape, shape, inner_product=name in ("fc6", "fc7")):
            raise UserError(f"{path}: layer {layer.name!r}: {key} is {_times(blob.shape)}, expected {_times(shape)}")
        _check_finite(blob, layer, path)
        found[f"{name}.{key}"] = blob.reshape(shape)
    return found


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], inner_product: bool) -> bool:
    if len(expected) == 1:  # 1 x 1 x 1 x N, 1 x N x 1 x 1, N
        return math.prod(shape) == expected[0] and sum(size != 1 for size in shape) <= 1
    if shape == expected:
        return True
    leading = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    matrix = (expected[0], math.prod(expected[1:]))
    return inner_product and shape[min(leading, max(0, len(shape) - 2)) :] == matrix


def _check_finite(blob: np.ndarray, layer: CaffeLayer, path: Path) -> None:
    if not np.isfinite(blob).all():
        raise UserError(f"{path}: layer {layer.name!r} has weights that are not finite")


def _move_upsampling_biases(tensors: dict[str, np.ndarray], stride: int, layers: dict[str, CaffeLayer],
                            path: Path) -> None:
    """The CVPR 2015 nets give upsampling a bias, ours do not have it: it moves to the score layer that is added next.

    Only the last upsampling has no layer after it; Caffe never trained that one, so its bias is 0.
    """
    *earlier, last = UPSAMPLINGS[stride]
    for upsampling, skip in zip((*earlier, last), (*SKIPS[stride], None), strict=True):
        layer = layers[upsampling]
        if len(layer.blobs) == 1:
            continue
        bias, classes = layer.blobs[1], tensors["score_fr.bias"].shape
        if not _fits(bias.shape, classes, inner_product=False):
            raise UserError(f"{path}: layer {layer.name!r}: bias is {_times(bias.shape)}, expected {_times(classes)}")
        _check_finite(bias, layer, path)
        if skip:
            tensors[f"{skip}.bias"] = tensors[f"{skip}.bias"] + bias.reshape(classes)
        elif bias.any():
            raise UserError(f"{path}: layer {layer.name!r} has a bias that is not 0; expected no bias, or 0")


def _add_folded_statistics(tensors: dict[str, np.ndarray], modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d):
            tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * np.float32(math.sqrt(FOLDED_VARIANCE))
            tensors[f"{name}.running_mean"] = np.zeros(module.num_features, np.float32)
            tensors[f"{name}.running_var"] = np.full(module.num_features, FOLDED_VARIANCE, np.float32)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
