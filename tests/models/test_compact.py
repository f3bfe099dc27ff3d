"""Weights of one byte: against a loop in NumPy, the bound on their error, and networks that come back from files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deconvnet.models.build import build_network
from deconvnet.models.compact import compacted, expanded
from deconvnet.recipe_files import load_recipe


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_as_a_loop_over_output_channels(seed, size):
    """Each weight within half a step of its channel's: the first axis of Conv2d, the second of ConvTranspose2d."""
    model = layers()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=size)
    back = expanded(compacted(model))
    for name, axis in (("0.weight", 0), ("2.weight", 1)):
        weights = np.moveaxis(model.state_dict()[name].double().numpy(), axis, 0)
        found = np.moveaxis(back[name].double().numpy(), axis, 0)
        for one, other in zip(weights, found, strict=True):
            step = np.abs(one).max() / 127
            expected = np.rint(one / step) * step
            assert np.abs(one - other).max() <= step * 0.5001
            np.testing.assert_allclose(other, expected, rtol=1e-5, atol=step * 1e-3)
    for name, value in model.state_dict().items():
        if name not in ("0.weight", "2.weight"):
            assert torch.equal(back[name], value)


def test_a_channel_of_zeros_stays_zero():
    model = layers()
    nn.init.zeros_(model[0].weight)
    assert not expanded(compacted(model))["0.weight"].any()


def test_every_weight_takes_a_byte():
    model = build_network("deconvnet", load_recipe("paper", ["network.width=0.0625", "network.input=64"]))
    state = compacted(model)
    convolutions = [name for name, value in model.state_dict().items() if value.ndim == 4]
    assert len(convolutions) == 30 and all(state[name].dtype == torch.int8 for name in convolutions)


@pytest.mark.parametrize("tensors", [{}, {"a.weight": torch.ones(2)}, {"a.weight": torch.ones(2, dtype=torch.int8)}])
def test_other_tensors_are_left_alone(tensors):
    assert expanded(tensors) == tensors
