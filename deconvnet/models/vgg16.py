"""VGG16 (Simonyan, Zisserman, ICLR 2015) as convolutions: the trunk that all networks here share.

    conv1_1, conv1_2, pool1, conv2_1 ... conv5_3, pool5, fc6, fc7

A network with this trunk is a subclass of Vgg16Network. Its layers are direct children of the network, under the names
of the authors' released model with '-' replaced by '_', so that one file of VGG16 weights fits all. `width` multiplies
the channel counts: a narrow network is the same one with fewer channels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconvnet.models.whole_map import WholeMapConv2d

VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels before each pooling
FC_CHANNELS = 4096


def scaled(channels: int, width: float) -> int:
    """The channel count of a layer in a network of the given width."""
    return max(1, round(channels * width))


def convolution_names() -> list[list[str]]:
    """The names of the convolutions by block: [[conv1_1, conv1_2], ..., [conv5_1, conv5_2, conv5_3]]."""
    return [[f"conv{block}_{i}" for i in range(1, count + 1)] for block, (count, _) in enumerate(VGG16_BLOCKS, 1)]


def batch_norm_name(layer: str) -> str:
    """The released model's name for the batch normalisation after a layer."""
    if layer == "fc6_deconv":
        return "fc6_deconv_bn"
    return layer.replace("conv", "bn") if "conv" in layer else f"bn{layer}"


def vgg16_shapes(width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Shapes of VGG16's weights and biases with fc6, fc7 as convolutions, by our names."""
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


class Vgg16Network(nn.Module):
    """A network whose first layers are VGG16's thirteen convolutions. Input N x 3 x H x W: RGB minus the mean."""

    def __init__(self, width: float, batch_norm: bool, pooling: Callable[[], nn.Module], bn_eps: float = 1e-5,
                 first_padding: int = 1, fc_channels: int = FC_CHANNELS) -> None:
        """pooling: makes the module after each block; first_padding: of conv1_1 (FCN pads the image there).

        fc_channels: of fc6 and fc7, before width.
        """
        super().__init__()
        self.batch_norm, self.bn_eps = batch_norm, bn_eps
        self.channels = [scaled(count, width) for _, count in VGG16_BLOCKS]
        self.fc_channels = scaled(fc_channels, width)
        before = 3
        for block, (names, after) in enumerate(zip(convolution_names(), self.channels, strict=True), 1):
            for name in names:
                padding = first_padding if name == "conv1_1" else 1
                self.add_layer(name, nn.Conv2d(before, after, 3, padding=padding))
                before = after
            self.add_module(f"pool{block}", pooling())

    def add_layer(self, name: str, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Adds a layer, with its batch normalisation if the network has any."""
        self.add_module(name, layer)
        if self.batch_norm:
            self.add_module(batch_norm_name(name), nn.BatchNorm2d(layer.out_channels, eps=self.bn_eps))

    def add_fully_connected(self, fc6_kernel: int) -> None:
        """Adds fc6 and fc7 as convolutions."""
        self.add_layer("fc6", WholeMapConv2d(self.channels[-1], self.fc_channels, fc6_kernel))
        self.add_layer("fc7", WholeMapConv2d(self.fc_channels, self.fc_channels, 1))

    def layer(self, name: str, x: Tensor) -> Tensor:
        """A layer, its batch normalisation, ReLU."""
        x = self.get_submodule(name)(x)
        if self.batch_norm:
            x = self.get_submodule(batch_norm_name(name))(x)
        return F.relu(x, inplace=True)

    def block(self, number: int, x: Tensor) -> Tensor:
        """The convolutions of block 1 ... 5, without its pooling."""
        for name in convolution_names()[number - 1]:
            x = self.layer(name, x)
        return x


def trunk_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of the 13 convolutions, and scale and shift of the batch normalisation after each."""
    children = dict(model.named_children())
    layers = [name for block in convolution_names() for name in block]
    return [value for layer in layers for name in (layer, batch_norm_name(layer)) if name in children
            for value in children[name].parameters()]


def draw_weights(model: nn.Module, std_of: Callable[[str, nn.Module], float], generator: torch.Generator,
                 bn_shift: float = 0.0, single_pixel: tuple[str, ...] = ()) -> None:
    """Draws all weights, in the order of the layers, from a CPU generator: the same on every device.

    std_of(name, layer): the standard deviation of the layer's zero-mean Gaussian; 0 stands for He's sqrt(2 / fan-in).
    Each output of a stride 1 transposed convolution has in_channels * kernel^2 inputs too, except in layers of
    `single_pixel`, whose input is one pixel. Biases get 0, BN scale 1 and shift bn_shift, statistics 0 and 1.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            seen = 1 if name in single_pixel else math.prod(module.kernel_size)
            std = std_of(name, module) or math.sqrt(2 / (module.in_channels * seen))
            drawn = torch.empty(module.weight.shape).normal_(0, std, generator=generator)
            with torch.no_grad():
                module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.constant_(module.bias, bn_shift)
