"""stages.train for FCN and with --vgg16 does what recipe and arguments say: its trace against independent truth."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.vgg import make_layers

from deconvnet.models.weight_files import read_safetensors
from deconvnet.run_folder import RunFolder
from deconvnet.training import trainer as training
from tests import training_truth as truth
from tests.training_runs import SEED, build, checkpoint, sibling, starts, train
from tests.training_truth import canvases, chosen, digest, digests, drawn_rows, random_state

BATCH, PASS, CANVAS = 4, 2, 112
SMALL = ((2, 4), (2, 4), (3, 8), (3, 8), (3, 8))  # a VGG16 of few channels, so that a whole one is a small file
FC = 16


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> RunFolder:
    return build(tmp_path_factory.mktemp("wiring"), (1,))


@pytest.fixture(scope="module")
def staged(built, tmp_path_factory) -> RunFolder:
    """32s, then 16s from it. Each validation finds less than the one before, so that best.pt is the first's."""
    run = sibling(built, tmp_path_factory.mktemp("staged") / "run")
    accuracies = iter([0.9, 0.8, 0.7, 0.6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "validate", lambda *_: {"validation_loss": 1.0, "validation_mean_iou": 0.1,
                                                        "validation_accuracy": next(accuracies),
                                                        "predicted_objects": 1})
        assert train(run, "--model", "fcn16s") == 0
    return run


def ids(run: RunFolder, split: str) -> list[str]:
    return (run.voc_root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def shapes(run: RunFolder, name: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in checkpoint(run, name)["model"].items()}


@pytest.mark.parametrize("name, step", [("fcn32s", 0), ("fcn16s", 1)])
def test_fcn_sees_mirrored_training_images(staged, name, step):
    (start,) = starts(staged, name)
    images = ids(staged, "train")
    order = drawn_rows([0] * len(images), False, (SEED, truth.ORDER, 10 + step), 0, 2 * BATCH)
    passes = [one for iteration in start["iterations"] for one in iteration["passes"]]
    assert len(passes) == 2 * BATCH // PASS
    for index, one in enumerate(passes):
        positions = list(range(index * PASS, (index + 1) * PASS))
        own = [images[row] for row in order[index * PASS : (index + 1) * PASS]]
        assert one["windows"] == own and one["positions"] == positions
        pictures, labels = canvases(staged.voc_root, own, positions, (SEED, truth.CROP, 10 + step), CANVAS)
        assert (one["pictures"], one["labels"]) == (digest(pictures), digest(labels))
    flips = [np.random.default_rng([SEED, truth.CROP, 10 + step, position]).integers(2) for position in range(8)]
    assert 0 < sum(flips) < 8


@pytest.mark.parametrize("name, iterations", [("fcn32s", 4), ("fcn16s", 3)])
def test_fcns_solver_is_its_own(staged, name, iterations):
    """fcn.lr, constant; fcn.momentum, fcn.weight_decay; biases twice the rate, no decay; bilinear upsampling fixed."""
    (start,) = starts(staged, name)
    sizes = {one: math.prod(shape) for one, shape in shapes(staged, name).items()}
    last = "upscore32.weight" if name == "fcn32s" else "upscore16.weight"
    biases = sum(size for one, size in sizes.items() if one.endswith("bias"))
    learnt = sum(sizes.values()) - biases - sizes[last]
    assert start["groups"] == [{"rate": 0.001, "decay": 0.002, "momentum": 0.8, "parameters": learnt},
                               {"rate": 0.002, "decay": 0, "momentum": 0.8, "parameters": biases}]
    assert start["rate_changes"] == [] and [one["rates"][0] for one in start["iterations"]] == [0.001, 0.001]
    assert checkpoint(staged, name)["iteration"] == iterations
    assert read_safetensors(staged.network(name))[1]["origin"]["iterations"] == iterations


def test_fcn32s_starts_from_numbers_of_the_seed(staged):
    found = starts(staged, "fcn32s")[0]["weights"]["tensors"]
    trunk = {name: shape for name, shape in shapes(staged, "fcn32s").items() if name.startswith(("conv", "fc"))}
    for name, expected in digests(random_state(trunk, SEED, 0.0)).items():
        assert found[name] == expected, name
    assert found["score_fr.weight"] == digest(np.zeros(shapes(staged, "fcn32s")["score_fr.weight"], np.float32))


def test_fcn16s_starts_from_fcn32s_last_checkpoint(staged):
    """Not its best one; the new score layer from zero."""
    last, best = (checkpoint(staged, "fcn32s", name) for name in ("last.pt", "best.pt"))
    assert (last["iteration"], best["iteration"]) == (4, 2)
    (start,) = starts(staged, "fcn16s")
    assert start["file"].endswith("fcn32s/last.pt") and start["from"].startswith("FCN-32s's last.pt")
    found, expected = start["weights"]["tensors"], digests(last["model"])
    shared = [name for name in found if name.startswith(("conv", "fc", "score_fr"))]
    assert len(shared) == 2 * (13 + 2 + 1)
    assert all(found[name] == expected[name] for name in shared)
    assert all(digests(best["model"])[name] != expected[name] for name in ("conv1_1.weight", "score_fr.weight"))
    assert found["score_pool4.weight"] == digest(np.zeros(shapes(staged, "fcn16s")["score_pool4.weight"], np.float32))


def test_fcns_rate_drops_where_the_recipe_says_so(built, tmp_path):
    """fcn.lr_step=2: the third iteration and the fourth at a tenth."""
    run = sibling(built, tmp_path / "run", "fcn.lr_step=2")
    assert train(run, "--model", "fcn32s") == 0
    (start,) = starts(run, "fcn32s")
    assert [one["iteration"] for one in start["rate_changes"]] == [3]
    assert start["rate_changes"][0]["rates"] == pytest.approx([0.0001, 0.0002])


def test_fcn8s_at_once_and_validated_on_validation_images(built, tmp_path):
    run = sibling(built, tmp_path / "run", "fcn.staged=false")
    assert train(run, "--model", "fcn8s") == 0
    assert not run.training("fcn32s").exists() and not run.training("fcn16s").exists()
    (start,) = starts(run, "fcn8s")
    assert start["from"].startswith("random numbers") and checkpoint(run, "fcn8s")["iteration"] == 2
    rows = chosen(3, 2, SEED)
    pictures, labels = canvases(run.voc_root, [ids(run, "val")[row] for row in rows], None, (), CANVAS)
    assert start["validation"] == {
        "iteration": 2, "batch": 2, "examples": 2, "rows": digest(rows), "pictures": digest(pictures),
        "labels": digest(labels), "scores": "float32", "bn": {"layers": 0, "training": 0}}


@pytest.fixture
def vgg16(tmp_path, monkeypatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A VGG16 file with torchvision's names; all networks have its few channels."""
    monkeypatch.setattr("deconvnet.models.vgg16.VGG16_BLOCKS", SMALL)
    monkeypatch.setattr("deconvnet.models.vgg16.FC_CHANNELS", FC)
    torch.manual_seed(0)
    configuration = [part for count, channels in SMALL for part in [channels] * count + ["M"]]
    state = {f"features.{name}": torch.randn(value.shape) * 0.1
             for name, value in make_layers(configuration).state_dict().items()}
    state |= {"classifier.0.weight": torch.randn(FC, 8 * 49) * 0.1, "classifier.0.bias": torch.randn(FC) * 0.1,
              "classifier.3.weight": torch.randn(FC, FC) * 0.1, "classifier.3.bias": torch.randn(FC) * 0.1}
    torch.save(state, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth", state


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--stage", 1), ("--model", "fcn32s")])
def test_vgg16s_weights_are_what_it_starts_from(built, tmp_path, vgg16, arguments):
    """With a rate of 0 the trained weights are those of the start. Input (x / 255 - m) / s there, x - MEAN here."""
    path, state = vgg16
    run = sibling(built, tmp_path / "run", "network.width=1", "fcn.width=1", "fcn.fc6_kernel=7",
                  f"network.fc_channels={FC}", f"fcn.fc_channels={FC}",
                  "train.iterations=[1,1]", "fcn.iterations=[1,1,1]", "solver.lr=0", "fcn.lr=0")
    assert train(run, *arguments, "--vgg16", path) == 0
    name = "stage1" if arguments[0] == "--stage" else "fcn32s"
    found = checkpoint(run, name)["model"]
    (start,) = starts(run, name)
    assert start["file"] == str(path) and start["from"] == "ImageNet weights of vgg16.pth"
    assert all(start["weights"]["tensors"][one] == expected for one, expected in digests(found).items()
               if "running" not in one and "tracked" not in one)

    names = [f"conv{block}_{i}" for block, (count, _) in enumerate(SMALL, 1) for i in range(1, count + 1)]
    theirs = [one.removesuffix(".weight") for one in state if one.startswith("features") and one.endswith(".weight")]
    mean, deviation = (np.array(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    first, bias = (state[f"features.0.{part}"].double().numpy() for part in ("weight", "bias"))
    bias = bias + (first * ((truth.MEAN[:, None, None] / 255 - mean) / deviation)).sum((1, 2, 3))
    np.testing.assert_allclose(found["conv1_1.weight"].numpy(), first / (255 * deviation), rtol=1e-5)
    np.testing.assert_allclose(found["conv1_1.bias"].numpy(), bias, rtol=1e-4, atol=1e-6)
    for ours, its in list(zip(names, theirs, strict=True))[1:]:
        assert torch.equal(found[f"{ours}.weight"], state[f"{its}.weight"])
        assert torch.equal(found[f"{ours}.bias"], state[f"{its}.bias"])
    if name == "fcn32s":  # its fc6 has VGG16's kernel of 7, the small DeconvNet's has 1
        assert torch.equal(found["fc6.weight"], state["classifier.0.weight"].view(FC, 8, 7, 7))
        assert torch.equal(found["fc7.weight"], state["classifier.3.weight"].view(FC, FC, 1, 1))
        assert torch.equal(found["fc6.bias"], state["classifier.0.bias"])
