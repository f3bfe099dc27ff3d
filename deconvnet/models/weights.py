"""Where a network's weights come from and go to: random ones, VGG16's, a published FCN-8s, safetensors files.

Every reader answers with tensors under this project's layer names, for RGB input minus MEAN_RGB, unscaled.
"""

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet import recipe as recipes
from deconvnet.data.windows import MEAN_RGB
from deconvnet.models.deconvnet import FC_CHANNELS, VGG16_BLOCKS, convolution_names, scaled
from deconvnet.models.fcn import Fcn
from deconvnet.models.weight_files import existing, read_safetensors, read_state
from deconvnet.support.errors import UsageError, UserError

log = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # torch's BN counter: nothing here reads it, other programs' files lack it

# Mean and deviation of the input, RGB scaled to 0 .. 1, that torchvision's two VGG16 files were trained with.
# V1 is torchvision's own training; FEATURES are the authors' convolutions (Caffe), with a classifier of NaN.
VGG16_V1 = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VGG16_FEATURES = ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))


def initialise(
    model: nn.Module, conv_std: float, deconv_std: float, generator: torch.Generator, bn_shift: float = 0.0
) -> None:
    """Draws all weights anew, in the order of the layers, from a CPU generator: the same on every device.

    Convolutions get N(0, conv_std), transposed ones and DeconvNet's score layer, which ends its deconvolution
    network, N(0, deconv_std); 0 stands for He's sqrt(2 / fan-in). Each output of a stride 1 transposed convolution sees
    in_channels * kernel^2 inputs too, but for fc6_deconv, whose input is a single pixel. Biases get 0, BN scale 1 and
    shift bn_shift, statistics 0 and 1. An Fcn's score and upsampling layers keep their own rule.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            std = deconv_std if isinstance(module, nn.ConvTranspose2d) or name == "seg_score_voc" else conv_std
            seen = 1 if name == "fc6_deconv" else math.prod(module.kernel_size)
            std = std or math.sqrt(2 / (module.in_channels * seen))
            drawn = torch.empty(module.weight.shape).normal_(0, std, generator=generator)
            with torch.no_grad():
                module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.constant_(module.bias, bn_shift)
    if isinstance(model, Fcn):
        model.initialise_head()


def load_into(
    model: nn.Module, tensors: dict[str, Tensor], required: Collection[str] | None = None, source: str = "weights"
) -> None:
    """Copies tensors into a model's parameters and buffers of the same names.

    required: names that must be among them; None: all of the model's. Nothing is copied unless all fits. Raises
    UserError, naming tensor and source, for a missing, unknown, misshapen or not finite one.
    """
    own = model.state_dict()
    if required is None:
        required = [name for name in own if not name.endswith(COUNTER)]
    for name in required:
        if name not in tensors:
            raise UserError(f"{source}: {name} is missing, expected a tensor of shape {tuple(own[name].shape)}")
    for name, value in tensors.items():
        if name not in own:
            raise UserError(f"{source}: {name} is not a tensor of this network; the file is of another network")
        _check_shape(name, value, tuple(own[name].shape), source)
        if value.is_floating_point() != own[name].is_floating_point():
            raise UserError(f"{source}: {name} is {value.dtype}, expected {own[name].dtype}")
        _check_finite(name, value, source)
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def start_from_vgg16(model: nn.Module, path: Path | str) -> None:
    """Fills a full-width network's convolutions, and fc6 and fc7 where they fit, from a VGG16 file (load_vgg16).

    Raises UsageError for a narrow network, UserError for a file that is not VGG16.
    """
    existing(path)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in vgg16_shapes().items():
        if name.startswith("conv") and shapes[name] != shape:
            raise UsageError(
                f"{path}: VGG16's weights fit a network of width 1 only ({name} is {shapes[name]} here, {shape} "
                "there): set the recipe's width to 1 or leave the VGG16 file out"
            )
    tensors = load_vgg16(path)
    if "fc6.weight" in tensors and tensors["fc6.weight"].shape != shapes["fc6.weight"]:
        log.warning("%s: fc6 is %s here: fc6, fc7 stay random", path, "x".join(map(str, shapes["fc6.weight"])))
        tensors = {name: value for name, value in tensors.items() if not name.startswith("fc")}
    load_into(model, tensors, required=tensors, source=str(path))


def load_vgg16(path: Path | str) -> dict[str, Tensor]:
    """VGG16 by our names, from stages.import_caffe's file or one of torchvision's two; see convert_vgg16.

    Raises UserError for a file that is not VGG16.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        if metadata.get("kind") == "vgg16":
            for name, shape in vgg16_shapes().items():
                if name not in tensors:
                    raise UserError(f"{path}: {name} is missing: import the .caffemodel again")
                _check_shape(name, tensors[name], shape, str(path))
            return tensors
        if "kind" in metadata:
            raise UserError(f"{path}: a {metadata['kind']}; expected VGG16, torchvision's or stages.import_caffe's")
    return convert_vgg16(read_state(path), str(path))


def convert_vgg16(state: dict[str, Tensor], source: str, width: float = 1.0) -> dict[str, Tensor]:
    """torchvision's VGG16 state dict -> conv1_1 ... conv5_3, fc6, fc7 for our input.

    The two files are told apart by the classifier: where it is NaN, the convolutions expect VGG16_FEATURES' input
    and fc6, fc7 are left out; else VGG16_V1's. conv1_1 is adapted: with theirs (x / 255 - m) / s and ours x - MEAN,
    weights are divided by 255 s per channel and the bias takes up the difference of the means. That is exact but
    for the padding: a zero there is the mean colour, which for V1 differs from ours by less than one grey level.

    Raises UserError that names a tensor which is missing, misshapen or not finite.
    """
    names = _torchvision_names()
    shapes = vgg16_shapes(width)
    for name, shape in shapes.items():
        if names[name] not in state:
            raise UserError(f"{source}: {names[name]} is missing: expected torchvision's VGG16 with its classifier")
        if name in ("fc6.weight", "fc7.weight"):
            shape = (shape[0], math.prod(shape[1:]))  # a Linear layer there
        _check_shape(names[name], state[names[name]], shape, source)
    bare = bool(state[names["fc6.weight"]].isnan().all())
    if bare:
        log.info("%s: its classifier is NaN (torchvision's IMAGENET1K_FEATURES): fc6, fc7 stay random", source)
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("fc")}
    tensors = {}
    for name, shape in shapes.items():
        _check_finite(names[name], state[names[name]], source)
        tensors[name] = state[names[name]].float().reshape(shape)
    mean, deviation = (np.array(values) for values in (VGG16_FEATURES if bare else VGG16_V1))
    weight = tensors["conv1_1.weight"].double()
    shift = _channels((MEAN_RGB / 255 - mean) / deviation)
    tensors["conv1_1.bias"] = (tensors["conv1_1.bias"].double() + (weight * shift).sum((1, 2, 3))).float()
    tensors["conv1_1.weight"] = (weight / _channels(255 * deviation)).float()
    return tensors


def vgg16_shapes(width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Shapes of VGG16 with fc6, fc7 as convolutions, by our names; narrower for tests."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for names, (_, count) in zip(convolution_names(), VGG16_BLOCKS, strict=True):
        for name in names:
            after = scaled(count, width)
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before, 3, 3), (after,)
            before = after
    fc = scaled(FC_CHANNELS, width)
    shapes["fc6.weight"], shapes["fc6.bias"] = (fc, before, 7, 7), (fc,)
    shapes["fc7.weight"], shapes["fc7.bias"] = (fc, fc, 1, 1), (fc,)
    return shapes


def load_fcn8s(path: Path | str, recipe: recipes.Fcn | None = None) -> dict[str, Tensor]:
    """Reads wkentaro's fcn8s_from_caffe.pth: our names, but BGR input, so conv1_1's channels are turned round.

    recipe: of the network that will take them, the published one by default. Raises UserError, as load_into.
    """
    state = read_state(Path(path))
    bias = state.get("score_fr.bias")
    if not isinstance(bias, Tensor) or bias.is_nested or bias.ndim != 1 or not 2 <= len(bias) <= 255:
        raise UserError(f"{path}: score_fr.bias is missing, or not of 2 to 255 classes: expected wkentaro's "
                        "fcn8s_from_caffe.pth")
    with torch.device("meta"):  # a network of shapes only, to check against
        network = Fcn(8, len(bias), recipe or recipes.Fcn())
    load_into(network, state, source=str(path))
    return {name: value.flip(1) if name == "conv1_1.weight" else value for name, value in state.items()}


def _check_shape(name: str, value: Any, shape: tuple[int, ...], source: str) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested or value.is_meta:
        raise UserError(f"{source}: {name} is not a dense tensor")
    if tuple(value.shape) != shape:
        raise UserError(f"{source}: {name} has shape {tuple(value.shape)}, expected {shape}")


def _check_finite(name: str, value: Tensor, source: str) -> None:
    if not value.isfinite().all():
        raise UserError(f"{source}: {name} holds NaN or infinity: the file is damaged, fetch it again")


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
