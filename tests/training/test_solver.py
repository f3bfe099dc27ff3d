"""The solver against Caffe's SGD and torch's, both written in NumPy from their documentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deconvnet.models.build import build_network
from deconvnet.recipe import Solver
from deconvnet.recipe_files import load_recipe
from deconvnet.training.solver import ScheduledSgd, parameter_groups

STEPS = 25
PASSES = 4  # accumulated per step
RELEASE = Solver(lr=0.02, weight_decay=0.05, momentum_rule="caffe", rate_rule="step", lr_step=[7, 10],
                 decay_over_accumulation=True)
PAPER = Solver(lr=0.02, weight_decay=0.05, rate_rule="step", lr_step=[7, 10])


class Small(nn.Module):
    """A convolution, BN, a transposed convolution: every kind of parameter there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.deconv = nn.ConvTranspose2d(3, 2, 1)


def small_model() -> Small:
    model = Small().double()
    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(random.normal(size=parameter.shape)))
    return model


def gradients() -> list[list[dict[str, np.ndarray]]]:
    """For each step and each accumulated pass, one gradient a parameter."""
    random = np.random.default_rng(1)
    shapes = {name: tuple(parameter.shape) for name, parameter in Small().named_parameters()}
    return [[{name: random.normal(size=shape) for name, shape in shapes.items()} for _ in range(PASSES)]
            for _ in range(STEPS)]


def in_numpy(solver: Solver, stage: int, momentum_rule: str) -> dict[str, np.ndarray]:
    """What STEPS steps make of small_model's parameters.

    Caffe (SGDSolver): v = momentum * v + rate * (g + decay * w); w = w - v.
    torch (SGD): v = momentum * v + g + decay * w; w = w - rate * v.
    Bias: rate x bias_lr, decay x bias_decay; BN's scale and shift as weights. The rate falls behind every lr_step-th.
    """
    weights = {name: parameter.detach().numpy().copy() for name, parameter in small_model().named_parameters()}
    velocity = {name: np.zeros_like(weight) for name, weight in weights.items()}
    decay = solver.weight_decay / PASSES if solver.decay_over_accumulation else solver.weight_decay
    for step, passes in enumerate(gradients()):
        rate = solver.lr * solver.lr_factor ** (step // solver.lr_step[stage - 1])
        for name, weight in weights.items():
            bias = name in ("conv.bias", "deconv.bias")
            own_rate = rate * (solver.bias_lr if bias else 1)
            own_decay = decay * (solver.bias_decay if bias else 1)
            gradient = sum(one[name] for one in passes) / PASSES + own_decay * weight
            if momentum_rule == "caffe":
                velocity[name] = solver.momentum * velocity[name] + own_rate * gradient
                weights[name] = weight - velocity[name]
            else:
                velocity[name] = solver.momentum * velocity[name] + gradient
                weights[name] = weight - own_rate * velocity[name]
    return weights


def by_descent(solver: Solver, stage: int, broken_off_at: int | None = None) -> dict[str, np.ndarray]:
    """The same with ScheduledSgd; `broken_off_at`: after that many steps another one goes on from its state."""
    model = small_model()
    descent = ScheduledSgd(model, solver, PASSES, stage)
    for step, passes in enumerate(gradients()):
        if step == broken_off_at:
            state = descent.state()
            descent = ScheduledSgd(model, solver, PASSES, stage)
            descent.load_state(state)
        for one in passes:  # as backward() adds them up, each divided by the number of passes
            for name, parameter in model.named_parameters():
                gradient = torch.from_numpy(one[name]) / PASSES
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        descent.step()
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def farthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(np.abs(one[name] - other[name]).max() for name in one)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("solver", [RELEASE, PAPER], ids=["released", "paper"])
def test_steps_as_in_numpy(solver, stage):
    found = by_descent(solver, stage)
    assert farthest(found, in_numpy(solver, stage, solver.momentum_rule)) < 1e-12
    other = "torch" if solver.momentum_rule == "caffe" else "caffe"
    assert farthest(found, in_numpy(solver, stage, other)) > 1e-4  # the place of the rate shows when it drops


@pytest.mark.parametrize("change", [
    {"lr": 0.03}, {"momentum": 0.8}, {"weight_decay": 0.04}, {"decay_over_accumulation": False},
    {"momentum_rule": "torch"}, {"bias_lr": 1.0}, {"bias_decay": 1.0}, {"lr_factor": 0.5}, {"lr_step": [8, 10]},
], ids=lambda change: next(iter(change)))
def test_each_key_tells(change):
    """Each key alone changes the weights, and as the rule in NumPy says."""
    changed = replace(RELEASE, **change)
    found = by_descent(changed, 1)
    assert farthest(found, in_numpy(changed, 1, changed.momentum_rule)) < 1e-12
    assert farthest(found, by_descent(RELEASE, 1)) > 1e-5


def test_constant_rate():
    solver = replace(RELEASE, rate_rule="constant")
    never = replace(RELEASE, lr_step=[1000, 1000])
    assert farthest(by_descent(solver, 1), in_numpy(never, 1, "caffe")) < 1e-12


@pytest.mark.parametrize("at", [3, 7, 8, 14])
@pytest.mark.parametrize("solver", [RELEASE, PAPER], ids=["released", "paper"])
def test_goes_on_from_its_state(solver, at):
    """Bit-equal, also when broken off right at a drop."""
    assert farthest(by_descent(solver, 1, broken_off_at=at), by_descent(solver, 1)) == 0


def test_plateau_drops_after_validations_without_a_rise():
    """patience 3: the third validation in a row that is not above the best drops the rate; then it counts anew."""
    descent = ScheduledSgd(small_model(), Solver(lr=1.0, rate_rule="plateau", lr_patience=3), 1, 1)
    rates = []
    for accuracy in (0.5, 0.6, 0.6, 0.59, 0.55, 0.61, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6):
        descent.validated(accuracy)
        rates.append(round(descent.rate, 10))
    #               0.5  0.6  =1   -2   -3   0.61 1    2    3     1     2     3
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]
    assert descent.optimizer.param_groups[1]["lr"] == pytest.approx(0.002)


def test_plateau_ignores_iterations_and_step_ignores_validations():
    plateau = ScheduledSgd(small_model(), Solver(lr=1.0, rate_rule="plateau", lr_patience=1), 1, 1)
    step = ScheduledSgd(small_model(), Solver(lr=1.0, rate_rule="step", lr_step=[100, 100]), 1, 1)
    for _ in range(20):
        plateau.step()
        step.validated(0.1)
    assert plateau.rate == step.rate == 1.0


def test_plateau_state_goes_on():
    solver = Solver(lr=1.0, rate_rule="plateau", lr_patience=2)
    model = small_model()
    first = ScheduledSgd(model, solver, 1, 1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    first.step()
    first.validated(0.9)
    first.validated(0.5)
    second = ScheduledSgd(small_model(), solver, 1, 1)
    second.load_state(first.state())
    second.validated(0.8)
    assert second.rate == pytest.approx(0.1)


def test_caffe_velocity_survives_a_plateau_drop():
    """One step, a drop, one step without gradient or decay: Caffe moves on with the old velocity."""
    solver = Solver(lr=1.0, momentum=0.5, weight_decay=0.0, momentum_rule="caffe", rate_rule="plateau", lr_patience=1)
    model = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.zeros_(model.weight)
    descent = ScheduledSgd(model, solver, 1, 1)
    model.weight.grad = torch.ones_like(model.weight)
    descent.validated(0.5)
    descent.step()
    descent.validated(0.4)
    assert descent.rate == pytest.approx(0.1)
    model.weight.grad = torch.zeros_like(model.weight)
    descent.step()
    assert model.weight.item() == pytest.approx(-1.5)  # by torch's rule -1.05


def test_frozen_parameters_are_left_alone():
    model = small_model()
    model.deconv.requires_grad_(False)
    given = [parameter for group in parameter_groups(model, RELEASE, 1) for parameter in group["params"]]
    assert {id(parameter) for parameter in given} == {id(parameter) for part in (model.conv, model.bn)
                                                      for parameter in part.parameters()}


def trunk_names(model: nn.Module) -> set[str]:
    """conv1_1 ... conv5_3 and bn1_1 ... bn5_3, not the decoder's."""
    return {name for name, _ in model.named_parameters() if name.startswith(("conv", "bn")) and "deconv" not in name
            and "fc" not in name and "_D" not in name}


NARROW = ["network.width=0.0625", "network.input=32", "fcn.width=0.03125", "fcn.fc6_kernel=3", "fcn.canvas=64",
          "segnet.width=0.0625", "data.classes=[background,cat]", "network.deconv_std=0"]


@pytest.mark.parametrize("kind", ["deconvnet", "fcn8s", "segnet"])
def test_the_trunk_has_a_rate_of_its_own(kind):
    """One step without momentum or decay: w - lr * multiples * gradient, as worked out here for each parameter."""
    model = build_network(kind, load_recipe("paper", NARROW))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    descent = ScheduledSgd(model, Solver(lr=0.5, momentum=0, weight_decay=0, trunk_lr=0.25, rate_rule="constant"), 1, 1)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    descent.step()
    trunk = trunk_names(model)
    convolutions = {f"{name}.bias" for name, module in model.named_modules()
                    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)}
    assert len({name.split(".")[0] for name in trunk if name.startswith("conv")}) == 13
    for name, value in model.named_parameters():
        rate = 0.5 * (0.25 if name in trunk else 1) * (2 if name in convolutions else 1)
        moved = before[name] - (rate if value.requires_grad else 0)
        torch.testing.assert_close(value.detach(), moved, rtol=0, atol=1e-6)
    assert descent.rate == 0.5


def test_a_frozen_trunk_stays_and_nothing_is_computed_for_it_backwards():
    model = build_network("deconvnet", load_recipe("paper", NARROW))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    descent = ScheduledSgd(model, Solver(lr=0.1, trunk_lr=0, rate_rule="constant"), 1, 1)
    pooled = []
    model.get_submodule("pool5").register_forward_hook(lambda module, inputs, output: pooled.append(output[0]))
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert not pooled[0].requires_grad
    trunk = trunk_names(model)
    assert {name for name, value in model.named_parameters() if value.grad is None} == trunk
    descent.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value.detach(), before[name])}
    assert not changed & trunk and {"fc6.weight", "deconv1_1.weight", "seg_score_voc.weight"} <= changed


def test_every_parameter_is_in_one_group():
    model = small_model()
    weights, biases = (group["params"] for group in parameter_groups(model, RELEASE, 1))
    assert {id(one) for one in biases} == {id(model.conv.bias), id(model.deconv.bias)}
    assert {id(one) for one in weights} == {id(one) for one in (model.conv.weight, model.deconv.weight, model.bn.weight,
                                                                model.bn.bias)}
