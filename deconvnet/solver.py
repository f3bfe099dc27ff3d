"""Stochastic gradient descent as in the paper, and as in the release's Caffe."""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, ReduceLROnPlateau, StepLR

from deconvnet.recipe import Solver


def parameter_groups(model: nn.Module, solver: Solver, accumulation: int) -> list[dict]:
    """Weights (with BN scale and shift) and biases: learning rates and decays as in the release.

    accumulation: passes whose gradients are averaged. Caffe averages only the gradient of the loss there, after
    which the decay is smaller by that factor (solver.decay_over_accumulation).
    """
    decay = solver.weight_decay / (accumulation if solver.decay_over_accumulation else 1)
    biases = [module.bias for module in model.modules()
              if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None]
    names = {id(bias) for bias in biases}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in names]
    return [
        {"params": [parameter for parameter in weights if parameter.requires_grad], "lr": solver.lr,
         "weight_decay": decay},
        {"params": [bias for bias in biases if bias.requires_grad], "lr": solver.lr * solver.bias_lr,
         "weight_decay": decay * solver.bias_decay},
    ]


class Descent:
    """torch's SGD with a learning rate rule, and either place for the rate.

    torch: v = momentum * v + g, w -= lr * v. Caffe: v = momentum * v + lr * g, w -= v. The two are the same while
    lr is; when it drops, Caffe's velocity keeps the old rate for a while. So under Caffe's rule torch's velocity is
    multiplied by old / new rate at a drop.
    """

    def __init__(self, model: nn.Module, solver: Solver, accumulation: int, stage: int) -> None:
        """stage: 1 or 2, which of solver.lr_step applies."""
        self.solver = solver
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
        """The weights' learning rate."""
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

    def state(self) -> dict:
        """All that a checkpoint has to keep."""
        return {"optimizer": self.optimizer.state_dict(), "rule": self.rule.state_dict()}

    def load_state(self, state: dict) -> None:
        """Goes on from `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.rule.load_state_dict(state["rule"])

    def _apply_rule(self, *accuracy: float) -> None:
        before = self.rate
        self.rule.step(*accuracy)
        if self.solver.momentum_rule == "caffe" and self.rate != before:
            for state in self.optimizer.state.values():
                state["momentum_buffer"].mul_(before / self.rate)
