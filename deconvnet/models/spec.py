"""What the rest of the project asks of a network: the contract that each entry of NETWORKS keeps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deconvnet.recipe import Recipe


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name.

    build: a network of the recipe's shape; it has `initialise(generator)`, which draws its weights, and maps pictures
    N x 3 x H x W (RGB minus the mean) to scores N x classes x H x W. describe: what tells two networks of this name
    apart; kept in their files. published: readers of weights files of other programs, by suffix.
    """

    name: str
    build: Callable[[Recipe], nn.Module]
    describe: Callable[[Recipe], dict[str, Any]]
    published: dict[str, Callable[[Path, Recipe], dict[str, Tensor]]] = field(default_factory=dict)
