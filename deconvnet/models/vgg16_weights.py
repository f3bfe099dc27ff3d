"""VGG16's published weights (torchvision's two files, Caffe's, or convolutions alone), to initialise every network with
its trunk.

Every reader returns tensors under this project's layer names, for RGB input minus MEAN_RGB, unscaled.
"""

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet.conventions import MEAN_RGB
from deconvnet.models.vgg16 import convolution_names, vgg16_shapes
from deconvnet.models.weight_files import existing, read_safetensors, read_state
from deconvnet.models.weights import check_finite, check_shape, load_into
from deconvnet.support.errors import UsageError, UserError

log = logging.getLogger(__name__)

# Mean and deviation of the input, RGB scaled to 0 .. 1, that torchvision's two VGG16 files were trained with.
# V1 was trained by torchvision; FEATURES are the authors' convolutions (Caffe), with a classifier of NaN.
VGG16_V1 = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VGG16_FEATURES = ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))


def start_from_vgg16(model: nn.Module, path: Path | str) -> set[str]:
    """Initialises a full-width network's convolutions, and fc6 and fc7 where they fit, from a VGG16 file (load_vgg16).

    Returns the names of the tensors that were copied. Raises UsageError for a narrow network or one without VGG16's
    trunk, UserError for a file that is not VGG16.
    """
    existing(path)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in vgg16_shapes().items():
        if name.startswith("conv") and name not in shapes:
            raise UsageError(f"{path}: VGG16's weights fit a network with VGG16's trunk; this one has no {name}: omit "
                             "the VGG16 file")
        if name.startswith("conv") and shapes[name] != shape:
            raise UsageError(
                f"{path}: VGG16's weights fit a network of width 1 only ({name} is {shapes[name]} here, {shape} "
                "there): set the recipe's width to 1 or omit the VGG16 file"
            )
    tensors = load_vgg16(path)
    if "fc6.weight" in tensors and tensors["fc6.weight"].shape != shapes["fc6.weight"]:
        log.warning("%s: fc6 is %s here: fc6, fc7 stay random", path, "x".join(map(str, shapes["fc6.weight"])))
        tensors = {name: value for name, value in tensors.items() if not name.startswith("fc")}
    load_into(model, tensors, required=tensors, source=str(path))
    return set(tensors)


def load_vgg16(path: Path | str) -> dict[str, Tensor]:
    """VGG16 by our names, from stages.import_caffe's file or one of torchvision's two; see convert_vgg16.

    Or from a .safetensors file of the 13 convolutions alone, under our names and for our input. Raises UserError for a
    file that is not VGG16.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        if metadata.get("kind") == "vgg16":
            for name, shape in vgg16_shapes().items():
                if name not in tensors:
                    raise UserError(f"{path}: {name} is missing: import the .caffemodel file again")
                check_shape(name, tensors[name], shape, str(path))
            return tensors
        if "kind" in metadata:
            raise UserError(f"{path}: a {metadata['kind']}; expected VGG16, torchvision's or stages.import_caffe's; a "
                            "network is fine-tuned with --weights")
        if "conv1_1.weight" in tensors:
            return _convolutions(tensors, str(path))
    return convert_vgg16(read_state(path), str(path))


def _convolutions(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The 13 convolutions of a file that has nothing else. Raises UserError."""
    shapes = {name: shape for name, shape in vgg16_shapes().items() if name.startswith("conv")}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{source}: {name} is missing: expected VGG16's 13 convolutions")
        check_shape(name, tensors[name], shape, source)
    for name in tensors:
        if name not in shapes:
            raise UserError(f"{source}: {name} is none of VGG16's 13 convolutions, conv1_1.weight ... conv5_3.bias")
    log.info("%s: the convolutions alone: fc6, fc7 stay random", source)
    return {name: value.float() for name, value in tensors.items()}


def convert_vgg16(state: dict[str, Tensor], source: str, width: float = 1.0) -> dict[str, Tensor]:
    """torchvision's VGG16 state dict -> conv1_1 ... conv5_3, fc6, fc7 for our input.

    The two files differ in the classifier: where it is NaN, the convolutions expect VGG16_FEATURES' input and fc6, fc7
    are left out; else VGG16_V1's. conv1_1 is adapted: with theirs (x / 255 - m) / s and ours x - MEAN, weights are
    divided by 255 s per channel and the bias absorbs the difference of the means. This is exact except for the padding:
    a zero there is the mean colour, which for V1 differs from ours by less than one grey level.

    Raises UserError that names a tensor which is missing, misshapen or not finite.
    """
    names = _torchvision_names()
    shapes = vgg16_shapes(width)
    for name, shape in shapes.items():
        if names[name] not in state:
            raise UserError(f"{source}: {names[name]} is missing: expected torchvision's VGG16 with its classifier")
        if name in ("fc6.weight", "fc7.weight"):
            shape = (shape[0], math.prod(shape[1:]))  # a Linear layer there
        check_shape(names[name], state[names[name]], shape, source)
    bare = bool(state[names["fc6.weight"]].isnan().all())
    if bare:
        log.info("%s: its classifier is NaN (torchvision's IMAGENET1K_FEATURES): fc6, fc7 stay random", source)
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("fc")}
    tensors = {}
    for name, shape in shapes.items():
        check_finite(names[name], state[names[name]], source)
        tensors[name] = state[names[name]].float().reshape(shape)
    mean, deviation = (np.array(values) for values in (VGG16_FEATURES if bare else VGG16_V1))
    weight = tensors["conv1_1.weight"].double()
    shift = _channels((MEAN_RGB / 255 - mean) / deviation)
    tensors["conv1_1.bias"] = (tensors["conv1_1.bias"].double() + (weight * shift).sum((1, 2, 3))).float()
    tensors["conv1_1.weight"] = (weight / _channels(255 * deviation)).float()
    return tensors


def _torchvision_names() -> dict[str, str]:
    """Our names -> torchvision's: conv1_1.weight -> features.0.weight, fc6.bias -> classifier.0.bias."""
    layers, position = {"fc6": "classifier.0", "fc7": "classifier.3"}, 0
    for names in convolution_names():
        for name in names:
            layers[name] = f"features.{position}"
            position += 2  # the convolution and its ReLU
        position += 1  # the pooling
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in layers.items() for part in ("weight", "bias")}


def _channels(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
