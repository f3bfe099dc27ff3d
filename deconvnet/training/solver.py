"""Stochastic gradient descent as in the paper, and as in the release's Caffe."""

import math
from reprlib import repr  # of a long list the beginning: 84 numbers are no error line
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, ReduceLROnPlateau, StepLR

from deconvnet.models.vgg16 import trunk_parameters
from deconvnet.recipe import Solver

# What a training changes in the state of torch's rate rules; all else follows from the recipe.
CHANGING = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_step_count", "_last_lr", "_is_initial",
            "_get_lr_called_within_step")


def parameter_groups(model: nn.Module, solver: Solver, accumulation: int) -> list[dict[str, Any]]:
    """Weights (with BN scale and shift) and biases: learning rates and decays as in the release.

    The trunk's are two groups more where they have a learning rate of their own; what is frozen is in none.
    accumulation: passes whose gradients are averaged. Caffe averages only the gradient of the loss there, after
    which the decay is smaller by that factor (solver.decay_over_accumulation).
    """
    decay = solver.weight_decay / (accumulation if solver.decay_over_accumulation else 1)
    biases = {id(module.bias) for module in model.modules()
              if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None}
    learned = [value for value in model.parameters() if value.requires_grad]
    trunk = {id(value) for value in trunk_parameters(model)} if solver.trunk_lr not in (0, 1) else set()
    groups = []
    for multiple in (1.0, solver.trunk_lr) if trunk else (1.0,):
        own = [value for value in learned if (id(value) in trunk) == (multiple != 1)]
        groups += [
            {"params": [value for value in own if id(value) not in biases], "lr": solver.lr * multiple,
             "weight_decay": decay},
            {"params": [value for value in own if id(value) in biases], "lr": solver.lr * multiple * solver.bias_lr,
             "weight_decay": decay * solver.bias_decay},
        ]
    return groups


class ScheduledSgd:
    """torch's SGD with a learning rate rule, and either place for the rate.

    torch: v = momentum * v + g, w -= lr * v. Caffe: v = momentum * v + lr * g, w -= v. The two are the same while
    lr is; when it drops, Caffe's velocity keeps the old rate for a while. So under Caffe's rule torch's velocity is
    multiplied by old / new rate at a drop.
    """

    def __init__(self, model: nn.Module, solver: Solver, accumulation: int, stage: int) -> None:
        """stage: 1 or 2, which of solver.lr_step applies. Freezes the trunk where solver.trunk_lr is 0."""
        self.solver = solver
        if solver.trunk_lr == 0:
            for value in trunk_parameters(model):
                value.requires_grad_(False)
        self.optimizer = SGD(parameter_groups(model, solver, accumulation), lr=solver.lr, momentum=solver.momentum)
        self.rule = self._rate_rule(stage)

    def _rate_rule(self, stage: int) -> LRScheduler | ReduceLROnPlateau:
        solver = self.solver
        if solver.rate_rule == "plateau":  # torch drops after more than `patience` validations without a rise
            return ReduceLROnPlateau(self.optimizer, mode="max", factor=solver.lr_factor,
                                     patience=solver.lr_patience - 1, threshold=0.0)
        if solver.rate_rule == "step":
            return StepLR(self.optimizer, step_size=solver.lr_step[stage - 1], gamma=solver.lr_factor)
        return ConstantLR(self.optimizer, factor=1.0, total_iters=0)

    @property
    def rate(self) -> float:
        """The weights' learning rate, but for a trunk with its own."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self) -> None:
        """One iteration, with the gradients at hand."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.solver.rate_rule != "plateau":
            self._apply_rule()

    def validated(self, accuracy: float) -> None:
        """Tells the plateau rule what a validation found."""
        if self.solver.rate_rule == "plateau":
            self._apply_rule(accuracy)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint has to keep."""
        return {"optimizer": self.optimizer.state_dict(), "rule": self.rule.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, in the middle of a training. Raises ValueError for one of another optimizer or rule."""
        _check_optimizer(state["optimizer"], self.optimizer)
        _check_alike(state["rule"], self.rule.state_dict(), "the rate rule", CHANGING)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rule.load_state_dict(state["rule"])

    def _apply_rule(self, *accuracy: float) -> None:
        before = self.rate
        self.rule.step(*accuracy)  # type: ignore[arg-type]  # the plateau rule's takes one, the others' none
        if self.solver.momentum_rule == "caffe" and self.rate != before:
            for state in self.optimizer.state.values():
                state["momentum_buffer"].mul_(before / self.rate)


def _check_optimizer(found: dict[str, Any], optimizer: SGD) -> None:
    own = optimizer.state_dict()
    groups, state = found.get("param_groups"), found.get("state")
    if not isinstance(state, dict) or not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError("the optimizer's groups of parameters are not this network's")
    for theirs, ours in zip(groups, own["param_groups"], strict=True):
        _check_alike(theirs, ours, "a group of the optimizer's parameters", ("lr",))
    moving = [parameter for group in optimizer.param_groups for parameter in group["params"] if group["momentum"]]
    if state.keys() != set(range(len(moving))):
        raise ValueError("the optimizer's momenta are not of this network's parameters")
    for number, parameter in enumerate(moving):
        momentum = state[number].get("momentum_buffer") if isinstance(state[number], dict) else None
        if not isinstance(momentum, Tensor) or momentum.shape != parameter.shape or not momentum.isfinite().all():
            raise ValueError(f"momentum {number} is not a finite tensor of shape {tuple(parameter.shape)}")


def _check_alike(found: Any, own: dict[str, Any], what: str, changing: tuple[str, ...]) -> None:
    """All that `own` has, of the same kind; what training does not change, of the same value."""
    for name, value in own.items():
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"{what}: {name} is missing")
        if name in changing and not _same_kind(found[name], value):
            raise ValueError(f"{what}: {name} is {repr(found[name])}, expected the like of {repr(value)}")
        if name not in changing and found[name] != value:
            raise ValueError(f"{what}: {name} is {repr(found[name])}, expected {repr(value)}")


def _same_kind(found: Any, own: Any) -> bool:
    if isinstance(own, list):
        return isinstance(found, list) and len(found) == len(own) and all(map(_same_kind, found, own))
    if isinstance(own, int | float) and not isinstance(own, bool):
        return isinstance(found, int | float) and not isinstance(found, bool) and not math.isnan(found)
    return type(found) is type(own)
