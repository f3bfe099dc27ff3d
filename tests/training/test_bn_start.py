"""bn_start=preserve: scale and shift undo batch normalisation, so that the trunk computes what VGG16 computes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deconvnet.models.build import build_network
from deconvnet.recipe import Recipe, Runtime
from deconvnet.recipe_files import load_recipe
from deconvnet.runtime import network_input
from deconvnet.training.bn_start import layers_to_preserve, preserve

CPU = torch.device("cpu")
BLOCKS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
TRUNK = [f"conv{block}_{i}" for block, count in BLOCKS.items() for i in range(1, count + 1)]


def recipe() -> Recipe:
    return load_recipe("paper", ["network.width=0.0625", "network.input=32", "network.deconv_std=0",
                                 "data.classes=[background,cat]"])


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    random = np.random.default_rng(0)
    return [(torch.from_numpy(random.integers(0, 256, (4, 3, 32, 32), np.uint8)),
             torch.zeros(4, 32, 32, dtype=torch.uint8), torch.arange(4)) for _ in range(3)]


def vgg16s(state: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The plain convolutions with ReLU and pooling: what comes out of each convolution, and pool5."""
    found = {}
    for block, count in BLOCKS.items():
        for i in range(1, count + 1):
            name = f"conv{block}_{i}"
            x = found[name] = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
            x = x.relu()
        x = F.max_pool2d(x, 2)
    return found, x


def preserved() -> tuple[torch.nn.Module, list[dict[str, Tensor]]]:
    """A network after preserve, and the convolutions' outputs for each batch."""
    torch.manual_seed(3)
    model = build_network("deconvnet", recipe())
    for name in TRUNK:
        torch.nn.init.normal_(model.get_parameter(f"{name}.bias"), std=2.0)
    copied = {f"{name}.{part}" for name in TRUNK for part in ("weight", "bias")}
    layers = layers_to_preserve(model, copied)
    assert layers == TRUNK
    preserve(model, layers, batches(), 3, Runtime(), CPU)
    state = model.state_dict()
    return model, [vgg16s(state, network_input(pictures))[0] for pictures, _, _ in batches()]


def test_scale_and_shift_are_the_deviation_and_mean_of_what_comes_in():
    model, outputs = preserved()
    for name in TRUNK:
        values = [one[name].numpy().transpose(1, 0, 2, 3).reshape(one[name].shape[1], -1) for one in outputs]
        mean = np.mean([one.mean(1) for one in values], 0)
        variance = np.mean([one.var(1) for one in values], 0)
        norm = model.get_submodule(name.replace("conv", "bn"))
        np.testing.assert_allclose(norm.bias.detach().numpy(), mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(norm.weight.detach().numpy(), np.sqrt(variance + 1e-5), rtol=1e-4)


def test_the_trunk_computes_what_vgg16_computes():
    """With the measured statistics exactly, and nearly with a batch's own."""
    model, _ = preserved()
    pictures = network_input(batches()[0][0])
    _, expected = vgg16s(model.state_dict(), pictures)
    for training, tolerance in ((False, 1e-3), (True, 0.2)):
        model.train(training)
        x = pictures
        for block in BLOCKS:
            x, _ = model.get_submodule(f"pool{block}")(model.block(block, x))
        assert (x - expected).abs().max() < tolerance * expected.abs().max()


def test_layers_whose_batch_normalisation_was_read_too_are_left_alone():
    model = build_network("deconvnet", recipe())
    copied = {"conv1_1.weight", "bn1_1.weight", "conv1_2.weight", "fc6.weight", "fc7.bias", "seg_score_voc.weight"}
    assert layers_to_preserve(model, copied) == ["conv1_2", "fc6"]


@pytest.mark.parametrize("kind", ["fcn8s", "fcn32s"])
def test_a_network_without_batch_normalisation_has_no_such_layers(kind):
    model = build_network(kind, load_recipe("paper", ["fcn.width=0.03125", "fcn.fc6_kernel=3"]))
    assert layers_to_preserve(model, {"conv1_1.weight", "fc6.weight"}) == []
