"""stages.train for DeconvNet does what recipe and arguments say: its trace and files against independent truth."""

import csv
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deconvnet.models.weight_files import read_safetensors
from deconvnet.run_folder import RunFolder
from stages import bn_statistics
from stages.cli import run_command
from tests import reference_network
from tests import training_truth as truth
from tests.training_runs import BATCH, PASS, SEED, SIDE, WARP, build, checkpoint, sibling, starts, train
from tests.training_truth import Windows, chosen, digest, digests, drawn_rows, random_state


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> RunFolder:
    return build(tmp_path_factory.mktemp("wiring"), (1, 2))


@pytest.fixture(scope="module")
def run(built, tmp_path_factory) -> RunFolder:
    """Both stages trained. Between them stage 1's best.pt is made another than its last.pt."""
    run = sibling(built, tmp_path_factory.mktemp("trained") / "run")
    assert train(run, "--stage", 1) == 0
    best = checkpoint(run, "stage1", "best.pt")
    best["model"]["fc7.weight"] *= 2
    torch.save(best, run.training("stage1") / "best.pt")
    assert train(run, "--stage", 2) == 0
    return run


def windows(run: RunFolder, stage: int, split: str) -> Windows:
    return Windows(run.windows(stage, split), run.voc_root, WARP, SIDE)


def check_first_batches(run: RunFolder, stage: int, start: dict, seed: int = SEED, balanced: bool = True,
                        micro: int = PASS) -> None:
    """Rows, crops, flips and labels of a start's first iterations, and how they are divided into passes."""
    cut, begin = windows(run, stage, "train"), start["iteration"] * BATCH
    rows = drawn_rows(cut.classes.tolist(), balanced, (seed, truth.ORDER, stage), begin, begin + 2 * BATCH)
    passes = [one for iteration in start["iterations"] for one in iteration["passes"]]
    assert len(passes) == len(start["iterations"]) * BATCH // micro
    for index, one in enumerate(passes):
        positions = list(range(begin + index * micro, begin + (index + 1) * micro))
        own = rows[index * micro : (index + 1) * micro]
        assert (one["positions"], one["rows"]) == (positions, own)
        assert one["windows"] == [cut.name(row) for row in own]
        pictures, labels = cut.batch(own, positions, (seed, truth.CROP, stage))
        assert (one["pictures"], one["labels"]) == (digest(pictures), digest(labels)), positions
        assert one["bn"] == {"layers": 29, "training": 29}


def test_stage_1_starts_from_numbers_of_the_seed(run):
    (start,) = starts(run, "stage1")
    shapes = {name: tuple(value.shape) for name, value in checkpoint(run, "stage1", "last.pt")["model"].items()}
    assert start["weights"]["tensors"] == digests(random_state(shapes, SEED, 0.05))
    assert start["iteration"] == 0 and start["file"] is None and start["from"].startswith("random numbers")


@pytest.mark.parametrize("stage", [1, 2])
def test_trained_on_balanced_augmented_windows(run, stage):
    (start,) = starts(run, f"stage{stage}")
    check_first_batches(run, stage, start)
    classes = windows(run, stage, "train").classes.tolist()
    assert drawn_rows(classes, True, (0,), 0, 12) != drawn_rows(classes, False, (0,), 0, 12)  # the classes do differ


def test_another_seed_order_and_pass(built, tmp_path):
    """And the first line of log.csv: loss and accuracy of the labelled pixels, by NumPy's own network."""
    other = sibling(built, tmp_path / "run", "seed=8", "windows.balance=none", "train.micro_batch=3",
                    "train.iterations=[1,1]", "network.bn_shift=0.01", "network.bn_eps=0.001")
    assert train(other, "--stage", 1) == 0
    (start,) = starts(other, "stage1")
    check_first_batches(other, 1, start, seed=8, balanced=False, micro=3)
    shapes = {name: tuple(value.shape) for name, value in checkpoint(other, "stage1", "last.pt")["model"].items()}
    state = random_state(shapes, 8, 0.05, shift=0.01)
    assert start["weights"]["tensors"] == digests(state)

    state = {name: value.double().numpy() for name, value in state.items()}
    losses, right, counted = [], 0, 0
    for one in start["iterations"][0]["passes"]:
        pictures, labels = windows(other, 1, "train").batch(one["rows"], one["positions"], (8, truth.CROP, 1))
        scores = reference_network.forward(pictures.astype(float), state, 0.001, True)
        valid = labels != 255
        assert 0.02 < 1 - valid.mean() < 0.98
        own = np.take_along_axis(scores, np.where(valid, labels, 0)[:, None], 1)[:, 0]
        losses.append((np.log(np.exp(scores).sum(1)) - own)[valid].mean())
        right += ((scores.argmax(1) == labels) & valid).sum()
        counted += valid.sum()
    with (other.training("stage1") / "log.csv").open(newline="") as file:
        line = next(csv.DictReader(file))
    assert float(line["loss"]) == pytest.approx(np.mean(losses), rel=1e-3)
    assert float(line["pixel_accuracy"]) == pytest.approx(right / counted, abs=2e-3)


@pytest.mark.parametrize("stage, iterations, step", [(1, 5, 2), (2, 3, 1)])
def test_rates_and_length_are_the_stages_own(run, stage, iterations, step):
    (start,) = starts(run, f"stage{stage}")
    rates = {one["iteration"]: one["rates"] for one in start["iterations"]}
    for iteration in range(3, iterations + 1):
        change = [one for one in start["rate_changes"] if one["iteration"] == iteration]
        assert all(one["before"] == rates[iteration - 1] for one in change)
        rates[iteration] = change[0]["rates"] if change else rates[iteration - 1]
    weights = [0.05 * 0.5 ** ((iteration - 1) // step) for iteration in range(1, iterations + 1)]
    assert list(rates.values()) == [pytest.approx([rate, 2 * rate]) for rate in weights]
    assert max(one["iteration"] for one in start["rate_changes"]) <= iterations
    assert checkpoint(run, f"stage{stage}", "last.pt")["iteration"] == iterations
    assert read_safetensors(run.network(f"stage{stage}"))[1]["origin"]["iterations"] == iterations


@pytest.mark.parametrize("scaled", [False, True])
def test_decay_of_weights_and_biases(run, built, tmp_path, scaled):
    """Biases twice the rate and no decay [R]; Caffe's accumulation divides the decay by the number of passes."""
    if scaled:
        run = sibling(built, tmp_path / "run", "solver.decay_over_accumulation=true", "train.iterations=[1,1]",
                      "solver.momentum=0.7")
        assert train(run, "--stage", 1) == 0
    state = checkpoint(run, "stage1", "last.pt")["model"]
    biases = sum(value.numel() for name, value in state.items() if name.endswith("bias") and "bn" not in name)
    weights = sum(value.numel() for name, value in state.items()
                  if name.endswith("weight") or (name.endswith("bias") and "bn" in name))
    decay, momentum = (5e-4 / 3, 0.7) if scaled else (5e-4, 0.9)
    assert starts(run, "stage1")[0]["groups"] == [
        {"rate": 0.05, "decay": pytest.approx(decay), "momentum": momentum, "parameters": weights},
        {"rate": 0.1, "decay": 0, "momentum": momentum, "parameters": biases}]


@pytest.mark.parametrize("stage", [1, 2])
def test_validated_on_centre_crops_of_the_validation_split(run, stage):
    cut = windows(run, stage, "val")
    rows = chosen(len(cut.classes), 5, SEED)
    pictures, labels = cut.batch(rows[:PASS].tolist(), None, ())
    assert starts(run, f"stage{stage}")[0]["validation"] == {
        "iteration": 2, "batch": PASS, "examples": 5, "rows": digest(rows), "pictures": digest(pictures),
        "labels": digest(labels), "scores": "float32", "bn": {"layers": 29, "training": 0}}


@pytest.mark.slow
def test_stage_2_starts_from_stage_1s_checkpoint(run, built, tmp_path):
    """best.pt by default, last.pt where the recipe says so, and neither: numbers of the seed."""
    best, last = (digests(checkpoint(run, "stage1", name)["model"]) for name in ("best.pt", "last.pt"))
    assert best != last
    (start,) = starts(run, "stage2")
    assert start["weights"]["tensors"] == best and start["file"].endswith("stage1/best.pt")
    assert "best.pt, iteration" in start["from"]
    assert starts(run, "stage1")[0]["weights"]["all"] != start["weights"]["all"]
    for source in ("last", "nothing"):
        other = sibling(built, tmp_path / source)
        shutil.copytree(run.training("stage1"), other.training("stage1"))
        assert train(other, "--stage", 2, "--set", f"train.stage2_from={source}") == 0
        (start,) = starts(other, "stage2")
        if source == "last":
            assert start["weights"]["tensors"] == last and start["from"].startswith("stage 1's last.pt, iteration 5")
        else:
            assert start["weights"] == starts(run, "stage1")[0]["weights"]
            assert start["file"] is None and start["from"].startswith("random numbers")


def first_layer_statistics(run: RunFolder, name: str, stage: int, batches: int, batch: int, variance: str) -> dict:
    """bn1_1's statistics by float64, the means over batches of conv1_1's mean and variance; and the first pictures.

    name: the training whose weights; stage: whose windows.
    """
    state = checkpoint(run, name)["model"]
    cut = windows(run, stage, "train")
    rows = drawn_rows(cut.classes.tolist(), True, (SEED, truth.MEASURE_ORDER, stage), 0, batches * batch)
    means, variances, inputs = [], [], []
    for begin in range(0, batches * batch, batch):
        positions = list(range(begin, begin + batch))
        pictures, _ = cut.batch(rows[begin : begin + batch], positions, (SEED, truth.MEASURE_CROP, stage))
        inputs.append(pictures)
        out = F.conv2d(torch.from_numpy(pictures).double(), state["conv1_1.weight"].double(),
                       state["conv1_1.bias"].double(), padding=1).numpy()
        means.append(out.mean((0, 2, 3)))
        variances.append(out.var((0, 2, 3), ddof=1 if variance == "unbiased" else 0))
    return {"mean": np.mean(means, 0), "var": np.mean(variances, 0), "pictures": digest(inputs[0])}


def check_statistics(tensors: dict[str, torch.Tensor], expected: dict) -> None:
    np.testing.assert_allclose(tensors["bn1_1.running_mean"].numpy(), expected["mean"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(tensors["bn1_1.running_var"].numpy(), expected["var"], rtol=3e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_bn_statistics_are_measured_over_augmented_training_windows(run, stage):
    tensors, metadata = read_safetensors(run.network(f"stage{stage}"))
    expected = first_layer_statistics(run, f"stage{stage}", stage, 3, 4, "unbiased")
    check_statistics(tensors, expected)
    assert metadata["bn"] == "measured"
    assert starts(run, f"stage{stage}")[0]["bn_statistics"] == {
        "batches": 3, "sizes": [4], "correction": 1, "pictures": expected["pictures"], "scores": "float32",
        "bn": {"layers": 29, "training": 29}}
    last = checkpoint(run, f"stage{stage}", "last.pt")["model"]
    assert all(torch.equal(value, last[name]) for name, value in tensors.items()
               if not name.endswith(("running_mean", "running_var", "num_batches_tracked")))
    assert all(not torch.equal(value, last[name]) for name, value in tensors.items() if "running" in name)


def test_bn_statistics_command_measures_what_it_is_told(run, tmp_path):
    """Other keys, another stage's windows, into another file; the weights are those of the file that is named."""
    keys = ["bn_statistics.batches=2", "bn_statistics.batch=5", "bn_statistics.variance=biased"]
    arguments = ["--device", "cpu", "--run", run.root, "--stage", 1, "--weights", run.network("stage2"), "--to",
                 tmp_path / "to.safetensors", *(word for key in keys for word in ("--set", key))]
    before = run.network("stage2").read_bytes()
    assert run_command(bn_statistics.parse(), bn_statistics.main, [str(word) for word in arguments]) == 0
    assert run.network("stage2").read_bytes() == before
    tensors, metadata = read_safetensors(tmp_path / "to.safetensors")
    expected = first_layer_statistics(run, "stage2", 1, 2, 5, "biased")
    check_statistics(tensors, expected)
    told = metadata["origin"]["bn_statistics"]
    assert (told["training"], told["batches"], told["sizes"], told["correction"]) == ("stage1", 2, [5], 0)
    assert told["pictures"] == expected["pictures"]
