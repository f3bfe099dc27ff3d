"""stages.train with bn_start, trunk_lr and --weights does what they say: its trace against independent truth."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from deconvnet.models.weight_files import read_safetensors
from deconvnet.run_folder import RunFolder
from tests import training_truth as truth
from tests.training_runs import KEYS, SEED, build, checkpoint, sibling, starts, train
from tests.training_truth import digest, digests, drawn_rows

SMALL = ((2, 4), (2, 4), (3, 8), (3, 8), (3, 8))  # a VGG16 of few channels, so that a whole one is a small file
BLOCKS = [f"{block}_{i}" for block, (count, _) in enumerate(SMALL, 1) for i in range(1, count + 1)]
EXAMPLES, START_ORDER = 128, 5  # on which the batch normalisation's start is measured, and what they are drawn with
FULL = ["network.width=1", "fcn.width=1", "segnet.width=1", "network.fc_channels=8", "fcn.fc_channels=8",
        "train.iterations=[1,1]", "fcn.iterations=[1,1,1]", "segnet.iterations=1", "segnet.batch=2",
        "segnet.micro_batch=2", "segnet.canvas=96", "segnet.validate=1"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> RunFolder:
    return build(tmp_path_factory.mktemp("starting"), (1,))


@pytest.fixture
def convolutions(tmp_path, monkeypatch):
    """A file of VGG16's convolutions alone; all networks have its few channels."""
    monkeypatch.setattr("deconvnet.models.vgg16.VGG16_BLOCKS", SMALL)
    random, before, state = torch.Generator().manual_seed(0), 3, {}
    for name in BLOCKS:
        after = SMALL[int(name[0]) - 1][1]
        state[f"conv{name}.weight"] = torch.randn(after, before, 3, 3, generator=random) * 0.3
        state[f"conv{name}.bias"] = torch.randn(after, generator=random)
        before = after
    save_file(state, tmp_path / "conv.safetensors")
    return tmp_path / "conv.safetensors", state


def first_layer(run: RunFolder, state: dict[str, torch.Tensor], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of what comes out of conv1_1, over batches of stage 1's windows, augmented."""
    cut = truth.Windows(run.windows(1, "train"), run.voc_root, 40, 32)
    rows = drawn_rows(cut.classes.tolist(), True, (SEED, START_ORDER, 1), 0, EXAMPLES)
    means, variances = [], []
    for begin in range(0, EXAMPLES, size):
        positions = list(range(begin, begin + size))
        pictures, _ = cut.batch(rows[begin : begin + size], positions, (SEED, truth.MEASURE_CROP, 1))
        out = F.conv2d(torch.from_numpy(pictures).double(), state["conv1_1.weight"].double(),
                       state["conv1_1.bias"].double(), padding=1).numpy()
        means.append(out.mean((0, 2, 3)))
        variances.append(out.var((0, 2, 3)))
    return np.mean(means, 0), np.sqrt(np.mean(variances, 0) + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["preserve", "unit"])
def test_deconvnets_trunk_starts_as_vgg16(built, tmp_path, convolutions, start):
    """With a rate of 0 the checkpoint holds the weights of the start."""
    path, state = convolutions
    run = sibling(built, tmp_path / "run", *FULL, f"network.bn_start={start}", "solver.lr=0")
    assert train(run, "--stage", 1, "--vgg16", path) == 0
    (began,) = starts(run, "stage1")
    assert began["from"] == "ImageNet weights of conv.safetensors"
    found = checkpoint(run, "stage1")["model"]
    assert all(torch.equal(found[name], value) for name, value in state.items())
    mean, deviation = (0, 1) if start == "unit" else first_layer(run, state, 2)
    np.testing.assert_allclose(found["bn1_1.bias"].numpy(), np.broadcast_to(mean, 4), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["bn1_1.weight"].numpy(), np.broadcast_to(deviation, 4), rtol=1e-3)
    for name in BLOCKS:  # all of the trunk, and nothing else
        assert (found[f"bn{name}.weight"] == 1).all() == (start == "unit")
    assert (found["bnfc6.weight"] == 1).all() and (found["debn5_3.weight"] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "name", "keys"), [
    (("--stage", 1), "stage1", ("network.bn_start=preserve", "solver.trunk_lr=0", "solver.lr=0.1")),
    (("--model", "fcn8s"), "fcn8s", ("fcn.bn_start=preserve", "fcn.trunk_lr=0", "fcn.batch_norm=true", "fcn.lr=0.1",
                                     "fcn.staged=false", "fcn.scaled_skips=true")),
    (("--model", "segnet"), "segnet", ("segnet.bn_start=preserve", "segnet.trunk_lr=0")),
])
def test_each_network_has_the_keys_of_its_own(built, tmp_path, convolutions, arguments, name, keys):
    """A frozen trunk is VGG16's still, its batch normalisation as it was set; the rest has learned."""
    path, state = convolutions
    run = sibling(built, tmp_path / "run", *FULL, *keys)
    assert train(run, *arguments, "--vgg16", path) == 0
    began = starts(run, name)[0]["weights"]["tensors"]
    after = checkpoint(run, name)["model"]
    assert all(torch.equal(after[one], value) for one, value in state.items())
    moved = {one for one, value in digests(after).items() if began[one] != value and "running" not in one
             and "tracked" not in one}
    trunk = {f"{kind}{block}.{part}" for kind in ("conv", "bn") for block in BLOCKS for part in ("weight", "bias")}
    assert not moved & trunk and len(moved) > 2
    assert began["bn1_1.weight"] != digest(np.ones(4, np.float32))


def test_weights_fine_tunes_a_network_with_other_classes(built, tmp_path):
    """The file's trunk and decoder are what the training starts from, the score layer is drawn from the seed."""
    first = sibling(built, tmp_path / "first", "train.iterations=[2,1]")
    assert train(first, "--stage", 1) == 0
    theirs, metadata = read_safetensors(first.network("stage1"))
    assert len(metadata["class_names"]) == 21
    classes = json.dumps([*metadata["class_names"][:-1], "something else"])
    run = build(tmp_path / "other", (1,), keys=[*KEYS, f"data.classes={classes}", "seed=8", "train.iterations=[1,1]"])
    assert train(run, "--stage", 1, "--weights", first.network("stage1")) == 0
    (began,) = starts(run, "stage1")
    assert began["from"] == "the network of network.safetensors, fine-tuned"
    assert began["file"] == str(first.network("stage1"))
    found = began["weights"]["tensors"]
    same = {name for name, value in digests(theirs).items() if found.get(name) == value}
    anew = {name for name in theirs if name not in same and "tracked" not in name}
    assert anew == {"seg_score_voc.weight", "seg_score_voc.bias"}
    shape = tuple(theirs["seg_score_voc.weight"].shape)
    shapes = {name: tuple(value.shape) for name, value in checkpoint(run, "stage1")["model"].items()}
    drawn = truth.random_state(shapes, 8, 0.05)["seg_score_voc.weight"]
    assert found["seg_score_voc.weight"] == digest(drawn.numpy()) and drawn.shape == shape


def test_one_of_two_starts(built, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(built, "--stage", 1, "--weights", tmp_path / "a", "--vgg16", tmp_path / "b")
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
