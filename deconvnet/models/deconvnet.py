"""DeconvNet, Table 2 of the paper: VGG16 up to fc7 as convolutions, and its mirror image.

    conv1_1 ... pool5, fc6, fc7 | fc6_deconv, unpool5, deconv5_1 ... deconv1_2, seg_score_voc

Batch normalisation and ReLU follow every layer but the last (section 4.1). Layers carry the names of the
authors' released model with '-' turned to '_'. A narrow network (recipe key network.width) is the same
network with fewer channels, a small one (network.input) has smaller fc6 and fc6_deconv kernels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconvnet.recipe import Network

VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels before each pooling
FC_CHANNELS = 4096


def scaled(channels: int, width: float) -> int:
    """The channel count of a layer of Table 2 in a network of the given width."""
    return max(1, round(channels * width))


def convolution_names() -> list[list[str]]:
    """The names of VGG16's convolutions by block: [[conv1_1, conv1_2], ..., [conv5_1, conv5_2, conv5_3]]."""
    return [[f"conv{block}_{i}" for i in range(1, count + 1)] for block, (count, _) in enumerate(VGG16_BLOCKS, 1)]


class DeconvNet(nn.Module):
    """The deconvolution network. Input N x 3 x S x S (RGB minus mean), output scores N x classes x S x S."""

    def __init__(self, recipe: Network, class_count: int) -> None:
        super().__init__()
        self.unpooling = recipe.unpooling
        self.batch_norm = recipe.batch_norm
        self.eps = recipe.bn_eps
        channels = [scaled(count, recipe.width) for _, count in VGG16_BLOCKS]
        fc = scaled(FC_CHANNELS, recipe.width)
        coarsest = recipe.input // 32  # side of pool5, and so of fc6's kernel: 7 for 224

        before = 3
        for names, after in zip(convolution_names(), channels, strict=True):
            for name in names:
                self._add(name, nn.Conv2d(before, after, 3, padding=1))
                before = after
        self._add("fc6", nn.Conv2d(before, fc, coarsest))
        self._add("fc7", nn.Conv2d(fc, fc, 1))

        self._add("fc6_deconv", nn.ConvTranspose2d(fc, before, coarsest))
        for block in (5, 4, 3, 2, 1):
            names = [name.replace("conv", "deconv") for name in convolution_names()[block - 1]]
            own, below = channels[block - 1], channels[max(block - 2, 0)]
            for name in names:  # the last layer of a block brings the channels down to those of the block below
                after = below if name == names[-1] else own
                self._add(name, nn.ConvTranspose2d(own, after, 3, padding=1))
        # Table 2 gives the output layer a padding of 1, which would make it 226 x 226: a slip of the pen.
        self.seg_score_voc = nn.Conv2d(channels[0], class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, switches = images, []
        for names in convolution_names():
            for name in names:
                x = self._layer(name, x)
            x, where = self._pool(x)
            switches.append(where)
        for name in ("fc6", "fc7", "fc6_deconv"):
            x = self._layer(name, x)
        for names in reversed(convolution_names()):
            x = self._unpool(x, switches.pop())
            for name in names:
                x = self._layer(name.replace("conv", "deconv"), x)
        return self.seg_score_voc(x)

    def _add(self, name: str, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        self.add_module(name, layer)
        if self.batch_norm:
            self.add_module(batch_norm_name(name), nn.BatchNorm2d(layer.out_channels, eps=self.eps))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        x = getattr(self, name)(x)
        if self.batch_norm:
            x = getattr(self, batch_norm_name(name))(x)
        return F.relu(x, inplace=True)

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.unpooling == "switches":
            return F.max_pool2d(x, 2, return_indices=True)
        return (F.avg_pool2d(x, 2) if self.unpooling == "average" else F.max_pool2d(x, 2)), None

    def _unpool(self, x: Tensor, switches: Tensor | None) -> Tensor:
        """Section 3.2.1: each activation goes to where the maximum was; and the variants without switches."""
        if self.unpooling == "switches":
            return F.max_unpool2d(x, switches, 2)
        if self.unpooling == "fixed":
            return F.conv_transpose2d(x, _top_left(x), stride=2, groups=x.shape[1])
        if self.unpooling == "average":  # average pooling's transpose: a value is divided among its four places
            return F.interpolate(x, scale_factor=2, mode="nearest") / 4
        if self.unpooling == "tile":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def batch_norm_name(layer: str) -> str:
    """The released model's name for the batch normalisation behind a layer."""
    if layer == "fc6_deconv":
        return "fc6_deconv_bn"
    return layer.replace("conv", "bn") if "conv" in layer else f"bn{layer}"


def _top_left(x: Tensor) -> Tensor:
    kernel = torch.zeros(x.shape[1], 1, 2, 2, dtype=x.dtype, device=x.device)
    kernel[:, :, 0, 0] = 1
    return kernel
