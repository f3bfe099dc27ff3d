"""The trace itself: changes nothing, goes on with a resumed training, tells arithmetic and rates as they really are."""

import csv
import hashlib
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deconvnet.models.weight_files import read_safetensors
from deconvnet.run_folder import RunFolder
from deconvnet.training import trainer as training
from deconvnet.training.trace import digest, state_digests
from deconvnet.training.trainer import Training
from tests import training_truth as truth
from tests.training_runs import BATCH, SEED, SIDE, WARP, build, checkpoint, sibling, starts, train
from tests.training_truth import Windows, digests, drawn_rows


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> RunFolder:
    return build(tmp_path_factory.mktemp("trace"), (1,))


class NoTrace:
    """Notes nothing."""

    def __init__(self, path, _) -> None:
        self.path, self.validating = path, None

    def drawn(self, order: Iterator) -> Iterator:
        return order

    def begin(self, *_, **__) -> None:
        pass

    passed = add = write = begin


@pytest.mark.slow
def test_a_training_is_the_same_without_trace(built, tmp_path, monkeypatch):
    traced, plain = (sibling(built, tmp_path / name, "train.iterations=[3,3]") for name in ("traced", "plain"))
    assert train(traced, "--stage", 1) == 0
    monkeypatch.setattr(training, "Trace", NoTrace)
    assert train(plain, "--stage", 1) == 0
    assert not (plain.training("stage1") / "trace.json").exists()
    one, other = (read_safetensors(run.network("stage1"))[0] for run in (traced, plain))
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_digests_are_of_the_values_whatever_their_layout():
    values = torch.arange(48.0).view(2, 4, 3, 2) / 7
    expected = hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
    assert digest(values) == digest(values.contiguous(memory_format=torch.channels_last)) == expected
    assert digest(values.bfloat16()) == hashlib.sha256(values.bfloat16().float().numpy().tobytes()).hexdigest()[:16]
    assert digest(torch.tensor(3)) == hashlib.sha256(np.int64(3).tobytes()).hexdigest()[:16]
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert state_digests(one)["all"] != state_digests(other)["all"]


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Ctrl-C before an iteration."""
    iterate = Training._iterate

    def stopped(self: Training, source: Iterator) -> tuple[float, float]:
        if self.iteration == iteration:
            raise KeyboardInterrupt
        return iterate(self, source)

    monkeypatch.setattr(Training, "_iterate", stopped)


@pytest.mark.slow
def test_a_resumed_training_adds_its_own_start(built, tmp_path, monkeypatch):
    """Its examples are those of its positions, in the next epoch too."""
    classes = Windows(built.windows(1, "train"), built.voc_root, WARP, SIDE).classes.tolist()
    epoch = len(set(classes)) * max(classes.count(one) for one in classes)
    at = 2 * (epoch // (2 * BATCH))  # of the iterations at which a checkpoint is written, the last in the first epoch
    run = sibling(built, tmp_path / "run", f"train.iterations=[{at + 2},3]")
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        assert train(run, "--stage", 1) == 130
    before, last = starts(run, "stage1"), checkpoint(run, "stage1")
    assert train(run, "--stage", 1, "--resume") == 0
    first, second = starts(run, "stage1")
    assert [first] == before
    assert (second["iteration"], last["iteration"], second["from"]) == (at, at, first["from"])
    assert second["file"].endswith("stage1/last.pt") and second["weights"]["tensors"] == digests(last["model"])
    assert [one["iteration"] for one in second["iterations"]] == [at + 1, at + 2]
    found = [row for iteration in second["iterations"] for one in iteration["passes"] for row in one["rows"]]
    assert at * BATCH <= epoch < (at + 2) * BATCH
    assert found == drawn_rows(classes, True, (SEED, truth.ORDER, 1), at * BATCH, (at + 2) * BATCH)
    assert second["iterations"][0]["rates"] == pytest.approx([0.05 * 0.5 ** (at // 2), 0.1 * 0.5 ** (at // 2)])


@pytest.mark.slow
def test_bn_statistics_after_a_kill_are_told_and_a_damaged_trace_is_no_hindrance(built, tmp_path, caplog):
    run = sibling(built, tmp_path / "run", "train.iterations=[1,1]")
    assert train(run, "--stage", 1) == 0
    (whole,) = starts(run, "stage1")
    network = read_safetensors(run.network("stage1"))[0]
    for damage in (None, "{", '{"starts": 3}'):
        run.network("stage1").unlink()  # as if killed while the statistics were measured
        if damage:
            (run.training("stage1") / "trace.json").write_text(damage)
        with caplog.at_level(logging.WARNING):
            assert train(run, "--stage", 1, "--resume") == 0
        *_, last = found = starts(run, "stage1")
        assert len(found) == (1 if damage else 2)
        assert last["iteration"] == 1 and last["iterations"] == []
        assert last["bn_statistics"] == whole["bn_statistics"]
        assert ("trace.json: damaged" in caplog.text) == bool(damage)
        again = read_safetensors(run.network("stage1"))[0]
        assert all(torch.equal(value, again[name]) for name, value in network.items())


@pytest.mark.slow
def test_arithmetic_and_layout_as_the_runtime_keys_say(built, tmp_path):
    plain, other = (sibling(built, tmp_path / name, "train.iterations=[1,1]") for name in ("plain", "other"))
    assert train(plain, "--stage", 1, "--set", "runtime.channels_last=false") == 0
    assert train(other, "--stage", 1, "--set", "runtime.precision=bf16", "--set", "runtime.channels_last=true") == 0
    for run, scores, last in ((plain, "float32", False), (other, "bfloat16", True)):
        (start,) = starts(run, "stage1")
        told = [*start["iterations"][0]["passes"], start["validation"], start["bn_statistics"]]
        assert [one["scores"] for one in told] == [scores] * len(told)
        assert start["channels_last"] is last and start["tf32"] == [False, False] and not start["compiled"]
        assert all(one["pictures_channels_last"] is last for one in start["iterations"][0]["passes"])
        assert start["device"] == "cpu" and start["seed"] == SEED
    one, another = starts(plain, "stage1")[0], starts(other, "stage1")[0]
    assert one["weights"] == another["weights"]


@pytest.mark.slow
def test_tf32_as_the_runtime_key_says(built, tmp_path):
    run = sibling(built, tmp_path / "run", "train.iterations=[1,1]")
    for precision in ("tf32", "fp32"):  # the second puts back what the first set
        for made in (run.training("stage1") / "last.pt", run.network("stage1")):
            made.unlink(missing_ok=True)
        assert train(run, "--stage", 1, "--set", f"runtime.precision={precision}") == 0
        (start,) = starts(run, "stage1")
        assert start["tf32"] == [precision == "tf32"] * 2


def test_the_rate_drops_when_validation_accuracy_stops_rising(built, tmp_path, monkeypatch):
    """Two validations without a rise, patience 2; the loss, which falls all the time, has no say. best.pt: the best."""
    accuracies = [0.3, 0.5, 0.4, 0.5, 0.6, 0.1, 0.2, 0.6]
    found = iter([{"validation_loss": 9.0 - index, "validation_accuracy": accuracy, "validation_mean_iou": 0.1,
                   "predicted_objects": 1} for index, accuracy in enumerate(accuracies)])
    monkeypatch.setattr(training, "validate", lambda *_: next(found))
    run = sibling(built, tmp_path / "run", "train.iterations=[8,1]", "train.validate_every=1",
                  "solver.rate_rule=plateau", "solver.lr_patience=2")
    assert train(run, "--stage", 1) == 0
    expected, rate, best, worse = [], 0.05, -1.0, 0
    for accuracy in accuracies:
        expected.append(rate)
        best, worse = (accuracy, 0) if accuracy > best else (best, worse + 1)
        if worse == 2:
            rate, worse = rate / 2, 0
    assert expected == [0.05] * 4 + [0.025] * 3 + [0.0125]
    (start,) = starts(run, "stage1")
    assert [(one["iteration"], one["before"][0], one["rates"][0]) for one in start["rate_changes"]] == [
        (5, 0.05, 0.025), (8, 0.025, 0.0125)]
    with (run.training("stage1") / "log.csv").open(newline="") as file:
        assert [float(row["rate"]) for row in csv.DictReader(file)] == expected
    best = checkpoint(run, "stage1", "best.pt")
    assert (best["iteration"], best["best"]) == (5, 0.6)
