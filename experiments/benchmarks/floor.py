"""The floor: the time that a call's arithmetic and its bytes take at the machine's measured peak.

Each convolution takes at least the longer of two times: its operations at the speed of a large matrix product, and
reading its input and weights and writing its output at the speed of a large copy. All that stands between convolutions
(batch normalisation, ReLU, pooling, unpooling) is taken as free, as if it were fused into them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

from experiments.benchmarks.base import Work

SIDE = 4096  # of the matrices
MAPS = (16, 512, 56, 56)  # of the convolution
COPIED = 1 << 28  # bytes
BYTES = {"fp32": 4, "bf16": 2}


@cache
def peak_operations(precision: str, device: str) -> float:
    """Operations a second of a large matrix product, or of a large convolution where that is faster.

    On AMD's processors torch's float32 matrix product, MKL's, reaches half the speed of its convolutions, oneDNN's.
    """
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    matrix = torch.ones(SIDE, SIDE, dtype=kind, device=device)
    maps = torch.ones(*MAPS, dtype=kind, device=device).to(memory_format=torch.channels_last)
    kernels = torch.ones(MAPS[1], MAPS[1], 3, 3, dtype=kind, device=device).to(memory_format=torch.channels_last)
    operations = 2 * maps.numel() * MAPS[1] * 9
    with torch.inference_mode():
        return max(2 * SIDE**3 / _best(lambda: matrix @ matrix),
                   operations / _best(lambda: F.conv2d(maps, kernels, padding=1)))


@cache
def peak_bytes(device: str) -> float:
    """Bytes a second of a large copy, those read and those written."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * COPIED / _best(lambda: target.copy_(source))


def _best(statement: Callable[[], Any]) -> float:
    timer = Timer("statement()", globals={"statement": statement}, num_threads=torch.get_num_threads())
    return min(timer.timeit(1).median for _ in range(3))


def floor(work: Work, precision: str, device: str) -> float:
    """Seconds that a call cannot go below in this precision, on this machine."""
    speed, width = peak_operations(precision, device), peak_bytes(device)
    share = BYTES[precision] / BYTES["fp32"]
    return sum(max(operations / speed, share * moved / width) for operations, moved in work.steps)


class _Steps(TorchDispatchMode):
    """Notes operations and bytes of each convolution and matrix product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            operations = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            outs = out if isinstance(out, tuple) else (out,)
            moved = sum(one.numel() * 4 for one in (*args, *outs) if isinstance(one, Tensor))
            self.steps.append((float(operations), float(moved)))
        return out


@contextmanager
def counted() -> Iterator[list[tuple[float, float]]]:
    """Within it, the steps of what torch computes are added to the list that it gives."""
    with _Steps() as mode:
        yield mode.steps
