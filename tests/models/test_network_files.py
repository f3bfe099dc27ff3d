"""Networks of a run: how they start, and which files fit them."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network, load_unmeasured, save_network
from deconvnet.models.vgg16 import vgg16_shapes
from deconvnet.models.vgg16_weights import load_vgg16
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UsageError, UserError


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", ["network.width=0.0625", "network.input=32", "fcn.width=0.03125", *overrides])


def test_the_score_layer_starts_as_the_deconvolution_layers_do():
    """N(0, deconv_std), as in the release's solver files; convolutions in front by their own rule."""
    narrow = build_network("deconvnet", small_recipe("network.deconv_std=0.03", "network.conv_std=0.2"))
    deviation = {name: value.std().item() for name, value in narrow.named_parameters() if value.ndim == 4}
    assert deviation["seg_score_voc.weight"] == pytest.approx(0.03, rel=0.25)  # of 84 numbers
    assert deviation["deconv3_1.weight"] == pytest.approx(0.03, rel=0.1)
    assert deviation["conv3_2.weight"] == pytest.approx(0.2, rel=0.1)


def test_bn_shift_is_deconvnets_alone():
    recipe = small_recipe("network.bn_shift=0.25", "fcn.batch_norm=true")
    for kind, shift in (("deconvnet", 0.25), ("fcn8s", 0.0)):
        norms = [module for module in build_network(kind, recipe).modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms and all((norm.bias == shift).all() and (norm.weight == 1).all() for norm in norms)


def test_an_fcn_is_of_the_stride_that_its_name_says():
    """Their scores come in from pool3 and pool4; the last upsampling's kernel is twice its stride."""
    for stride, skips in ((32, 0), (16, 1), (8, 2)):
        names = dict(build_network(f"fcn{stride}s", small_recipe()).named_parameters())
        assert sum(name in names for name in ("score_pool3.weight", "score_pool4.weight")) == skips
        assert names[f"upscore{stride}.weight"].shape[-1] == 2 * stride


@pytest.mark.parametrize("kind", ["deconvnet", "fcn8s"])
def test_saved_and_loaded(tmp_path, kind):
    recipe = small_recipe()
    model = build_network(kind, recipe)
    for value in model.buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    save_network(model, tmp_path / "network.safetensors", kind, recipe, "measured", {"training": "test"})
    loaded = load_network(tmp_path / "network.safetensors", kind, recipe)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize(("override", "message"), [
    ("network.width=0.125", r"a network with width = 0\.0625; the recipe has 0\.125"),
    ("network.input=64", "a network with input = 32; the recipe has 64"),
    ("network.unpooling=tile", "a network with unpooling = 'switches'; the recipe has 'tile'"),
    ("data.classes=[background,cat]", "a network with classes = 21; the recipe has 2"),
])
def test_a_file_of_another_network_names_the_difference(tmp_path, override, message):
    recipe = small_recipe()
    path = tmp_path / "network.safetensors"
    save_network(build_network("deconvnet", recipe), path, "deconvnet", recipe, "measured", {})
    with pytest.raises(UserError, match=message):
        load_network(path, "deconvnet", small_recipe(override))
    with pytest.raises(UserError, match="a network of kind 'deconvnet'; expected one of kind 'fcn8s'"):
        load_network(path, "fcn8s", recipe)


def test_unmeasured_statistics_are_left_as_they_start(tmp_path):
    recipe = small_recipe()
    path = tmp_path / "network.safetensors"
    model = build_network("deconvnet", recipe)
    model.bn1_1.running_mean.fill_(7)
    save_network(model, path, "deconvnet", recipe, "unmeasured", {})
    with pytest.raises(UserError, match="its BN statistics were never measured"):
        load_network(path, "deconvnet", recipe)
    loaded, metadata = load_unmeasured(path, "deconvnet", recipe)
    assert metadata["bn"] == "unmeasured"
    for name, value in loaded.named_buffers():
        assert (value == name.endswith("running_var")).all(), name
    assert torch.equal(loaded.conv1_1.weight, model.conv1_1.weight)


def test_an_opened_network_stays_as_it_is_when_its_file_is_overwritten(tmp_path):
    """As `cp` or rsync do, in place; a map of the file would change with it."""
    recipe = small_recipe()
    path = tmp_path / "network.safetensors"
    model = build_network("deconvnet", recipe)
    save_network(model, path, "deconvnet", recipe, "measured", {})
    loaded = load_network(path, "deconvnet", recipe)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a network file of this project"):
        load_network(tmp_path / "other.safetensors", "deconvnet", small_recipe())


def write_vgg16(path: Path, kind: str, without: str = "") -> None:
    """A file as stages.import_caffe writes it, of holes but for conv1_1's bias, which counts up."""
    header, offset = {"__metadata__": {"deconvnet": json.dumps({"kind": kind})}}, 0
    shapes = vgg16_shapes()
    for name in ("conv1_1.bias", *(other for other in shapes if other not in ("conv1_1.bias", without))):
        size = 4 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + np.arange(64, dtype=np.float32).tobytes())
        file.truncate(8 + len(text) + offset)


def test_vgg16_from_import_caffe_is_taken_as_it_is(tmp_path):
    """It is for our input already: RGB, minus mean, unscaled; no conversion of torchvision's kind."""
    write_vgg16(tmp_path / "vgg16.safetensors", "vgg16")
    tensors = load_vgg16(tmp_path / "vgg16.safetensors")
    assert tensors.keys() == vgg16_shapes().keys()
    assert tensors["conv1_1.bias"].tolist() == list(range(64))


def test_what_is_not_vgg16_is_refused(tmp_path):
    write_vgg16(tmp_path / "one.safetensors", "fcn8s")
    with pytest.raises(UserError, match=r"one\.safetensors: a fcn8s; expected VGG16"):
        load_vgg16(tmp_path / "one.safetensors")
    write_vgg16(tmp_path / "two.safetensors", "vgg16", without="fc7.weight")
    with pytest.raises(UserError, match=r"two\.safetensors: fc7\.weight is missing"):
        load_vgg16(tmp_path / "two.safetensors")


def test_the_published_fcn_is_taken_as_it_is(tmp_path):
    """wkentaro's file has our names and BGR input; here a narrow one. The network answers as it would."""
    recipe = small_recipe("fcn.batch_norm=false")
    theirs = build_network("fcn8s", recipe).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
        torch.save(theirs.state_dict(), tmp_path / "fcn8s_from_caffe.pth")
        rgb = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ours = load_network(tmp_path / "fcn8s_from_caffe.pth", "fcn8s", recipe).double()
        torch.testing.assert_close(ours(rgb), theirs.double()(rgb.flip(1)))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "fcn8s_from_caffe.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match="cut.pth: not a whole PyTorch weights file"):
        load_network(tmp_path / "cut.pth", "fcn8s", recipe)


def test_fcn_kernels_that_cannot_be_aligned_are_refused_by_the_recipe():
    with pytest.raises(UsageError, match=r"fcn\.fc6_kernel is 2; expected at least 3"):
        load_recipe("tiny", ["fcn.fc6_kernel=2"])
