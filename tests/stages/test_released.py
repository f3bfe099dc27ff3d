"""The released recipe: how it differs from the paper's, and that the commands do what either says, key by key."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe import recipe_difference, recipe_keys, recipe_to_dict
from deconvnet.recipe_files import RECIPE_FOLDER, load_recipe
from deconvnet.run_folder import RunFolder
from tests import training_truth as truth
from tests.narrow import KEYS, NARROW, Case, agree, close, infer, labels, saved
from tests.reference_inference import crf, together, window_about
from tests.training_runs import build, checkpoint, starts, train

IMAGE = "val_000000"
SEED, WARP, SIDE, BATCH = 5, 40, 32, 16
PASSES = {64: 8, 8: 2}  # windows a pass: here of 16, not 64; more than one pass, so that what is accumulated matters
# The decay is so large, and the rate so small, that the loss hardly moves the weights: only the solver's rules do.
TRAINING = ["data.train_split=train", f"seed={SEED}", "proposals.edges=gradient", "proposals.count=100",
            "windows.stage2_top=4", f"windows.warp={WARP}", f"network.input={SIDE}", "network.width=0.0625",
            "network.deconv_std=0.05", f"train.batch={BATCH}", "train.iterations=[3,1]", "train.validate_every=1",
            "train.validate_windows=5", "train.workers=0", "solver.lr=0.0001", "solver.weight_decay=1000",
            "solver.lr_factor=0.5", "solver.lr_step=[1,1]", "solver.lr_patience=1", "bn_statistics.batches=2",
            "bn_statistics.batch=4"]


@dataclass
class Made:
    """A narrow run of one of the two recipes: what its commands made."""

    name: str
    case: Case
    inferred: Path
    trained: RunFolder

    @property
    def start(self) -> dict:
        """What the trace tells of stage 1."""
        return starts(self.trained, "stage1")[0]

    def log(self) -> list[dict[str, float]]:
        """Stage 1's log.csv."""
        with (self.trained.training("stage1") / "log.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]

    def windows(self, side: int = WARP) -> dict[str, truth.Windows]:
        """Each split's stage 1 windows, cut and warped to `side` by NumPy."""
        outside = truth.MEAN if self.name == "paper" else np.zeros(3)
        return {split: truth.Windows(self.trained.windows(1, split), self.trained.voc_root, side, SIDE, outside)
                for split in ("train", "val")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Made]:
    """Both recipes' runs: two stages of training, and one inference with ensemble and CRF."""
    folder = tmp_path_factory.mktemp("released")
    case, found = Case(folder), {}
    for name in KEYS:
        inferred = case.run(folder / name / "inferred", load_recipe(name, NARROW))
        infer(inferred, "--ensemble", "fcn")
        infer(inferred, "--ensemble", "fcn", "--crf")
        micro = PASSES[load_recipe(name).train.micro_batch]
        trained = build(folder / name, (1, 2), name, [*TRAINING, f"train.micro_batch={micro}"])
        assert train(trained, "--stage", 1) == 0
        best = checkpoint(trained, "stage1", "best.pt")
        best["model"]["fc7.weight"] *= 2  # another than last.pt, whichever iteration it is of
        torch.save(best, trained.training("stage1") / "best.pt")
        assert train(trained, "--stage", 2) == 0
        found[name] = Made(name, case, inferred, trained)
    return found


def scores_tell(key: str) -> Callable[[Made, object], None]:
    """The saved scores are those of NumPy's inference with this value."""
    def tells(made: Made, value: object) -> None:
        expected = made.case.plain(IMAGE, KEYS[made.name] | {key: value})["scores"]
        close(saved(made.inferred, "deconvnet-max", IMAGE), expected)
    return tells


def labels_tell(key: str) -> Callable[[Made, object], None]:
    """The label map, after ensemble and CRF, is that of the saved scores with this value."""
    def tells(made: Made, value: object) -> None:
        keys = KEYS[made.name] | {key: value}
        scores, fcn = (saved(made.inferred, one, IMAGE).astype(float) for one in ("deconvnet-max", "fcn8s"))
        found = labels(made.inferred / "predictions/val/deconvnet-max-fcn-crf", IMAGE)
        agree(found, crf(made.case.images[IMAGE], together(scores, fcn, keys), keys))
    return tells


def shape_tells(made: Made, value: str) -> None:
    scores_tell("windows.shape")(made, value)
    with h5py.File(made.trained.windows(1, "train")) as file:
        for box, window in zip(file["box"], file["window"], strict=True):
            assert tuple(window) == window_about(box, 1.2, value == "square")


def outside_tells(made: Made, value: str) -> None:
    """In inference, and in the first pass of stage 1."""
    scores_tell("windows.outside")(made, value)
    one, cut = made.start["iterations"][0]["passes"][0], made.windows()["train"]
    cut.outside = np.array({"mean": (123, 117, 104), "zero": (0, 0, 0)}[value], np.uint8)
    assert one["pictures"] == truth.digest(cut.batch(one["rows"], one["positions"], (SEED, truth.CROP, 1))[0])


def bn_shift_tells(made: Made, value: float) -> None:
    assert made.start["weights"]["tensors"]["bn5_1.bias"] == truth.digest(np.full(32, value, np.float32))


def rates_tell(made: Made, value: str) -> None:
    """log.csv's rates are those of the rule: a drop after each iteration, or after a validation without a rise."""
    rate, best, found = 1e-4, -1.0, made.log()
    for row in found:
        assert row["rate"] == pytest.approx(rate)
        rises, best = row["validation_accuracy"] > best, max(best, row["validation_accuracy"])
        rate *= 1 if value == "plateau" and rises else 0.5
    assert len(found) == 3


def decayed(made: Made, passes: float, caffe: bool) -> None:
    """fc7's weights shrank as they do under the decay alone, at log.csv's rates."""
    shapes = {name: tuple(value.shape) for name, value in checkpoint(made.trained, "stage1")["model"].items()}
    before = truth.random_state(shapes, SEED, 0.05)["fc7.weight"].double()
    after = checkpoint(made.trained, "stage1")["model"]["fc7.weight"].double()
    weight, velocity = 1.0, 0.0
    for row in made.log():
        pull = 1000 / passes * weight
        velocity = 0.9 * velocity + (row["rate"] * pull if caffe else pull)
        weight -= velocity if caffe else row["rate"] * velocity
    assert float((before * after).sum() / (before**2).sum()) == pytest.approx(weight, abs=2e-3)


def decay_tells(made: Made, value: bool) -> None:
    passes = len(made.start["iterations"][0]["passes"])
    assert passes > 1
    decayed(made, passes if value else 1, made.name == "released")


def momentum_tells(made: Made, value: str) -> None:
    passes = len(made.start["iterations"][0]["passes"])
    decayed(made, passes if made.name == "released" else 1, value == "caffe")


def passes_tell(made: Made, value: int) -> None:
    for iteration in made.start["iterations"]:
        assert [len(one["rows"]) for one in iteration["passes"]] == [PASSES[value]] * (BATCH // PASSES[value])


def stage_2_tells(made: Made, value: str) -> None:
    began = starts(made.trained, "stage2")[0]["weights"]["tensors"]
    assert began == truth.digests(checkpoint(made.trained, "stage1", f"{value}.pt")["model"])


def validation_tells(made: Made, value: str) -> None:
    """The first batch of the first validation."""
    told = made.start["validation"]
    cut = made.windows(WARP if value == "centre" else SIDE)["val"]
    rows = truth.chosen(len(cut.classes), 5, SEED)
    assert told["rows"] == truth.digest(rows)
    rows = rows[: told["batch"]].tolist()
    if value == "centre":
        pictures, masks = cut.batch(rows, None, ())
    else:
        flips = [np.random.default_rng([SEED, truth.VALIDATION, 1, row]).integers(2) == 1 for row in rows]
        pairs = [[np.fliplr(one) if flip else one for one in cut.whole(row)]
                 for row, flip in zip(rows, flips, strict=True)]
        pictures, masks = truth.as_input(*map(list, zip(*pairs, strict=True)))
    assert (told["pictures"], told["labels"]) == (truth.digest(pictures), truth.digest(masks))


def variance_tells(made: Made, value: str) -> None:
    """bn1_1's variance is the mean of two batches', divided by 4,096 values or by one less."""
    cut, state = made.windows()["train"], checkpoint(made.trained, "stage1")["model"]
    rows = truth.drawn_rows(cut.classes.tolist(), True, (SEED, truth.MEASURE_ORDER, 1), 0, 8)
    variances = []
    for first in (0, 4):
        pictures, _ = cut.batch(rows[first : first + 4], [*range(first, first + 4)], (SEED, truth.MEASURE_CROP, 1))
        out = F.conv2d(torch.from_numpy(pictures).double(), state["conv1_1.weight"].double(), padding=1)
        variances.append(out.numpy().var((0, 2, 3), ddof={"biased": 0, "unbiased": 1}[value]))
    found = read_safetensors(made.trained.network("stage1"))[0]["bn1_1.running_var"]
    np.testing.assert_allclose(found, np.mean(variances, 0), rtol=5e-5)


def name_tells(made: Made, value: str) -> None:
    assert read_safetensors(made.trained.network("stage1"))[1]["origin"]["recipe"] == value


# Key: the paper's value, the release's, and what tells from a command's results which of the two it went by.
DIFFERENCES = {
    "name": ("paper", "released", name_tells),
    "windows.shape": ("tight", "square", shape_tells),
    "windows.outside": ("mean", "zero", outside_tells),
    "network.bn_eps": (1e-5, 1e-9, scores_tell("network.bn_eps")),
    "network.bn_shift": (0.0, 0.001, bn_shift_tells),
    "solver.rate_rule": ("plateau", "step", rates_tell),
    "solver.decay_over_accumulation": (False, True, decay_tells),
    "solver.momentum_rule": ("torch", "caffe", momentum_tells),
    "train.micro_batch": (64, 8, passes_tell),
    "train.stage2_from": ("best", "last", stage_2_tells),
    "train.validate_crop": ("centre", "whole", validation_tells),
    "bn_statistics.variance": ("unbiased", "biased", variance_tells),
    "infer.least_side": (0, 112, scores_tell("infer.least_side")),
    "infer.resize": ("bilinear", "matlab", scores_tell("infer.resize")),
    "infer.outside": ("zero_padding", "start_zero", scores_tell("infer.outside")),
    "infer.ensemble_rule": ("mean", "product", labels_tell("infer.ensemble_rule")),
    "crf.normalization": ("symmetric", "none", labels_tell("crf.normalization")),
}
# Known of the release, not in the paper: both recipes have the release's value, the other is a key's choice.
SHARED = {
    "windows.resize": "linear", "solver.lr_step": [9000, 10000], "solver.bias_lr": 2.0, "solver.bias_decay": 0.0,
    "bn_statistics.batches": 501, "bn_statistics.batch": 28, "fcn.canvas": 500, "crf.gaussian_sxy": 3.0,
    "crf.gaussian_weight": 3.0, "crf.bilateral_sxy": 20.0, "crf.bilateral_srgb": 3.0, "crf.bilateral_weight": 5.0,
    "crf.iterations": 10, "train.batch": 64, "solver.weight_decay": 5e-4, "infer.proposals": 50,
}


def test_the_two_differ_in_this_and_in_nothing_else() -> None:
    paper, released = (recipe_to_dict(load_recipe(name)) for name in ("paper", "released"))
    assert recipe_difference(paper, released) == {key: values[:2] for key, values in DIFFERENCES.items()}
    for recipe in (paper, released):
        assert {key: recipe[key] for key in SHARED} == SHARED


@pytest.mark.slow
@pytest.mark.parametrize("key", DIFFERENCES)
@pytest.mark.parametrize("name", KEYS)
def test_the_commands_go_by_this_recipes_value_and_not_by_the_others(made: dict[str, Made], name: str,
                                                                     key: str) -> None:
    paper, released, tells = DIFFERENCES[key]
    mine, other = (paper, released) if name == "paper" else (released, paper)
    tells(made[name], mine)
    with pytest.raises(AssertionError):  # it does tell: the other value would have been noticed
        tells(made[name], other)


def test_every_difference_has_a_note_that_says_so() -> None:
    for key, (_, value, _) in DIFFERENCES.items():
        if key != "name":
            note = recipe_keys()[key][1].metadata["note"]
            assert "[R" in note and str(value).lower().replace("e-0", "e-") in note, key


def test_every_line_of_the_recipe_says_where_it_comes_from() -> None:
    lines = (RECIPE_FOLDER / "released.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"  \w+: \S", line)]
    unexplained = [line for line in values if "#" not in line]
    assert len(values) == len(DIFFERENCES) and not unexplained  # one more, lr_step; one less, name


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_whole_inference_equals_the_transcription(made: dict[str, Made], name: str) -> None:
    """Without a glance at what was saved in between: the image, boxes and weights, in NumPy, to the labels."""
    case, keys, run = made[name].case, KEYS[name], made[name].inferred
    for image_id in ("val_000000", "val_000001"):
        plain = case.plain(image_id, keys)
        for network, part in (("deconvnet-max", "scores"), ("fcn8s", "fcn")):
            assert (plain[part] > 0).any() and (part == "scores" or (plain[part] < 0).any())
            close(saved(run, network, image_id), plain[part])
        expected = crf(case.images[image_id], plain["probabilities"], keys)
        found = labels(run / "predictions/val/deconvnet-max-fcn-crf", image_id)
        assert (found == expected).mean() > 0.99  # ten iterations enlarge the rounding
        assert len(np.unique(expected)) > 1 and (name == "paper") == (plain["scores"].min() < 0)
        assert (labels(run / "predictions/val/deconvnet-max-fcn", image_id)
                == plain["probabilities"].argmax(0)).mean() > 0.99
