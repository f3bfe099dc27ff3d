"""The released recipe: how it differs from the paper's, and both inferences, whole, against plain transcriptions."""

import ast
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pydensecrf import densecrf
from torch import nn

from crf.dense import CrfParameters, dense_crf
from deconvnet.aggregate import ensemble
from deconvnet.networks import make_network
from deconvnet.recipe import RECIPE_FOLDER, Recipe, load_recipe, recipe_difference, recipe_keys, recipe_to_dict
from deconvnet.scoring import score_image, score_windows, scoring_windows
from deconvnet.voc import read_rgb
from experiments.synthetic_voc import generate
from tests import reference_inference

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
HERE = "tests/test_released.py"
# Key: the paper's value, the release's, and the test that tells the two apart.
DIFFERENCES = {
    "name": ("paper", "released", f"{HERE}::test_the_two_differ_in_this_and_in_nothing_else"),
    "windows.shape": ("tight", "square", "tests/test_windows.py::test_enlarge_by_hand"),
    "windows.outside": ("mean", "zero", "tests/test_windows.py::test_window_equals_explicit_pixels"),
    "network.bn_eps": (1e-5, 1e-9, "tests/test_network.py::test_bn_eps_is_the_recipes"),
    "network.bn_shift": (0.0, 0.001, f"{HERE}::test_bn_starts_at_the_recipes_shift"),
    "solver.rate_rule": ("plateau", "step",
                         "tests/test_solver.py::test_plateau_ignores_iterations_and_step_ignores_validations"),
    "solver.decay_over_accumulation": (False, True, "tests/test_solver.py::test_each_key_tells"),
    "solver.momentum_rule": ("torch", "caffe", "tests/test_solver.py::test_each_key_tells"),
    "train.micro_batch": (64, 8, f"{HERE}::test_bn_normalises_over_a_pass"),
    "train.stage2_from": ("best", "last", "tests/test_train_command.py::test_killed_and_resumed_as_if_never_stopped"),
    "train.validate_crop": ("centre", "whole", "tests/test_crops.py::test_validation_on_whole_windows"),
    "bn_statistics.variance": ("unbiased", "biased",
                               "tests/test_bn_statistics.py::test_means_over_batches_as_in_numpy"),
    "infer.least_side": (0, 112, "tests/test_scoring.py::test_small_windows_are_skipped_before_the_first_are_taken"),
    "infer.resize": ("bilinear", "matlab",
                     "tests/test_resize.py::test_shrinking_tells_the_methods_apart_and_enlarging_does_not"),
    "infer.outside": ("zero_padding", "start_zero",
                      "tests/test_aggregate.py::test_what_lies_outside_tells_the_two_starts_apart"),
    "infer.ensemble_rule": ("mean", "product", "tests/test_aggregate.py::test_ensembles"),
    "crf.normalization": ("symmetric", "none", "tests/test_crf.py::test_equals_mean_field_on_a_numpy_lattice"),
}
# Known of the release, not in the paper: both recipes have the release's value, the other is a key's choice.
SHARED = {
    "windows.resize": "linear", "solver.lr_step": [9000, 10000], "solver.bias_lr": 2.0, "solver.bias_decay": 0.0,
    "bn_statistics.batches": 501, "bn_statistics.batch": 28, "fcn.canvas": 500, "crf.gaussian_sxy": 3.0,
    "crf.gaussian_weight": 3.0, "crf.bilateral_sxy": 20.0, "crf.bilateral_srgb": 3.0, "crf.bilateral_weight": 5.0,
    "crf.iterations": 10, "train.batch": 64, "solver.weight_decay": 5e-4, "infer.proposals": 50,
}
# The same networks and recipes, narrower and smaller; five windows, so that which five matters.
NARROW = ["network.width=0.0625", "network.input=32", "windows.warp=32", "network.deconv_std=0",
          "data.classes=[background,circle,square,star]", "fcn.width=0.015625", "fcn.canvas=176", "infer.proposals=5"]
CLASSES = 4


def test_the_two_differ_in_this_and_in_nothing_else() -> None:
    paper, released = (recipe_to_dict(load_recipe(name)) for name in ("paper", "released"))
    assert recipe_difference(paper, released) == {key: values[:2] for key, values in DIFFERENCES.items()}
    for recipe in (paper, released):
        assert {key: recipe[key] for key in SHARED} == SHARED


def test_every_difference_has_a_test_that_tells_and_a_note_that_says_so() -> None:
    for key, (_, value, test) in DIFFERENCES.items():
        file, _, name = test.partition("::")
        functions = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
                     if isinstance(node, ast.FunctionDef)}
        assert name in functions, test
        if key != "name":
            note = recipe_keys()[key][1].metadata["note"]
            assert "[R" in note and str(value).lower().replace("e-0", "e-") in note, key


def test_every_line_of_the_recipe_says_where_it_comes_from() -> None:
    lines = (RECIPE_FOLDER / "released.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"  \w+: \S", line)]
    unexplained = [line for line in values if "#" not in line]
    assert len(values) == len(DIFFERENCES) and not unexplained  # one more, lr_step; one less, name


def test_bn_starts_at_the_recipes_shift() -> None:
    for name, shift in (("paper", 0.0), ("released", 0.001)):
        model = make_network("deconvnet", load_recipe(name, NARROW))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 29
        assert all((norm.bias == shift).all() and (norm.weight == 1).all() for norm in norms)


def test_bn_normalises_over_a_pass() -> None:
    """A pass of all windows and passes of some of them give other activations, and so other gradients."""
    model = make_network("deconvnet", load_recipe("paper", NARROW)).train()
    pictures = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 50
    whole = model(pictures)
    parts = torch.cat([model(half) for half in pictures.split(4)])
    assert (whole - parts).abs().max() > 0.1 * whole.abs().max()


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Every tensor random, BN's running statistics too; scores of both signs."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean") or (name.endswith("bias") and "score" not in name):
            tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
        elif name.startswith("score") and name.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=random) / tensor.shape[1] ** 0.5)
        elif name.startswith(("score", "seg_score")):
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    return model.eval()


class Case:
    """An image, its boxes, and two narrow random networks, the same weights for every recipe."""

    def __init__(self, folder: Path) -> None:
        root = generate(folder / "voc", train=1, val=1, seed=3, side=160)
        self.image = read_rgb(sorted(root.glob("**/JPEGImages/*"))[0])
        height, width = self.image.shape[:2]
        random = np.random.default_rng(8)
        low, high = random.uniform(0, 0.45, (9, 2)), random.uniform(0.55, 1, (9, 2))  # all of them cover the centre
        self.boxes = (np.concatenate([low, high], axis=1) * (width, height, width, height)).astype(np.int32)
        recipe = load_recipe("paper", NARROW)
        self.states = {kind: randomised(make_network(kind, recipe), seed).state_dict()
                       for seed, kind in enumerate(("deconvnet", "fcn8s"), 1)}
        # Scores a few nats high around zero, as trained networks' are, different from place to place.
        recipe = load_recipe("paper", [*NARROW, "infer.proposals=1"])
        for kind, last in (("deconvnet", "seg_score_voc.bias"), ("fcn8s", "score_pool3.bias")):
            found = self.scores(recipe, kind)
            found = found[:, found.any(0)]  # without what the window does not cover
            self.states[kind][last] -= torch.from_numpy(found.mean(1))
            for key, tensor in self.states[kind].items():
                if key.startswith(("seg_score", "score")):
                    tensor *= torch.from_numpy(2 / found.std(1)).reshape(-1, *[1] * (tensor.ndim - 1))

    def model(self, recipe: Recipe, kind: str) -> nn.Module:
        model = make_network(kind, recipe)
        model.load_state_dict(self.states[kind])
        return model.eval()

    def scores(self, recipe: Recipe, kind: str) -> np.ndarray:
        model = self.model(recipe, kind)
        if kind == "fcn8s":
            return score_image(model, self.image, recipe, CPU).numpy()
        return score_windows(model, self.image, scoring_windows(self.boxes, recipe), recipe, CPU).numpy()

    def inferred(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """The pipeline's inference, whole."""
        scores, fcn = self.scores(recipe, "deconvnet"), self.scores(recipe, "fcn8s")
        probabilities = ensemble(scores, fcn, recipe.infer.ensemble_rule)
        labels = dense_crf(self.image, probabilities, CrfParameters(**asdict(recipe.crf))).argmax(0)
        return {"scores": scores, "fcn": fcn, "probabilities": probabilities, "labels": labels}

    def transcribed(self, name: str) -> dict[str, np.ndarray]:
        states = [{key: value.double().numpy() for key, value in self.states[kind].items()}
                  for kind in ("deconvnet", "fcn8s")]
        return getattr(reference_inference, name)(self.image, self.boxes, 5, 32, 176, *states)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def inferred(case: Case) -> dict[str, dict[str, np.ndarray]]:
    return {name: case.inferred(load_recipe(name, NARROW)) for name in ("paper", "released")}


@pytest.mark.parametrize("name", ["paper", "released"])
def test_whole_inference_equals_the_transcription(case: Case, inferred: dict, name: str) -> None:
    found, expected = inferred[name], case.transcribed(name)
    for part in ("scores", "fcn"):
        assert expected[part].std() > 0.5 and (expected[part] > 0).any()
        np.testing.assert_allclose(found[part], expected[part], atol=1e-4 * np.abs(expected[part]).max())
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-3)
    kernels = densecrf.NORMALIZE_SYMMETRIC if name == "paper" else densecrf.NO_NORMALIZATION
    np.testing.assert_array_equal(found["labels"], reference_inference.crf(case.image, found["probabilities"], kernels))
    assert (found["labels"] == expected["labels"]).mean() > 0.99  # ten iterations enlarge the rounding
    assert len(np.unique(expected["labels"])) > 1


def test_paper_and_release_are_told_apart(inferred: dict) -> None:
    paper, released = inferred["paper"], inferred["released"]
    assert np.abs(paper["scores"] - released["scores"]).mean() > 0.1
    assert released["scores"].min() >= 0
    assert np.abs(paper["probabilities"] - released["probabilities"]).max() > 0.1
    assert (paper["labels"] != released["labels"]).mean() > 0.01


@pytest.mark.parametrize("key", [
    "windows.shape", "windows.outside", "infer.least_side", "infer.resize", "infer.outside", "infer.ensemble_rule",
    "crf.normalization",
])
@pytest.mark.parametrize("name", ["paper", "released"])
def test_each_key_alone_changes_the_inference(case: Case, inferred: dict, name: str, key: str) -> None:
    value = DIFFERENCES[key][1 if name == "paper" else 0]
    changed = case.inferred(load_recipe(name, [*NARROW, f"{key}={value}"]))
    parts = {"infer.ensemble_rule": "probabilities", "crf.normalization": "labels"}
    part = parts.get(key, "scores")
    assert np.abs(changed[part] - inferred[name][part]).max() > 0.05
