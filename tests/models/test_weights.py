"""Weights: random ones, torchvision's VGG16 as the truth for the converted one, safetensors files, and bad files."""

import contextlib
import logging
import math
import os
import pickle
import resource

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import vgg16
from torchvision.models.vgg import make_layers

from deconvnet import recipe as recipes
from deconvnet.models.build import build_network
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.fcn import Fcn, bilinear_weight, load_fcn8s
from deconvnet.models.vgg16 import vgg16_shapes
from deconvnet.models.vgg16_weights import convert_vgg16, load_vgg16, start_from_vgg16
from deconvnet.models.weight_files import read_safetensors, save_safetensors
from deconvnet.models.weights import check_finite, load_into
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UsageError, UserError

NARROW = 1 / 16
MEAN = torch.tensor([122.675, 116.669, 104.008]).view(3, 1, 1)  # the release's, in RGB order
V1 = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)  # torchvision's documentation
FEATURES = torch.tensor([[0.48235, 0.45882, 0.40784], [1 / 255] * 3]).view(2, 3, 1, 1)
CONFIGURATION = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def narrow_deconvnet() -> DeconvNet:
    return DeconvNet(recipes.Network(width=NARROW, input=32), 3)


def narrow_vgg16() -> tuple[torch.nn.Sequential, dict[str, torch.Tensor]]:
    """torchvision's trunk at width 1/16, and a state dict with a classifier of that width."""
    torch.manual_seed(0)
    features = make_layers([item if item == "M" else item // 16 for item in CONFIGURATION])
    for parameter in features.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0, 0.1)
        else:
            torch.nn.init.kaiming_normal_(parameter)  # so that something is left after thirteen layers
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    state["classifier.0.weight"] = torch.randn(256, 32 * 49)
    state["classifier.0.bias"] = torch.randn(256)
    state["classifier.3.weight"] = torch.randn(256, 256)
    state["classifier.3.bias"] = torch.randn(256)
    state["classifier.6.weight"] = torch.randn(10, 256)  # ImageNet's classes: not used
    state["classifier.6.bias"] = torch.randn(10)
    return features, state


def without_classifier(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    nan = torch.tensor(math.nan)
    return {name: nan.expand(value.shape) if "classifier" in name else value for name, value in state.items()}


def trunk(tensors: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """pool5 from converted weights, functionally."""
    x = image
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            name = f"conv{block}_{i}"
            x = torch.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1).relu()
        x = torch.max_pool2d(x, 2)
    return x


def on_our_border(features: torch.nn.Sequential, image: torch.Tensor, normalisation: torch.Tensor) -> torch.Tensor:
    """torchvision's trunk on raw RGB whose border is the mean colour of ours: what a padding of zero stands for."""
    mean, deviation = normalisation
    bordered = MEAN.expand(3, image.shape[1] + 2, image.shape[2] + 2).clone()
    bordered[:, 1:-1, 1:-1] = image
    first = features[0]
    x = torch.conv2d(((bordered / 255 - mean) / deviation)[None], first.weight, first.bias)
    return features[1:](x)


@pytest.mark.parametrize("kind", ["v1", "features"])
def test_vgg16_gives_torchvisions_features(kind):
    features, state = narrow_vgg16()
    image = torch.rand(3, 64, 96, generator=seeded()) * 255
    if kind == "features":
        tensors, normalisation = convert_vgg16(without_classifier(state), "x", NARROW), FEATURES
    else:
        tensors, normalisation = convert_vgg16(state, "x", NARROW), V1
    with torch.no_grad():
        expected = on_our_border(features, image, normalisation)
        torch.testing.assert_close(trunk(tensors, (image - MEAN)[None]), expected, rtol=1e-3, atol=1e-4)
        other = on_our_border(features, image, FEATURES if kind == "v1" else V1)
    assert expected.count_nonzero() > expected.numel() / 10
    assert not torch.allclose(other, expected, rtol=0.1, atol=0.1)  # the test can tell the two files apart


def test_vgg16_classifier_as_convolutions():
    """fc6, fc7 over a 7 x 7 map give what torchvision's flatten and Linear layers give."""
    _, state = narrow_vgg16()
    tensors = convert_vgg16(state, "x", NARROW)
    pool5 = torch.rand(2, 32, 7, 7, generator=seeded())
    expected = torch.nn.functional.linear(
        pool5.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"]
    ).relu()
    expected = torch.nn.functional.linear(expected, state["classifier.3.weight"], state["classifier.3.bias"])
    x = torch.conv2d(pool5, tensors["fc6.weight"], tensors["fc6.bias"]).relu()
    x = torch.conv2d(x, tensors["fc7.weight"], tensors["fc7.bias"])
    torch.testing.assert_close(x[:, :, 0, 0], expected, rtol=1e-4, atol=1e-3)


def test_vgg16_shapes_are_torchvisions():
    """Sum of our shapes = torchvision's 138,357,544 less its last layer (4096 * 1000 + 1000)."""
    assert sum(math.prod(shape) for shape in vgg16_shapes().values()) == 138_357_544 - 4_097_000


def test_a_features_file_fills_the_convolutions_of_a_full_width_network(tmp_path, caplog):
    """Real shapes; a classifier of one NaN, expanded, takes no room in a .pth file."""
    with torch.device("meta"):
        whole = vgg16().state_dict()
    state = {
        name: torch.randn(value.shape, generator=seeded()) * 0.01 if "features" in name else
        torch.tensor(math.nan).expand(value.shape)
        for name, value in whole.items()
    }
    torch.save(state, tmp_path / "vgg16.pth")
    network = Fcn(32, 2, recipes.Fcn(fc6_kernel=3), conv_std=0.01)
    network.initialise(seeded())
    fc7 = network.fc7.weight.detach().clone()
    with caplog.at_level(logging.INFO):
        start_from_vgg16(network, tmp_path / "vgg16.pth")
    assert "fc6, fc7 stay random" in caplog.text
    assert torch.equal(network.conv5_3.weight, state["features.28.weight"])
    assert torch.equal(network.conv3_1.bias, state["features.10.bias"])
    assert torch.equal(network.fc7.weight, fc7)


def convolutions() -> dict[str, torch.Tensor]:
    """VGG16's, at full width, under our names."""
    return {name: torch.randn(shape, generator=seeded()) * 0.01 for name, shape in vgg16_shapes().items()
            if name.startswith("conv")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcn32s", "deconvnet", "segnet"])
def test_a_file_of_the_convolutions_alone_starts_every_network(tmp_path, caplog, kind):
    """No change to them: they are for our input already."""
    state = convolutions()
    save_file(state, tmp_path / "conv.safetensors")
    keys = ["network.input=32", "network.fc_channels=8", "fcn.fc_channels=8", "fcn.fc6_kernel=3"]
    network = build_network(kind, load_recipe("paper", [*keys, "data.classes=[background,cat]"]))
    with caplog.at_level(logging.INFO):
        copied = start_from_vgg16(network, tmp_path / "conv.safetensors")
    assert copied == set(state) and len(copied) == 26
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    assert "the convolutions alone: fc6, fc7 stay random" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), [
    ({"conv4_2.bias": None}, "conv4_2.bias is missing"),
    ({"conv1_1.weight": torch.zeros(64, 3, 5, 5)}, r"conv1_1.weight has shape \(64, 3, 5, 5\)"),
    ({"fc6.weight": torch.zeros(1)}, "fc6.weight is none of VGG16's 13 convolutions"),
    ({"conv3_3.bias": torch.full((256,), math.inf)}, "conv3_3.bias holds NaN or infinity"),
])
def test_a_bad_file_of_convolutions_is_named(tmp_path, change, message):
    state = {name: value for name, value in (convolutions() | change).items() if value is not None}
    save_file(state, tmp_path / "conv.safetensors")
    network = build_network("fcn32s", load_recipe("paper", ["fcn.fc_channels=8", "fcn.fc6_kernel=3"]))
    before = network.get_parameter("conv1_2.weight").detach().clone()
    with pytest.raises(UserError, match=f"conv.safetensors: {message}"):
        start_from_vgg16(network, tmp_path / "conv.safetensors")
    assert torch.equal(network.get_parameter("conv1_2.weight"), before)


def test_a_file_without_classifier_cannot_be_told_apart(tmp_path):
    state = {name: value for name, value in narrow_vgg16()[1].items() if "features" in name}
    save_file(state, tmp_path / "vgg16.safetensors")
    with pytest.raises(UserError, match="features.0.weight has shape"):  # of full width is what is looked for first
        load_vgg16(tmp_path / "vgg16.safetensors")
    with pytest.raises(UserError, match="classifier.0.weight is missing"):
        convert_vgg16(state, "x", NARROW)


@pytest.mark.long
def test_a_whole_vgg16_file_fills_fc6_and_fc7(tmp_path):
    """550 MB: both Linear layers at their real size, with a pattern that shows a wrong order."""
    with torch.device("meta"):
        whole = vgg16().state_dict()
    state = {name: torch.zeros(value.shape) for name, value in whole.items()}
    state["classifier.0.weight"] += torch.arange(25088.0)  # channel * 49 + row * 7 + column
    torch.save(state, tmp_path / "vgg16.pth")
    tensors = load_vgg16(tmp_path / "vgg16.pth")
    assert tensors["fc6.weight"].shape == (4096, 512, 7, 7) and tensors["fc7.weight"].shape == (4096, 4096, 1, 1)
    assert tensors["fc6.weight"][4095, 3, 2, 1] == 3 * 49 + 2 * 7 + 1


def test_vgg16_into_a_narrow_network_is_wrong_use(tmp_path):
    (tmp_path / "any.pth").write_bytes(b"of any content")
    with pytest.raises(UsageError, match="fit a network of width 1 only"):
        start_from_vgg16(narrow_deconvnet(), tmp_path / "any.pth")


def test_vgg16_into_a_network_without_its_trunk_is_wrong_use(tmp_path):
    (tmp_path / "vgg16.safetensors").touch()
    with pytest.raises(UsageError, match="vgg16.safetensors: .* VGG16's trunk; this one has no conv1_1.weight: omit"):
        start_from_vgg16(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), tmp_path / "vgg16.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features.5.weight", torch.full((8, 4, 3, 3), math.nan), "features.5.weight holds NaN or infinity"),
        ("features.0.bias", torch.tensor([0, 1, math.inf, 3]), "features.0.bias holds NaN or infinity"),
        ("classifier.3.bias", torch.full((256,), math.nan), "classifier.3.bias holds NaN or infinity"),
        ("features.28.weight", torch.zeros(32, 32, 1, 1), r"features.28.weight has shape \(32, 32, 1, 1\), expected"),
        ("features.28.weight", [1.0], "features.28.weight is not a dense tensor"),
        ("features.28.weight", torch.zeros(32, 32, 3, 3).to_sparse(), "features.28.weight is not a dense tensor"),
        ("features.24.bias", None, "features.24.bias is missing"),
    ],
)
def test_a_bad_tensor_of_vgg16_is_named(name, value, message):
    _, state = narrow_vgg16()
    state[name] = value
    if value is None:
        del state[name]
    with pytest.raises(UserError, match=f"vgg.pth: {message}"):
        convert_vgg16(state, "vgg.pth", NARROW)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "pickle", "list", "missing"])
def test_bad_weight_files_are_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if kind == "cut":
        torch.save(narrow_vgg16()[1], path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "text":
        path.write_text("<html>404 not found</html>")
    elif kind == "empty":
        path.touch()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"features.0.weight": Hostile()}))
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
    for load in (load_vgg16, load_fcn8s):
        with pytest.raises(UserError) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "hostile-was-here").exists()


def test_initialise_deconvnet():
    recipe = recipes.Network(width=1 / 4, input=64, deconv_std=0.02, bn_shift=0.001)
    one, two, other = (DeconvNet(recipe, 5) for _ in range(3))
    one.initialise(seeded(1))
    two.to(memory_format=torch.channels_last).initialise(seeded(1))
    other.initialise(seeded(2))
    state = one.state_dict()
    for name, value in two.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not torch.equal(other.conv3_1.weight, one.conv3_1.weight)
    assert state["deconv4_1.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["conv4_2.weight"].std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert state["fc6.weight"].std().item() == pytest.approx(math.sqrt(2 / (128 * 4)), rel=0.02)
    assert abs(state["conv4_2.weight"].mean().item()) < 1e-3
    assert all((state[name] == 0.001).all() for name in ("bn1_1.bias", "bnfc6.bias", "debn1_2.bias"))
    assert all((state[name] == 1).all() for name in ("bn1_1.weight", "fc6_deconv_bn.weight"))
    assert not state["conv1_1.bias"].any() and not state["deconv1_2.bias"].any()


def test_he_keeps_the_scale_of_what_a_layer_sees():
    """2 / fan-in: a layer's outputs have twice the mean square of its inputs. fc6_deconv sees one pixel only."""
    model = DeconvNet(recipes.Network(width=1 / 4, input=64, batch_norm=False, deconv_std=0), 5)
    model.initialise(seeded())
    one = torch.randn(64, 1024, 1, 1, generator=seeded(1))
    many = torch.randn(4, 128, 20, 20, generator=seeded(2))
    with torch.no_grad():
        assert model.fc6_deconv(one).square().mean().item() == pytest.approx(2, rel=0.05)
        assert model.deconv5_1(many)[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(2, rel=0.05)


def test_initialise_fcn_leaves_its_head_alone():
    model = Fcn(8, 3, recipes.Fcn(width=NARROW), conv_std=0.05)
    model.initialise(seeded())
    assert model.conv4_1.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not model.score_fr.weight.any() and not model.score_pool3.bias.any()
    assert torch.equal(model.upscore8.weight, bilinear_weight(3, 8))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_of_half_precision_become_the_networks(device):
    """Copied into it, or put in the place of sizes alone; the tensors themselves stay as they were."""
    with torch.device(device):
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    given = {"0.weight": torch.full((2, 1, 3, 3), 0.1, dtype=torch.float16), "0.bias": torch.ones(2).double()}
    load_into(model, given)
    for name, value in model.named_parameters():
        assert value.dtype == torch.float32 and value.requires_grad
        assert torch.equal(value, given[name].float())
    assert given["0.weight"].dtype == torch.float16


def test_load_into_names_what_is_wrong():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    whole = {name: value.clone() + 1 for name, value in model.state_dict().items() if "num_batches" not in name}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = {
        "a.pth: 1.running_var is missing": {name: value for name, value in whole.items() if name != "1.running_var"},
        "a.pth: 2.weight is not a tensor of this network": {**whole, "2.weight": torch.zeros(1)},
        r"a.pth: 1.bias has shape \(3,\), expected \(2,\)": {**whole, "1.bias": torch.zeros(3)},
        "a.pth: 1.bias holds NaN": {**whole, "1.bias": torch.tensor([0, math.nan])},
    }
    for message, tensors in bad.items():
        with pytest.raises(UserError, match=message):
            load_into(model, tensors, source="a.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    load_into(model, whole)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in whole.items())
    load_into(model, {"0.bias": torch.zeros(2)}, required=["0.bias"])
    assert torch.equal(model[0].weight, whole["0.weight"]) and not model[0].bias.any()


def test_fcn8s_of_wkentaro_reads_bgr(tmp_path):
    """The network in the file sees BGR; ours, loaded from it, gives the same scores for RGB."""
    recipe = recipes.Fcn(width=1 / 64)
    theirs, ours = (Fcn(8, 4, recipe).eval().double() for _ in range(2))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3, generator=seeded(parameter.numel()))
    torch.save(theirs.state_dict(), tmp_path / "fcn8s_from_caffe.pth")
    load_into(ours, load_fcn8s(tmp_path / "fcn8s_from_caffe.pth", recipe))
    rgb = torch.randn(1, 3, 30, 40, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(rgb[:, [2, 1, 0]])
        torch.testing.assert_close(ours(rgb), expected)
        assert not torch.allclose(theirs(rgb), expected)
    with pytest.raises(UserError, match="conv1_1.weight has shape"):
        load_fcn8s(tmp_path / "fcn8s_from_caffe.pth")  # full width is expected
    torch.save({"score_fr.bias": torch.zeros(4)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="conv1_1.weight is missing"):
        load_fcn8s(tmp_path / "part.pth", recipe)


def test_safetensors_there_and_back(tmp_path):
    model = narrow_deconvnet()
    model.initialise(seeded())
    metadata = {"data.classes": ["background", "Kätzchen", 'a "b"'], "network.width": NARROW, "network.input": 32}
    save_safetensors(model.to(memory_format=torch.channels_last), tmp_path / "net.safetensors", metadata)
    tensors, read = read_safetensors(tmp_path / "net.safetensors")
    assert read == metadata
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    save_file({"x": torch.ones(1)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    assert read_safetensors(tmp_path / "foreign.safetensors")[1] == {}


@pytest.mark.parametrize("kind", ["cut", "header", "huge", "text", "empty", "json", "list", "missing", "folder"])
def test_bad_safetensors_are_one_line(tmp_path, kind):
    path = tmp_path / "net.safetensors"
    save_safetensors(narrow_deconvnet(), path, {"network.width": NARROW})
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[:-100])
    elif kind == "header":
        path.write_bytes(whole[:200])
    elif kind == "huge":
        path.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    elif kind == "text":
        path.write_text("not found, and some more text to fill the header")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind in ("json", "list"):
        save_file({"x": torch.ones(1)}, path, {"deconvnet": "{cut" if kind == "json" else "[1]"})
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    with pytest.raises(UserError) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "net.safetensors"
    save_safetensors(narrow_deconvnet(), path, {"old": True})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))  # as a full disk: writing fails half way
    try:
        with pytest.raises(UserError, match="cannot be written"):
            save_safetensors(narrow_deconvnet(), path, {"old": False})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert read_safetensors(path)[1] == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("value, taken", [
    ([3e38, 3e38], True), ([3e38, -3e38, 1.0], True), ([1.0, math.nan], False), ([math.inf, -math.inf], False),
    ([math.inf, 0.0], False)])
def test_only_what_is_not_finite_is_refused(value: list[float], taken: bool) -> None:
    """Large numbers are taken, too, whose sum is none."""
    with contextlib.nullcontext() if taken else pytest.raises(UserError, match="one: w holds NaN or infinity"):
        check_finite("w", torch.tensor(value), "one")
