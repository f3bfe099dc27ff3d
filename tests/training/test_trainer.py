"""The training loop: loss, accumulation, validation, what stops it, and what checkpoints are refused."""

import csv
import logging
import math
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.data.columns import COLUMNS
from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import Rows, read_rows, write_rows
from deconvnet.models.build import build_network
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.runtime import network_input
from deconvnet.support.errors import UserError
from deconvnet.training.checkpoint import load_checkpoint, save_checkpoint
from deconvnet.training.sampling import positions
from deconvnet.training.trainer import Examples, Plan, Training, pixel_loss, validate
from tests.checkpoints import content
from tests.row_files import attributes

CPU = torch.device("cpu")
SIDE = 32
WINDOWS = 10
CLASSES = ("background", "disc", "square")


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("paper", ["network.width=0.0625", "network.input=32", "windows.warp=36", "train.workers=0",
                                "network.deconv_std=0", f"data.classes=[{','.join(CLASSES)}]", *overrides])


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Rows:
    """Materialized windows of discs and squares; every label has void in it, that of row 9 nothing else."""
    random = np.random.default_rng(0)
    pictures, labels, classes = [], [], []
    for row in range(WINDOWS):
        label = np.zeros((36, 36), np.uint8)
        one = 1 + row % 2
        if one == 1:
            cv2.circle(label, (18, 18), 9, 1, -1)
        else:
            cv2.rectangle(label, (8, 10), (26, 28), 2, -1)
        picture = random.integers(0, 60, (36, 36, 3)).astype(np.uint8) + np.uint8(70) * label[..., None]
        label[:, :5] = 255
        if row == 9:
            label[:] = 255
        pictures.append(cv2.imencode(".png", picture)[1].ravel())
        labels.append(cv2.imencode(".png", label)[1].ravel())
        classes.append(one)
    part = {name: np.zeros((WINDOWS, *column.shape), column.kind) for name, column in COLUMNS["windows"].items()}
    part["box"][:] = [0, 0, 36, 36]
    part["window"][:] = [[row, 0, row + 36, 36] for row in range(WINDOWS)]
    part |= {"class_index": np.array(classes, np.uint8), "size": np.array([36, 50], np.int32)}
    for name, items in (("picture", pictures), ("labels", labels)):
        part[name], part[f"{name}_length"] = np.concatenate(items), np.array([len(item) for item in items])
    path = tmp_path_factory.mktemp("windows") / "windows.h5"
    write_rows(path, ["scene"], [part], attributes("windows", stage=2, classes=CLASSES))
    return read_rows(path, "windows")


def make_training(folder: Path, windows: Rows, recipe: Recipe, iterations: int = 4, batch: int = 4, micro: int = 4,
                  every: int = 2, rows: list[int] | None = None) -> Training:
    """rows: those that are trained on; default: the first nine."""
    trained = np.array(rows if rows is not None else range(9))

    def order(start: int, stop: int):
        for position, index in positions(np.zeros(len(trained), int), "none", (0,), start, stop):
            yield position, int(trained[index])

    examples = Examples(WindowCrops(windows, None, recipe, True, (0,)), WindowCrops(windows, None, recipe, False, (0,)),
                        order, np.array([1, 2, 9]))
    plan = Plan("stage1", 1, iterations, batch, micro, every, every, 0)
    return Training(build_network("deconvnet", recipe), recipe, recipe.solver, plan, examples, folder, CPU)


def test_ctrl_c_in_the_last_iteration_is_not_lost(tmp_path, windows, monkeypatch):
    """What comes after a training takes long too: BN statistics, FCN's next network."""
    training = make_training(tmp_path, windows, small_recipe(), 4)
    iterate = training._iterate

    def interrupted(batches):
        if training.iteration == 3:
            signal.raise_signal(signal.SIGINT)
        return iterate(batches)

    monkeypatch.setattr(training, "_iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == 4


def plain_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """-log softmax of each labelled pixel's own class, their mean."""
    losses = []
    for n, y, x in np.ndindex(labels.shape):
        if labels[n, y, x] != 255:
            exponents = [math.exp(score) for score in scores[n, :, y, x]]
            losses.append(-math.log(exponents[labels[n, y, x]] / sum(exponents)))
    return sum(losses) / len(losses) if losses else 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), void=st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_pixel_loss_by_loops(seed, void):
    random = np.random.default_rng(seed)
    scores, labels = random.normal(0, 3, (2, 4, 3, 5)), random.integers(0, 4, (2, 3, 5))
    labels[random.random(labels.shape) < void] = 255
    found = pixel_loss(torch.from_numpy(scores), torch.from_numpy(labels))
    assert float(found) == pytest.approx(plain_loss(scores, labels), rel=1e-5)


def test_a_batch_of_void_has_loss_zero_and_no_gradient():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(scores, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and (scores.grad == 0).all()


def test_void_pixels_have_no_gradient():
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    pixel_loss(scores, torch.tensor([[[0, 255], [2, 1]]])).backward()
    assert (scores.grad[0, :, 0, 1] == 0).all() and (scores.grad[0, :, 0, 0] != 0).all()


def test_accumulation_is_the_mean_of_the_passes_gradients(tmp_path, windows):
    """Two passes of 2 windows: the step that NumPy works out from each pass's own gradient; BN by pass."""
    recipe = small_recipe("solver.rate_rule=constant", "solver.lr=0.1", "solver.weight_decay=0",
                          "runtime.channels_last=false")  # as `alone` computes: BN over 2 pixels magnifies rounding
    training = make_training(tmp_path, windows, recipe, 1, batch=4, micro=2)
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    alone = build_network("deconvnet", recipe)  # the same seed, so the same weights
    sums = {name: torch.zeros_like(value) for name, value in alone.named_parameters()}
    examples = list(training.examples.order(0, 4))
    for items in (examples[:2], examples[2:]):
        pictures, labels, _ = zip(*(training.examples.training[item] for item in items), strict=True)
        alone.zero_grad()
        scores = alone(network_input(torch.stack(pictures)))
        labels = torch.stack(labels).long()
        valid = labels != 255
        chosen = scores.log_softmax(1).movedim(1, -1)[valid][torch.arange(int(valid.sum())), labels[valid]]
        (-chosen.mean()).backward()
        for name, parameter in alone.named_parameters():
            sums[name] += parameter.grad
    training.run()
    for name, parameter in training.model.named_parameters():
        rate = 0.2 if name.endswith("bias") and "bn" not in name else 0.1
        expected = before[name] - rate * sums[name] / 2
        assert torch.allclose(parameter, expected, rtol=1e-4, atol=1e-5), name


def test_a_run_writes_log_and_checkpoints(tmp_path, windows):
    training = make_training(tmp_path, windows, small_recipe())
    training.run()
    assert load_checkpoint(tmp_path / "last.pt", training.recipe)["iteration"] == 4
    assert (tmp_path / "best.pt").is_file() and list(tmp_path.glob("events.*"))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    best = load_checkpoint(tmp_path / "best.pt", None)
    assert best["best"] == max(float(row["validation_accuracy"]) for row in rows)


def test_the_loss_falls(tmp_path, windows):
    training = make_training(tmp_path, windows, small_recipe("solver.lr=0.05"), 30, every=15)
    training.run()
    with (tmp_path / "log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3])
def test_resumed_in_the_middle_is_bit_equal(tmp_path, windows, at):
    """The log too: no line twice. A line that a kill cut is left out."""
    recipe = small_recipe("solver.lr_patience=1")
    whole = make_training(tmp_path / "whole", windows, recipe, 6, batch=4, micro=2, every=1)
    whole.run()
    first = make_training(tmp_path / "broken", windows, recipe, at, batch=4, micro=2, every=1)
    first.run()
    with (tmp_path / "broken" / "log.csv").open("a") as file:
        file.write(f"{at + 1},0.1,9,9,9,9,9,9\r\n{at + 2},0.")
    second = make_training(tmp_path / "broken", windows, recipe, 6, batch=4, micro=2, every=1)
    torch.manual_seed(99)
    second.resume()
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert second.best == whole.best and second.sgd.rate == whole.sgd.rate
    with (tmp_path / "broken" / "log.csv").open() as file, (tmp_path / "whole" / "log.csv").open() as other:
        columns = [[row["iteration"], row["loss"], row["validation_loss"]] for row in csv.DictReader(file)]
        assert columns == [[row["iteration"], row["loss"], row["validation_loss"]] for row in csv.DictReader(other)]


def test_validation_by_hand(tmp_path, windows):
    """Loss and accuracy over all labelled pixels of the rows asked for, BN by its running statistics."""
    recipe = small_recipe()
    model = build_network("deconvnet", recipe)
    examples = WindowCrops(windows, None, recipe, False, (0,))
    rows = np.array([0, 3, 5, 9])
    found = validate(model, examples, rows, 3, 0, recipe, CPU)
    assert model.training
    model.eval()
    losses, counts = [], np.zeros((3, 3))
    for row in rows:
        picture, labels, _ = examples[0, int(row)]
        with torch.no_grad():
            scores = model(network_input(picture[None]))[0].double().numpy()
        for y, x in zip(*np.nonzero(labels.numpy() != 255), strict=True):
            truth = int(labels[y, x])
            losses.append(math.log(np.exp(scores[:, y, x] - scores[truth, y, x]).sum()))
            counts[truth, scores[:, y, x].argmax()] += 1
    ious = [counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in range(3)]
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["validation_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    assert found["validation_mean_iou"] == pytest.approx(np.mean(ious))
    assert found["predicted_objects"] == counts[:, 1:].sum()
    assert found == validate(model, examples, rows, 3, 0, recipe, CPU)


def test_only_void_to_validate_on_is_no_nan(windows):
    recipe = small_recipe()
    examples = WindowCrops(windows, None, recipe, False, (0,))
    found = validate(build_network("deconvnet", recipe), examples, np.array([9]), 2, 0, recipe, CPU)
    assert found["validation_loss"] == 0


def test_a_batch_of_void_alone_trains_on(tmp_path, windows):
    training = make_training(tmp_path, windows, small_recipe("solver.weight_decay=0"), 2, rows=[9])
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    training.run()
    assert all(torch.equal(value, before[name]) for name, value in training.model.named_parameters())


def test_a_loss_that_is_not_finite_names_the_windows_and_keeps_the_checkpoint(tmp_path, windows):
    recipe = small_recipe()
    make_training(tmp_path, windows, recipe, 2, rows=[3, 4, 5, 6]).run()
    kept = (tmp_path / "last.pt").read_bytes()
    training = make_training(tmp_path, windows, recipe, 6, rows=[3, 4, 5, 6])
    training.resume()
    with torch.no_grad():
        training.model.fc7.weight[0, 0] = math.nan
    with pytest.raises(UserError) as caught:
        training.run()
    message = str(caught.value)
    assert "the loss is nan at iteration 3 of stage1" in message and "last.pt is the last good checkpoint" in message
    for row in (3, 4, 5, 6):
        assert f"scene[{row},0,{row + 36},36]" in message
    assert "scene[1," not in message
    assert (tmp_path / "last.pt").read_bytes() == kept


def test_weights_that_overflow_are_not_written(tmp_path, windows):
    """The loss of iteration 1 is finite, the step behind it is not: no checkpoint may hold that."""
    recipe = small_recipe()
    recipe.solver.lr, recipe.solver.weight_decay = 1e37, 1e6  # no recipe file may say so
    training = make_training(tmp_path, windows, recipe, 4, every=1)
    with pytest.raises(UserError, match=r"at iteration 1 of stage1: no checkpoint was written yet.*1e\+37.*scene\["):
        training.run()
    assert not list(tmp_path.glob("*.pt"))


def test_a_huge_rate_stops(tmp_path, windows):
    recipe = small_recipe()
    recipe.solver.lr = 1e20  # no recipe file may say so
    training = make_training(tmp_path, windows, recipe, 8, every=100)
    with pytest.raises(UserError, match=r"smaller learning rate \(now 1e\+20\)"):
        training.run()


def test_only_background_is_said_loudly(tmp_path, windows, caplog):
    training = make_training(tmp_path, windows, small_recipe("solver.lr=0"))
    with torch.no_grad():
        training.model.seg_score_voc.weight.zero_()
        training.model.seg_score_voc.bias.copy_(torch.tensor([1.0, 0, 0]))
    with caplog.at_level(logging.WARNING):
        training.run()
    assert "stage1 PREDICTS NOTHING BUT BACKGROUND" in caplog.text
    caplog.clear()
    with torch.no_grad():
        training.model.seg_score_voc.bias[1] = 2
    training._validate()
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_a_checkpoint_of_another_recipe_names_the_key(tmp_path):
    save_checkpoint(tmp_path / "last.pt", small_recipe(), content())
    with pytest.raises(UserError, match=r"another recipe: solver\.lr is 0\.01 there, 0\.02 here"):
        load_checkpoint(tmp_path / "last.pt", small_recipe("solver.lr=0.02"))
    load_checkpoint(tmp_path / "last.pt", small_recipe("crf.iterations=3", "runtime.precision=bf16", "train.workers=3"))
    load_checkpoint(tmp_path / "last.pt", None)


def test_a_checkpoint_of_another_training_is_refused(tmp_path, windows):
    first = make_training(tmp_path, windows, small_recipe(), 2)
    first.run()
    other = make_training(tmp_path, windows, small_recipe(), 2)
    other.plan = replace(other.plan, name="stage2")
    with pytest.raises(UserError, match=r"last\.pt: a checkpoint of stage1; expected one of stage2"):
        other.resume()


class Hostile:
    """Pickled, it would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["text", "empty", "pickle", "torch pickle", "weights", "tensor"])
def test_what_is_not_a_checkpoint_is_refused(tmp_path, kind):
    path, harm = tmp_path / "last.pt", tmp_path / "harm"
    if kind == "text":
        path.write_text("not a checkpoint\n")
    elif kind == "empty":
        path.touch()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Hostile(harm)))
    else:
        saved = {"torch pickle": {"format": "deconvnet-checkpoint-1", "model": Hostile(harm)},
                   "weights": {"conv.weight": torch.zeros(2)}, "tensor": torch.zeros(2)}[kind]
        torch.save(saved, path)
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint"):
        load_checkpoint(path, None)
    assert not harm.exists()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_cut_checkpoint_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "last.pt"
    save_checkpoint(path, small_recipe(), content(model={"weight": torch.arange(300.0)}))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match="cut short or damaged|not a checkpoint"):
        load_checkpoint(path, None)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"last\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "last.pt", None)


def test_the_log_tells_the_rate_that_a_loss_was_made_with(tmp_path, windows):
    recipe = small_recipe("solver.rate_rule=step", "solver.lr=0.1", "solver.lr_step=[2,2]")
    make_training(tmp_path, windows, recipe, 4).run()  # validates, and so logs, at 2 and 4
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [float(row["rate"]) for row in csv.DictReader(file)] == pytest.approx([0.1, 0.01])


def test_going_on_in_other_arithmetic_is_told(tmp_path, windows, caplog):
    make_training(tmp_path, windows, small_recipe("runtime.precision=bf16"), 1).run()
    again = make_training(tmp_path, windows, small_recipe(), 2)
    again.resume()
    assert "started with runtime.precision = 'bf16', resumes with 'fp32'" in caplog.text
    assert "--set runtime.precision=bf16 resumes as it started" in caplog.text
