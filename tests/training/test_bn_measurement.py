"""BN statistics measured after training: against NumPy, interrupted, and as a command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deconvnet.data.synthetic import generate
from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network, save_network
from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe import Recipe, Runtime
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UserError
from deconvnet.training.bn_measurement import measure_bn_statistics
from proposals.build import build_windows
from tests import reference_network

CPU = torch.device("cpu")
BATCHES, BATCH = 3, 4


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", ["network.width=0.0625", "network.input=32", "windows.warp=36", "network.deconv_std=0",
                                f"bn_statistics.batches={BATCHES}", f"bn_statistics.batch={BATCH}",
                                "train.workers=0", *overrides])


def batches(count: int = BATCHES) -> list[tuple[Tensor, Tensor, Tensor]]:
    """As load() gives them: pictures, labels, rows."""
    random = np.random.default_rng(0)
    return [(torch.from_numpy(random.integers(0, 256, (BATCH, 3, 32, 32), np.uint8)),
             torch.zeros(BATCH, 32, 32, dtype=torch.uint8), torch.arange(BATCH)) for _ in range(count)]


def statistics(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy().copy() for name, value in model.state_dict().items() if "running" in name}


def in_numpy(model: nn.Module, monkeypatch: pytest.MonkeyPatch, variance: str) -> dict[str, np.ndarray]:
    """The mean over batches of each layer's input mean and variance, from the plain forward pass."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    found: dict[str, list[np.ndarray]] = {}
    plain = reference_network.batch_norm

    def noting(x, state, name, eps, training):
        rows = x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
        number = rows.shape[1]
        mean = rows.sum(1) / number
        spread = ((rows - mean[:, None]) ** 2).sum(1) / (number - 1 if variance == "unbiased" else number)
        found.setdefault(f"{name}.running_mean", []).append(mean)
        found.setdefault(f"{name}.running_var", []).append(spread)
        return plain(x, state, name, eps, training)

    monkeypatch.setattr(reference_network, "batch_norm", noting)
    for pictures, _, _ in batches():
        images = pictures.double().numpy() - np.array([122.675, 116.669, 104.008])[:, None, None]
        reference_network.forward(images, state, 1e-5, True)
    return {name: np.mean(values, axis=0) for name, values in found.items()}


@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_means_over_batches_as_in_numpy(monkeypatch, variance):
    model = build_network("deconvnet", small_recipe()).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = in_numpy(model, monkeypatch, variance)
    model.float()
    measure_bn_statistics(model, batches(), BATCHES, variance, Runtime(), CPU)
    found = statistics(model)
    assert set(found) == set(expected) and len(found) == 2 * 29
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=5e-3, atol=1e-3 * np.abs(value).max(), err_msg=name)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.double(), before[name])  # the weights stay
    other = "biased" if variance == "unbiased" else "unbiased"
    fc7 = in_numpy(model.double(), monkeypatch, other)["bnfc7.running_var"]  # 4 values a channel: n - 1 tells
    assert np.abs(found["bnfc7.running_var"] / fc7 - 1).max() > 0.2


def test_mode_is_as_before_and_no_hook_stays():
    model = build_network("deconvnet", small_recipe()).eval()
    measure_bn_statistics(model, batches(1), 1, "biased", Runtime(), CPU)
    assert not model.training
    first = statistics(model)
    model(torch.zeros(1, 3, 32, 32))
    assert all(np.array_equal(value, first[name]) for name, value in statistics(model).items())


def test_an_interrupted_measurement_changes_nothing():
    model = build_network("deconvnet", small_recipe())
    before = statistics(model)

    def broken_off():
        yield from batches(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_bn_statistics(model, broken_off(), BATCHES, "biased", Runtime(), CPU)
    assert all(np.array_equal(value, before[name]) for name, value in statistics(model).items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run folder with materialized stage 1 windows, and a network whose statistics were not measured."""
    folder = tmp_path_factory.mktemp("bn")
    recipe = small_recipe()
    voc_root = generate(folder / "voc", train=4, val=1, seed=0, side=96)
    run = RunFolder(folder / "run", recipe, voc_root)
    build_windows(run, "train", 1, True, 1, "stop")
    model = build_network("deconvnet", recipe)
    save_network(model, folder / "whole.safetensors", "deconvnet", recipe, "unmeasured",
                 {"training": "elsewhere"})
    write_imported(folder / "imported.safetensors", model, "unmeasured")
    write_imported(folder / "folded.safetensors", model, "folded")
    save_recipe(recipe, run.root / "recipe.yaml")
    return run


def write_imported(path: Path, model: nn.Module, bn: str) -> None:
    """As stages.import_caffe does: no running statistics where they are not in the Caffe file."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()
             if "num_batches" not in name and not (bn == "unmeasured" and "running" in name)}
    metadata = {"kind": "deconvnet", "source": "some.caffemodel", "width": 0.0625, "input": 32, "classes": 21, "bn": bn}
    save_file(state, path, {"deconvnet": json.dumps(metadata)})


def command(run: RunFolder, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "stages.bn_statistics", "--run", str(run.root), "--stage", "1",
                           "--device", "cpu", *arguments], capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_command_measures_an_imported_network(run):
    """Weights as they were, statistics in, ready for inference; what is measured depends on the run alone."""
    imported, to = run.root.parent / "imported.safetensors", run.root.parent / "measured.safetensors"
    advice = r"run `python -m stages\.bn_statistics --model deconvnet --weights .*imported"
    with pytest.raises(UserError, match=f"never measured; {advice}"):
        load_network(imported, "deconvnet", run.recipe)
    done = command(run, "--weights", str(imported), "--to", str(to))
    assert done.returncode == 0, done.stderr
    tensors, metadata = read_safetensors(to)
    assert metadata["bn"] == "measured" and metadata["origin"]["file"] == "some.caffemodel"
    assert metadata["origin"]["bn_statistics"]["bn_statistics.batches"] == BATCHES
    for name, value in read_safetensors(imported)[0].items():
        assert torch.equal(tensors[name], value)
    model = load_network(to, "deconvnet", run.recipe)
    for name, value in statistics(model).items():
        assert not np.array_equal(value, np.full_like(value, "var" in name))  # neither 0 nor 1 any more
    whole = run.root.parent / "whole.safetensors"
    again = command(run, "--weights", str(whole))
    assert again.returncode == 0, again.stderr
    assert read_safetensors(whole)[1]["origin"]["training"] == "elsewhere"
    for name, value in load_network(whole, "deconvnet", run.recipe).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.slow
def test_command_refuses_folded_weights(run):
    to = run.root / "no.safetensors"
    done = command(run, "--weights", str(run.root.parent / "folded.safetensors"), "--to", str(to))
    assert done.returncode == 2
    assert "its BN is folded" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not to.exists()
