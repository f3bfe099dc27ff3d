"""Pooling that records its switches, and unpooling that uses them (section 3.2.1); and the variants without switches.

Recipe key network.unpooling: switches [P]; fixed, average, tile, bilinear are variants that the paper argues against.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pool(nn.Module):
    """2 x 2 pooling, stride 2. Returns the map and its switches: where each maximum was (None without them)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.kind == "switches":
            return F.max_pool2d(x, 2, return_indices=True)
        return (F.avg_pool2d(x, 2) if self.kind == "average" else F.max_pool2d(x, 2)), None


class Unpool(nn.Module):
    """Doubles the size: each activation goes to where the maximum was, zeros elsewhere; or a variant without switches.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, switches: Tensor | None, size: torch.Size | None = None) -> Tensor:
        """size: of the map before pooling, if its sides may be odd."""
        if self.kind == "switches":
            assert switches is not None  # Pool has them
            sides = size or [2 * side for side in x.shape[2:]]
            # not torch.nn.functional's, which imports torch.export, and with it sympy, to check the sides: 0.3 s
            return torch.ops.aten.max_unpool2d(x, switches, sides[-2:])
        if self.kind == "fixed":
            return F.conv_transpose2d(x, _top_left(x), stride=2, groups=x.shape[1])
        if self.kind == "average":  # average pooling's transpose: a value is divided among its four places
            return F.interpolate(x, scale_factor=2, mode="nearest") / 4
        if self.kind == "tile":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _top_left(x: Tensor) -> Tensor:
    kernel = torch.zeros(x.shape[1], 1, 2, 2, dtype=x.dtype, device=x.device)
    kernel[:, :, 0, 0] = 1
    return kernel
