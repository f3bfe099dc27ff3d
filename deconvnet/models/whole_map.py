"""Convolutions whose kernel is as large as the map, as the matrix products that they are: fc6, fc7 and fc6_deconv.

On a window the three see or make one pixel (Table 2). A convolution's code rearranges their weights, 0.9 GB at full
width, for every call, which took half of the time of a window scored by itself; a matrix product reads them as they
lie. Sums are the same up to the rounding of their order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST = (2, 3, 1)  # rows, columns, channels: how weights and maps lie in channels_last


def _order(weight: Tensor) -> tuple[int, int, int]:
    """The order of a weight's last three dimensions in memory, in which they flatten without a copy."""
    return LAST if weight.is_contiguous(memory_format=torch.channels_last) else (1, 2, 3)


class WholeMapConv2d(nn.Conv2d):
    """A convolution that is a matrix product where its map, N x C x k x k, is of its kernel's size; no padding."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.kernel_size:
            return super().forward(x)
        kernel, seen = (one.permute(0, *_order(self.weight)).flatten(1) for one in (self.weight, x))
        return F.linear(seen, kernel, self.bias)[:, :, None, None]


class FromPixelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution, no padding, that is a matrix product where its map is one pixel, N x C x 1 x 1."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if x.shape[2:] != (1, 1):
            return super().forward(x, output_size)
        kernel = self.weight.permute(0, *_order(self.weight))
        made = torch.mm(x.flatten(1), kernel.flatten(1)).view(len(x), *kernel.shape[1:])
        if _order(self.weight) == LAST:
            made = made.permute(0, 3, 1, 2)
        return made if self.bias is None else made + self.bias[:, None, None]
