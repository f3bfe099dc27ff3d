"""DeconvNet: the paper's Table 2 against a real forward pass; the arithmetic against plain NumPy; its gradient."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconvnet import recipe as recipes
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.unpooling import Pool, Unpool
from tests import reference_network

TABLE2 = Path(__file__).resolve().parents[2] / "experiments" / "table2_architecture.csv"
CLASSES = 5


def table2() -> list[dict[str, str]]:
    with TABLE2.open(newline="") as file:
        return list(csv.DictReader(file))


def our_name(row: dict[str, str]) -> str:
    """A row's name in the release, '-' turned to '_'."""
    return {"deconv-fc6": "fc6_deconv", "output": "seg_score_voc"}.get(row["layer"], row["layer"].replace("-", "_"))


class Recording(DeconvNet):
    """Notes what comes out of every layer, pooling and unpooling, in the order of the forward pass."""

    def __init__(self, recipe: recipes.Network, class_count: int) -> None:
        super().__init__(recipe, class_count)
        self.seen: list[tuple[str, nn.Module | None, tuple[int, ...]]] = []
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(
                    lambda module, _, out, name=name: self.seen.append((name, module, tuple(out.shape)))
                )
            elif isinstance(module, Pool):
                module.register_forward_hook(
                    lambda _, __, out, name=name: self.seen.append((name, None, tuple(out[0].shape))))
            elif isinstance(module, Unpool):
                module.register_forward_hook(
                    lambda _, __, out, name=name: self.seen.append((name, None, tuple(out.shape))))


@pytest.fixture(scope="module")
def full_width() -> Recording:
    """Table 2's own size, after a forward pass of one image. Weights are zero: shapes are what is asked."""
    with torch.device("meta"):
        model = Recording(recipes.Network(), 21)
    model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
        model(torch.zeros(1, 3, 224, 224))
    return model


def test_every_row_of_table_2(full_width):
    rows = table2()
    assert (rows[0]["layer"], rows[0]["out_height"], rows[0]["out_channels"]) == ("input", "224", "3")
    assert len(rows) - 1 == len(full_width.seen)
    for row, (name, module, shape) in zip(rows[1:], full_width.seen, strict=True):
        assert shape == (1, int(row["out_channels"]), int(row["out_height"]), int(row["out_width"])), row["layer"]
        if module is None:
            assert row["layer"] == name
            assert (row["kernel"], row["stride"], row["pad"]) == ("2", "2", "0")
            continue
        assert our_name(row) == name
        assert module.kernel_size == (int(row["kernel"]),) * 2
        assert module.stride == (int(row["stride"]),) * 2
        if name != "seg_score_voc":  # the table pads a 1 x 1 layer by 1 and yet keeps 224 x 224: it cannot be so
            assert module.padding == (int(row["pad"]),) * 2
        assert isinstance(module, nn.ConvTranspose2d) == ("deconv" in name)


def test_parameter_count_from_table_2(full_width):
    """k * k * in * out + out a layer, and BN's scale and shift behind all but the last."""
    expected, before = 0, 3
    for row in table2()[1:]:
        out = int(row["out_channels"])
        if "pool" not in row["layer"]:
            expected += int(row["kernel"]) ** 2 * before * out + out
            expected += 0 if row["layer"] == "output" else 2 * out
        before = out
    assert expected == 251_805_653
    assert sum(parameter.numel() for parameter in full_width.parameters()) == expected


def test_layer_names_are_the_releases():
    convolutions = ("conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 conv5_1 conv5_2 "
                    "conv5_3 fc6 fc7 fc6_deconv deconv5_1 deconv5_2 deconv5_3 deconv4_1 deconv4_2 deconv4_3 deconv3_1 "
                    "deconv3_2 deconv3_3 deconv2_1 deconv2_2 deconv1_1 deconv1_2 seg_score_voc").split()
    norms = ("bn1_1 bn1_2 bn2_1 bn2_2 bn3_1 bn3_2 bn3_3 bn4_1 bn4_2 bn4_3 bn5_1 bn5_2 bn5_3 bnfc6 bnfc7 fc6_deconv_bn "
             "debn5_1 debn5_2 debn5_3 debn4_1 debn4_2 debn4_3 debn3_1 debn3_2 debn3_3 debn2_1 debn2_2 debn1_1 "
             "debn1_2").split()
    expected = {f"{name}.{part}" for name in convolutions for part in ("weight", "bias")}
    without = set(narrow(batch_norm=False).state_dict())
    assert without == expected
    expected |= {f"{name}.{part}" for name in norms
                 for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(narrow().state_dict()) == expected


def narrow(width: float = 1 / 16, seed: int = 0, **keys) -> DeconvNet:
    """A narrow network, input 64 so that fc6's kernel is 2 x 2, in which nothing is zero or one by default."""
    model = DeconvNet(recipes.Network(width=width, input=64, **keys), CLASSES)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.3, generator=generator)
            elif tensor.ndim == 4:
                inputs = tensor.shape[0 if "deconv" in name else 1] * tensor.shape[2] * tensor.shape[3]
                tensor.normal_(0, (2 / inputs) ** 0.5, generator=generator)
    return model


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def in_numpy(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_whole_forward_pass_as_in_numpy(batch_norm, training):
    """In float32, as it is used, to 1e-5 of the scores' size; in float64 to 1e-9."""
    model = narrow(batch_norm=batch_norm).train(training)
    pictures = images(3)
    expected = reference_network.forward(pictures.double().numpy(), in_numpy(model), 1e-5, training)
    assert np.ptp(expected) > 0.1  # something to compare
    with torch.no_grad():
        single = model(pictures).numpy()
        double = model.double().train(training)(pictures.double()).numpy()
    size = np.abs(expected).max()
    assert np.abs(double - expected).max() < 1e-9 * size
    if not (training and batch_norm):  # a batch of 3 at fc6 divides by the spread of 3 numbers: rounding grows
        assert np.abs(single - expected).max() < 1e-5 * size


@pytest.mark.parametrize(("eps", "other"), [(1e-5, 1e-9), (1e-9, 1e-5)])
def test_bn_eps_is_the_recipes(eps, other):
    """Small variances, as the released weights have, tell 1e-5 [torch] from 1e-9 [R]."""
    model = narrow(bn_eps=eps).eval().double()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.mul_(1e-4)
    pictures = images(1).double()
    with torch.no_grad():
        scores = model(pictures).numpy()
    expected = reference_network.forward(pictures.numpy(), in_numpy(model), eps, False)
    wrong = reference_network.forward(pictures.numpy(), in_numpy(model), other, False)
    np.testing.assert_allclose(scores, expected, rtol=1e-8)
    assert np.abs(scores - wrong).max() > 0.01 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradient_by_finite_differences(batch_norm):
    """Along a random direction of every parameter in turn, in float64."""
    model = narrow(1 / 16, batch_norm=batch_norm).double().train()
    pictures = images(4).double()
    generator = torch.Generator().manual_seed(1)
    towards = torch.randn(4, CLASSES, 64, 64, generator=generator, dtype=torch.float64) / 100

    def value() -> Tensor:
        return (model(pictures) * towards).sum()

    value().backward()
    step, compared = 3e-8, 0
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            parameter += step * direction
            after = value()
            parameter -= 2 * step * direction
            before = value()
            parameter += step * direction
        measured, claimed = float(after - before) / (2 * step), float((parameter.grad * direction).sum())
        assert measured == pytest.approx(claimed, rel=1e-2, abs=3e-5), name  # a step may cross a corner
        compared += abs(claimed) > 1e-4
    assert compared > 50  # biases before BN have no gradient, all else has


def test_pooling_and_unpooling_with_ties():
    """The first of equal values, in reading order, is the switch; per image and per channel."""
    random = np.random.default_rng(0)
    x = random.integers(-1, 2, (3, 4, 8, 6)).astype(np.float64)
    pooled, where = Pool("switches")(torch.from_numpy(x))
    expected, switches = reference_network.max_pooling(x)
    np.testing.assert_array_equal(pooled.numpy(), expected)
    values = random.normal(size=pooled.shape)
    back = Unpool("switches")(torch.from_numpy(values), where)
    np.testing.assert_array_equal(back.numpy(), reference_network.unpooling(values, switches))


def spread(x: np.ndarray, how: str) -> np.ndarray:
    """The variants without switches, place by place."""
    count, channels, height, width = x.shape
    out = np.zeros((count, channels, 2 * height, 2 * width))
    for n, c, row, column in np.ndindex(out.shape):
        if how == "fixed":
            out[n, c, row, column] = x[n, c, row // 2, column // 2] if row % 2 == 0 and column % 2 == 0 else 0
        elif how == "tile":
            out[n, c, row, column] = x[n, c, row // 2, column // 2]
        elif how == "average":
            out[n, c, row, column] = x[n, c, row // 2, column // 2] / 4
        else:  # bilinear: the centre of a place lies at (place + 0.5) / 2 of the coarse map, held at its border
            y, x_ = (min(max((place + 0.5) / 2 - 0.5, 0), size - 1)
                     for place, size in ((row, height), (column, width)))
            y0, x0 = int(y), int(x_)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            down, right = y - y0, x_ - x0
            out[n, c, row, column] = ((1 - down) * (1 - right) * x[n, c, y0, x0] + (1 - down) * right * x[n, c, y0, x1]
                                      + down * (1 - right) * x[n, c, y1, x0] + down * right * x[n, c, y1, x1])
    return out


@pytest.mark.parametrize("unpooling", ["fixed", "average", "tile", "bilinear"])
def test_variants_without_switches(unpooling):
    random = np.random.default_rng(1)
    model = narrow(1 / 64, unpooling=unpooling).double()
    x = random.normal(size=(2, 3, 6, 4))
    pooled, switches = Pool(unpooling)(torch.from_numpy(x))
    assert switches is None
    blocks = x.reshape(2, 3, 3, 2, 2, 2)
    np.testing.assert_allclose(pooled.numpy(), blocks.mean((3, 5)) if unpooling == "average" else blocks.max((3, 5)))
    values = random.normal(size=(2, 3, 3, 2))
    unpooled = Unpool(unpooling)(torch.from_numpy(values), None).numpy()
    np.testing.assert_allclose(unpooled, spread(values, unpooling), atol=1e-12)
    with torch.no_grad():
        assert model.eval()(images(1).double()).shape == (1, CLASSES, 64, 64)


@pytest.mark.parametrize(("width", "channels"), [(0.5, 32), (1 / 16, 4), (1 / 64, 1)])
def test_width_scales_every_layer_alike(width, channels):
    """Every layer has width times Table 2's channels; the scores keep their classes."""
    model = DeconvNet(recipes.Network(width=width, input=32), CLASSES) if width < 0.5 else None
    if model is None:
        with torch.device("meta"):
            model = DeconvNet(recipes.Network(width=width, input=32), CLASSES)
    factor = 64 // channels
    for row in table2()[1:-1]:
        if "pool" not in row["layer"]:
            assert model.get_submodule(our_name(row)).out_channels == int(row["out_channels"]) // factor
    assert model.seg_score_voc.in_channels == channels
    assert model.seg_score_voc.out_channels == CLASSES
