"""The plain baseline: DeconvNet and its aggregation as a reader of the paper would write them in torch."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.vgg16 import batch_norm_name, convolution_names


class PlainDeconvNet(nn.Module):
    """Torch's own layers, one after the other, with the weights of a DeconvNet."""

    def __init__(self, network: DeconvNet) -> None:
        super().__init__()
        names = [name for block in convolution_names() for name in block]
        for name in (*names, "fc6", "fc7", "fc6_deconv", *(one.replace("conv", "deconv") for one in names)):
            given = network.get_submodule(name)
            assert isinstance(given, nn.Conv2d | nn.ConvTranspose2d)
            kind = nn.ConvTranspose2d if isinstance(given, nn.ConvTranspose2d) else nn.Conv2d
            layer = kind(given.in_channels, given.out_channels, given.kernel_size, padding=given.padding)  # type: ignore
            self.add_module(name, layer)
            self.add_module(batch_norm_name(name), nn.BatchNorm2d(given.out_channels, eps=network.bn_eps))
        self.seg_score_voc = nn.Conv2d(network.channels[0], network.seg_score_voc.out_channels, 1)
        self.load_state_dict(network.state_dict())

    def layer(self, name: str, x: Tensor) -> Tensor:
        """Convolution, batch normalisation, ReLU."""
        return F.relu(self.get_submodule(batch_norm_name(name))(self.get_submodule(name)(x)))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for names in convolution_names():
            for name in names:
                x = self.layer(name, x)
            x, switches = F.max_pool2d(x, 2, return_indices=True)
            kept.append(switches)
        for name in ("fc6", "fc7", "fc6_deconv"):
            x = self.layer(name, x)
        for names in reversed(convolution_names()):
            x = F.max_unpool2d(x, kept.pop(), (2, 2))
            for name in names:
                x = self.layer(name.replace("conv", "deconv"), x)
        return self.seg_score_voc(x)


def maximum_of(scores: list[Tensor], windows: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Equation 1: each window's scores (C x S x S) in a map of the image's size (H, W), and the maximum of all."""
    maps = torch.zeros(len(windows), len(scores[0]), *size)
    for one, own, (x1, y1, x2, y2) in zip(maps, scores, windows.tolist(), strict=True):
        enlarged = F.interpolate(own[None], (y2 - y1, x2 - x1), mode="bilinear")[0]
        top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, size[0]), min(x2, size[1])
        one[:, top:bottom, left:right] = enlarged[:, top - y1 : bottom - y1, left - x1 : right - x1]
    return maps.max(0).values


def random_statistics(network: nn.Module) -> None:
    """BN statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
