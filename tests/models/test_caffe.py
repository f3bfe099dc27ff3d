"""Import of Caffe files: whole networks, a second opinion by OpenCV, the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from deconvnet.models.caffe import Imported, import_caffe
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.fcn import Fcn
from deconvnet.models.vgg16 import convolution_names
from deconvnet.models.weight_files import read_safetensors
from deconvnet.models.weights import load_into
from deconvnet.recipe import Fcn as FcnRecipe
from deconvnet.recipe import Network
from deconvnet.support.errors import UserError
from stages import import_caffe as stage
from stages.cli import run_command
from tests.caffemodel_writer import Layer, caffe_layers, caffemodel, layer
from tests.caffemodel_writer import write_caffemodel as write

FLOATS = np.arange(6, dtype=np.float32)
NARROW = Network(width=1 / 32, input=32)
CLASSES = 5


def small_net(older: bool) -> bytes:
    numbers = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype(np.float32)
    layers = [Layer("conv", [numbers, numbers[:, 0, 0, 0]]), Layer("bn", [numbers[0, 0]], tops=3, inference=True)]
    return b"".join(caffemodel(layers, older)) + b"".join(layer(Layer("fc", [numbers]), older, "unpacked"))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and BN statistic drawn anew, so that no two tensors can be mixed up."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight.data, 0.5, 1.5), (module.bias.data, -0.3, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.3, 2)):
                tensor.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.3, generator=generator)
    return model.eval()


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def tensors_of(imported: Imported) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in imported.tensors.items()}


def image(size: int, count: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(-2, 2, (count, 3, size, size)).astype(np.float32))


@torch.no_grad()
def assert_same_scores(model: nn.Module, other: nn.Module, images: torch.Tensor) -> None:
    expected = model(images)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(other(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def folded_layers(model: DeconvNet, **how) -> list[Layer]:
    """The released inference model: BN's scale and shift with the statistics worked in."""
    state = arrays(model)
    for name in [key.removesuffix(".running_var") for key in state if key.endswith(".running_var")]:
        root = np.sqrt(state[f"{name}.running_var"].astype(np.float64) + model.bn_eps)
        scale = state[f"{name}.weight"] / root
        shift = state[f"{name}.bias"] - scale * state[f"{name}.running_mean"]
        state |= {f"{name}.weight": scale.astype(np.float32), f"{name}.bias": shift.astype(np.float32)}
    return caffe_layers(state, **how)


# Whole networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-9, 1e-5])
@pytest.mark.parametrize("how", [{"bn_tops": 3}, {"inference": True}])
def test_folded_deconvnet_gives_the_same_scores(tmp_path, how, eps):
    model = randomised(DeconvNet(NARROW, CLASSES))
    imported = import_caffe(write(tmp_path / "inference.caffemodel", folded_layers(model, **how)))
    assert imported.metadata == {"kind": "deconvnet", "source": "inference.caffemodel", "width": 1 / 32, "input": 32,
                                 "classes": CLASSES, "bn": "folded"}
    other = DeconvNet(Network(width=1 / 32, input=32, bn_eps=eps), CLASSES).eval()
    load_into(other, tensors_of(imported))
    assert_same_scores(model, other, image(32, 2))


@pytest.mark.parametrize("older", [True, False])
def test_training_deconvnet_lacks_only_its_statistics(tmp_path, older):
    model = randomised(DeconvNet(Network(width=1 / 32, input=64), CLASSES))
    imported = import_caffe(write(tmp_path / "stage.caffemodel", caffe_layers(arrays(model)), older))
    assert imported.metadata["bn"] == "unmeasured" and imported.metadata["input"] == 64
    statistics = [name for name in model.state_dict() if ".running_" in name]
    assert len(statistics) == 2 * 29 and not set(statistics) & set(imported.tensors)
    other = DeconvNet(Network(width=1 / 32, input=64), CLASSES).eval()
    load_into(other, tensors_of(imported) | {name: model.state_dict()[name] for name in statistics})
    assert_same_scores(model, other, image(64))


def test_the_user_decides_where_bn_layers_do_not_tell(tmp_path):
    model = randomised(DeconvNet(NARROW, CLASSES))
    path = write(tmp_path / "a.caffemodel", folded_layers(model, bn_tops=0))
    with pytest.raises(UserError, match="--bn folded"):
        import_caffe(path)
    assert import_caffe(path, bn="unmeasured").metadata["bn"] == "unmeasured"
    other = DeconvNet(NARROW, CLASSES).eval()
    load_into(other, tensors_of(import_caffe(path, bn="folded")))
    assert_same_scores(model, other, image(32))


def test_contradicting_bn_layers_are_refused(tmp_path):
    layers = caffe_layers(arrays(randomised(DeconvNet(NARROW, CLASSES))))
    next(item for item in layers if item.name == "debn1_2").tops = 3
    with pytest.raises(UserError, match="--bn folded"):
        import_caffe(write(tmp_path / "a.caffemodel", layers))


def test_bn_is_for_deconvnet_only(tmp_path):
    path = write(tmp_path / "vgg.caffemodel", vgg16_layers(inner_products=True)[1])
    with pytest.raises(UserError, match="is a vgg16, which has no BN layers"):
        import_caffe(path, bn="folded")


FCN_OLD_NAMES = {"score_fr": "score-fr", "upscore2": "score2", "score_pool4": "score-pool4", "upscore_pool4": "score4",
                 "score_pool3": "score-pool3", "upscore8": "upsample", "upscore16": "upsample", "upscore32": "upsample"}


@pytest.mark.parametrize(("stride", "older"), [(8, True), (8, False), (16, False), (32, True)])
def test_fcn_gives_the_same_scores(tmp_path, stride, older):
    recipe = FcnRecipe(width=1 / 16, fc6_kernel=3)
    model = randomised(Fcn(stride, CLASSES, recipe))
    layers = caffe_layers(arrays(model))
    if older:
        for item in layers:
            item.name = FCN_OLD_NAMES.get(item.name, item.name)
            if item.name == "upsample":
                item.blobs.append(np.zeros((1, 1, 1, CLASSES), np.float32))  # there, never trained
    imported = import_caffe(write(tmp_path / "fcn.caffemodel", layers, older))
    assert imported.metadata == {"kind": f"fcn{stride}s", "source": "fcn.caffemodel", "width": 1 / 16, "fc6_kernel": 3,
                                 "classes": CLASSES}
    other = Fcn(stride, CLASSES, recipe).eval()
    load_into(other, tensors_of(imported))
    assert_same_scores(model, other, image(40))


def vgg16_layers(inner_products: bool) -> tuple[dict[str, np.ndarray], list[Layer]]:
    model = randomised(DeconvNet(Network(width=1 / 16, input=224, batch_norm=False), 2))
    names = [name for block in convolution_names() for name in block] + ["fc6", "fc7"]
    state = {name: value for name, value in arrays(model).items() if name.split(".")[0] in names}
    layers = caffe_layers(state)
    for item in layers:
        if item.name in ("fc6", "fc7") and inner_products:
            item.blobs[0] = item.blobs[0].reshape(len(item.blobs[0]), -1)
    layers.append(Layer("fc8", [np.zeros((10, 256), np.float32), np.zeros(10, np.float32)]))
    return state, layers


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("inner_products", [True, False])
def test_vgg16(tmp_path, inner_products, older):
    state, layers = vgg16_layers(inner_products)
    imported = import_caffe(write(tmp_path / "vgg.caffemodel", layers, older))
    assert imported.metadata["kind"] == "vgg16" and imported.metadata["input"] == 224
    assert imported.tensors.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(imported.tensors[name], value)


def damage(layers: list[Layer], what: str) -> None:
    named = {item.name: item for item in layers}
    if what == "missing":
        layers.remove(named["deconv3_2"])
    elif what == "missing fc6":
        layers.remove(named["fc6"])
    elif what == "unknown":
        layers.append(Layer("conv6_1", [FLOATS]))
    elif what == "misshapen":
        named["deconv4_3"].blobs[0] = named["deconv4_3"].blobs[0].transpose(1, 0, 2, 3)
    elif what == "misshapen bias":
        named["conv2_1"].blobs[1] = named["conv2_1"].blobs[1][..., 1:]
    elif what == "flat convolution":
        named["conv3_1"].blobs[0] = named["conv3_1"].blobs[0].reshape(1, 1, 8, -1)
    elif what == "no bias":
        del named["fc7"].blobs[1]
    elif what == "three blobs":
        named["bn2_2"].blobs.append(FLOATS)
    elif what == "not finite":
        named["deconv1_1"].blobs[0] = np.full_like(named["deconv1_1"].blobs[0], np.nan)
    elif what == "both names":
        layers.append(Layer("fc6_deconv", named["fc6-deconv"].blobs))
    elif what == "one class":
        named["seg-score-voc"].blobs = [named["seg-score-voc"].blobs[0][:1], np.zeros((1, 1, 1, 1), np.float32)]
    elif what == "far too wide":
        named["fc6"].blobs[1] = np.zeros((1, 1, 1, 70000), np.float32)


@pytest.mark.parametrize(
    ("what", "expected"),
    [("missing", "'deconv3_2' of a deconvnet is missing"), ("missing fc6", "'fc6' is missing"),
     ("unknown", "'conv6_1'.*not part"), ("misshapen", "'deconv4_3'.*expected 16 x 8 x 3 x 3"),
     ("misshapen bias", "'conv2_1'.*bias.*expected 4"), ("flat convolution", "'conv3_1'.*weight"),
     ("no bias", "'fc7'.*1 blobs"), ("three blobs", "'bn2_2'.*3 blobs"), ("not finite", "'deconv1_1'.*not finite"),
     ("both names", "'fc6-deconv' and 'fc6_deconv'"), ("one class", "'seg-score-voc'.*2 to 255"),
     ("far too wide", "'fc6' has 70000")],
)
def test_every_layer_is_accounted_for(tmp_path, what, expected):
    layers = caffe_layers(arrays(randomised(DeconvNet(NARROW, CLASSES))))
    damage(layers, what)
    with pytest.raises(UserError, match=expected):
        import_caffe(write(tmp_path / "a.caffemodel", layers))


@pytest.fixture(scope="module")
def whole_file() -> bytes:
    model = randomised(DeconvNet(Network(width=1 / 64, input=32), CLASSES))
    return b"".join(caffemodel(caffe_layers(arrays(model))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_networks_import_rightly_or_are_refused(tmp_path, whole_file, data):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(whole_file)
    whole = import_caffe(path).tensors
    content = bytearray(whole_file)
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.caffemodel"
    path.write_bytes(content)
    try:
        found = import_caffe(path).tensors
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return
    assert found.keys() == whole.keys()
    # A flipped bit inside a number cannot be noticed: at most that one number differs (and keeps finite).
    assert sum(int((found[name] != whole[name]).sum()) for name in whole) <= 1
    assert all(np.isfinite(value).all() for value in found.values())


# Second opinion: OpenCV runs the Caffe network itself ---------------------------------------------------------


def convolution(name: str, bottom: str, outputs: int, kernel: int, pad: int = 0, relu: bool = True) -> str:
    text = (f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
            f"num_output: {outputs} kernel_size: {kernel} pad: {pad} }} }}\n")
    if relu:
        text += f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
    return text


def upsampling(name: str, bottom: str, stride: int, bias: bool) -> str:
    return (f'layer {{ name: "{name}" type: "Deconvolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
            f"num_output: {CLASSES} kernel_size: {2 * stride} stride: {stride} bias_term: {str(bias).lower()} }} }}\n")


def skip(name: str, pool: str, coarse: str, offset: int) -> str:
    return convolution(name, pool, CLASSES, 1, relu=False) + (
        f'layer {{ name: "{name}c" type: "Crop" bottom: "{name}" bottom: "{coarse}" top: "{name}c" '
        f"crop_param {{ axis: 2 offset: {offset} }} }}\n"
        f'layer {{ name: "fuse_{name}" type: "Eltwise" bottom: "{coarse}" bottom: "{name}c" top: "fuse_{name}" }}\n'
    )


def fcn8s_prototxt(size: int, channels: list[int], fc: int) -> str:
    """FCN-8s as published: pad 100, crops at 5, 9 and 31; upsampling with biases, as in the CVPR 2015 files."""
    text = f'input: "data"\ninput_shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}\n'
    bottom = "data"
    for block, (names, outputs) in enumerate(zip(convolution_names(), channels, strict=True), 1):
        for name in names:
            text += convolution(name, bottom, outputs, 3, 100 if name == "conv1_1" else 1)
            bottom = name
        text += (f'layer {{ name: "pool{block}" type: "Pooling" bottom: "{bottom}" top: "pool{block}" '
                 "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }\n")
        bottom = f"pool{block}"
    text += convolution("fc6", bottom, fc, 7) + convolution("fc7", "fc6", fc, 1)
    text += convolution("score_fr", "fc7", CLASSES, 1, relu=False) + upsampling("upscore2", "score_fr", 2, True)
    text += skip("score_pool4", "pool4", "upscore2", 5) + upsampling("upscore_pool4", "fuse_score_pool4", 2, True)
    text += skip("score_pool3", "pool3", "upscore_pool4", 9) + upsampling("upscore8", "fuse_score_pool3", 8, False)
    return text + ('layer { name: "score" type: "Crop" bottom: "upscore8" bottom: "data" top: "score" '
                   "crop_param { axis: 2 offset: 31 } }\n")


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromCaffe"), reason="OpenCV 5 has no Caffe importer")
def test_opencv_runs_the_caffe_fcn_with_the_same_scores(tmp_path):
    size, recipe = 45, FcnRecipe(width=1 / 16)
    layers = caffe_layers(arrays(randomised(Fcn(8, CLASSES, recipe))))
    biases = np.random.default_rng(5).uniform(-1, 1, (2, 1, 1, 1, CLASSES)).astype(np.float32)
    for item in layers:
        if item.name in ("upscore2", "upscore_pool4"):
            item.blobs.append(biases[int(item.name == "upscore2")])
        if "upscore" in item.name:
            item.kind = (39, "Deconvolution")
    (tmp_path / "fcn.prototxt").write_text(fcn8s_prototxt(size, [4, 8, 16, 32, 32], 256))
    path = write(tmp_path / "fcn.caffemodel", layers, older=False)
    rgb = image(size)
    network = cv2.dnn.readNetFromCaffe(str(tmp_path / "fcn.prototxt"), str(path))
    network.setInput(rgb.numpy()[:, ::-1].copy())  # Caffe's channels are BGR
    expected = network.forward()

    model = Fcn(8, CLASSES, recipe).eval()
    load_into(model, tensors_of(import_caffe(path)))
    with torch.no_grad():
        found = model(rgb).numpy()
    assert expected.shape == found.shape == (1, CLASSES, size, size)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# The command --------------------------------------------------------------------------------------------------


def test_command_writes_what_the_project_reads(tmp_path):
    model = randomised(DeconvNet(NARROW, CLASSES))
    path = write(tmp_path / "a.caffemodel", folded_layers(model, bn_tops=3))
    target = tmp_path / "made" / "a.safetensors"
    assert run_command(stage.parse(), stage.main, [str(path), "--to", str(target)]) == 0
    tensors, metadata = read_safetensors(target)
    assert metadata["kind"] == "deconvnet" and metadata["bn"] == "folded"
    other = DeconvNet(NARROW, CLASSES).eval()
    load_into(other, tensors)
    assert_same_scores(model, other, image(32))
    assert [item.name for item in target.parent.iterdir()] == ["a.safetensors"]


def test_command_takes_kind_and_bn_from_the_user(tmp_path, capsys):
    """BN layers that tell nothing are what --bn says; a DeconvNet is no VGG16, though a VGG16 is in it."""
    path = write(tmp_path / "a.caffemodel", folded_layers(randomised(DeconvNet(NARROW, CLASSES)), bn_tops=0))
    command = [str(path), "--to", str(tmp_path / "a.safetensors")]
    for bn in ("folded", "unmeasured"):
        assert run_command(stage.parse(), stage.main, [*command, "--bn", bn]) == 0
        assert read_safetensors(tmp_path / "a.safetensors")[1]["bn"] == bn
    assert run_command(stage.parse(), stage.main, [*command, "--kind", "vgg16"]) == 1
    assert "not part of a vgg16" in capsys.readouterr().err


def test_command_says_errors_in_one_line(tmp_path, capsys):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(small_net(True)[:-10])
    assert run_command(stage.parse(), stage.main, [str(path), "--to", str(tmp_path / "a.safetensors")]) == 1
    assert run_command(stage.parse(), stage.main, [str(path), "--to", str(tmp_path / "a.pth")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "cut short" in lines[0] and ".safetensors" in lines[1]
    assert not (tmp_path / "a.safetensors").exists()


FULL_WIDTH = """
import json, sys, time
import resource
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.caffemodel_writer import write_caffemodel
from tests.models.test_caffe import folded_layers, image, randomised
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.recipe import Network
from deconvnet.models.weight_files import read_safetensors
from deconvnet.models.weights import load_into
torch.set_num_threads(1)
folder, role = Path(sys.argv[1]), sys.argv[3]
if role == "write":
    model = randomised(DeconvNet(Network(), 21))
    write_caffemodel(folder / "full.caffemodel", folded_layers(model, bn_tops=3))
else:
    tensors, metadata = read_safetensors(folder / "full.safetensors")
    model = DeconvNet(Network(width=metadata["width"], input=metadata["input"]), metadata["classes"]).eval()
    load_into(model, tensors)
with torch.no_grad():
    torch.save(model(image(224)), folder / f"{role}.pt")
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()),
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
IMPORT = """
import json, resource, sys, time
from stages.cli import run_command
from stages.import_caffe import main, parse
start = time.monotonic()
status = run_command(parse(), main, sys.argv[1:])
print(json.dumps({"status": status, "seconds": time.monotonic() - start,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.mark.long
def test_full_width_network_within_8_gb(tmp_path):
    """252 M parameters: built, written as Caffe would, imported, read back, the same scores to 1e-4."""
    root = Path(__file__).resolve().parents[2]

    def python(code: str, *arguments: object) -> dict:
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=root, check=True,
                              capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
        return json.loads(done.stdout.splitlines()[-1])

    written = python(FULL_WIDTH, tmp_path, root / "tests", "write")
    model = tmp_path / "full.caffemodel"
    imported = python(IMPORT, model, "--to", tmp_path / "full.safetensors")
    loaded = python(FULL_WIDTH, tmp_path, root / "tests", "load")
    print(f"\nfile {model.stat().st_size / 1e9:.2f} GB; written {written}; imported {imported}; loaded {loaded}")
    assert written["parameters"] > 251e6
    expected, found = (torch.load(tmp_path / f"{role}.pt", weights_only=True) for role in ("write", "load"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert max(written["peak"], imported["peak"], loaded["peak"]) < 8e9
    assert imported["status"] == 0 and imported["seconds"] < 60
    assert imported["peak"] < 2 * model.stat().st_size + 0.7e9  # 0.7 GB: torch itself
