"""What a training really did, read from its tensors and its optimizer, never from the recipe: trace.json.

    {"starts": [START, ...]}    one for each time that the command began, the first at iteration 0

A START tells: what the weights began from, and their digests; the optimizer's parameter groups; seeds, device, layout;
of the first iterations every forward pass (windows, digests of pictures and labels, type of the scores, BN's modes) and
the rates; every later change of a rate; the first validation; and the BN statistics' batches. So a reader of a run
folder, or a test, can hold what happened against what was meant.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deconvnet.schemas import TraceRecord, read_json
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UserError
from deconvnet.training import ranks

if TYPE_CHECKING:
    from deconvnet.training.trainer import Training

log = logging.getLogger(__name__)

FIRST = 2  # iterations of a start that are told whole


def digest(values: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's values in their logical order; of floats as float32."""
    values = values.detach()
    values = values.float() if values.is_floating_point() else values
    return hashlib.sha256(values.cpu().contiguous().reshape(-1).numpy().data).hexdigest()[:16]


def state_digests(model: nn.Module) -> dict[str, Any]:
    """A digest for each tensor of a network's state, and one for all: of their names and digests."""
    each = {name: digest(value) for name, value in model.state_dict().items()}
    return {"all": hashlib.sha256(repr(sorted(each.items())).encode()).hexdigest()[:16], "tensors": each}


def kind(values: Tensor) -> str:
    """A tensor's type: 'float32', 'bfloat16', ..."""
    return str(values.dtype).removeprefix("torch.")


def bn_modes(model: nn.Module) -> dict[str, int]:
    """How many BN layers a network has, and how many of them are in training mode."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return {"layers": len(layers), "training": sum(layer.training for layer in layers)}


def channels_last(model: nn.Module) -> bool:
    """Whether the convolutions' weights lie in memory with the channels last."""
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Conv2d))
    told = [weight for weight in weights if not weight.is_contiguous()]  # a 1 x 1 kernel's layout is both
    return bool(told) and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in told)


class Trace:
    """trace.json of one training, written whole whenever there is something to add. Costs no random numbers."""

    def __init__(self, path: Path, optimizer: Optimizer) -> None:
        self.path, self.iteration = path, 0
        self.starts: list[dict[str, Any]] = []
        self._rates: list[float] = []
        self._passes: list[dict[str, Any]] = []
        self._positions: deque[int] = deque()
        self._validated = torch.empty(0, dtype=torch.int64)  # rows
        self._wanted = 0  # positions
        optimizer.register_step_pre_hook(lambda used, *_: self._stepped(used))

    @property
    def start(self) -> dict[str, Any]:
        """What is known of this start so far."""
        return self.starts[-1]

    def begin(self, training: "Training") -> None:
        """Tells what a training starts from. One that goes on keeps the starts before; a new one keeps none."""
        model = training.model
        self.iteration = training.iteration
        self.starts = self._before() if self.iteration else []
        self._validated = self._validated[:0]
        self._example_id = training.examples.training.example_id
        self._wanted = FIRST * training.plan.batch // ranks.count()
        self.starts.append({
            "iteration": self.iteration,
            "from": training.origin,
            "file": str(training.start_file) if training.start_file else None,
            "weights": state_digests(model),
            "seed": torch.initial_seed(),
            "crop_seed": list(training.examples.training.seed),
            "device": str(next(model.parameters()).device),
            "threads": torch.get_num_threads(),
            "channels_last": channels_last(model),
            "compiled": training.forward is not model,
            "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
            "groups": [{"rate": group["lr"], "decay": group["weight_decay"], "momentum": group["momentum"],
                        "parameters": sum(parameter.numel() for parameter in group["params"])}
                       for group in training.sgd.optimizer.param_groups],
            "iterations": [],
            "rate_changes": [],
            **({"ranks": ranks.count()} if ranks.count() > 1 else {}),
        })
        self.write()

    def drawn(self, order: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Passes on (position, index) pairs, and records the first positions."""
        for position, row in order:
            if self._wanted:
                self._wanted -= 1
                self._positions.append(position)
            yield position, row

    def passed(self, pictures: Tensor, labels: Tensor, rows: Tensor, scores: Tensor, model: nn.Module) -> None:
        """Notes a forward pass of the first iterations."""
        if len(self.start["iterations"]) < FIRST:
            self._passes.append({
                "positions": [self._positions.popleft() for _ in rows],
                "rows": rows.tolist(),
                "windows": [self._example_id(row) for row in rows.tolist()],
                "pictures": digest(pictures),
                "pictures_channels_last": not pictures.is_contiguous(),
                "labels": digest(labels),
                "scores": kind(scores),
                "bn": bn_modes(model),
            })

    def validating(self, pictures: Tensor, labels: Tensor, rows: Tensor, scores: Tensor, model: nn.Module) -> None:
        """Notes the batches of a start's first validation."""
        if "validation" not in self.start:
            self.start["validation"] = {"iteration": self.iteration, "batch": len(rows), "pictures": digest(pictures),
                                        "labels": digest(labels), "scores": kind(scores), "bn": bn_modes(model)}
        told = self.start["validation"]
        if told["iteration"] == self.iteration:
            self._validated = torch.cat([self._validated, rows])
            told |= {"examples": len(self._validated), "rows": digest(self._validated)}

    def add(self, **facts: Any) -> None:
        """Adds facts to this start."""
        self.start.update(facts)
        self.write()

    def write(self) -> None:
        """Writes what is known; rank 0 does."""
        if ranks.rank() == 0:
            write_json(self.path, {"starts": self.starts})

    def _stepped(self, optimizer: Optimizer) -> None:
        self.iteration += 1
        rates = [group["lr"] for group in optimizer.param_groups]
        if self._passes:
            passes = ranks.gathered(self._passes)
            self.start["iterations"].append({"iteration": self.iteration, "rates": rates, "passes": passes})
            self._passes = []
            self.write()
        elif rates != self._rates:
            change = {"iteration": self.iteration, "before": self._rates, "rates": rates}
            self.start["rate_changes"].append(change)
            self.write()
        self._rates = rates

    def _before(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            return read_json(self.path, TraceRecord).starts
        except UserError:  # no reason not to train on
            log.warning("%s: damaged; starts over, its record of the training so far is lost", self.path)
            return []
