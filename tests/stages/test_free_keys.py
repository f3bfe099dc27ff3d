"""Which recipe keys may change, and where: in a run, in a checkpoint, in saved score maps. Every key, one by one.

The tables here are written by hand, from what each key is read for; a new recipe key has to find its place in them.
"""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deconvnet.recipe import Recipe, load_recipe, recipe_keys
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UserError
from deconvnet.training.checkpoint import load_checkpoint, save_checkpoint
from stages import bn_statistics, infer, train
from stages.infer import Scorer

KEYS = tuple(recipe_keys())
ARITHMETIC = {"runtime.precision", "runtime.channels_last", "runtime.compile"}
INFERENCE = {"infer.proposals", "infer.least_side", "infer.resize", "infer.aggregate", "infer.outside",
             "infer.ensemble_rule", "infer.window_batch", "infer.score_type", "infer.most_gigabytes"}
CRF = {"crf.gaussian_sxy", "crf.gaussian_weight", "crf.bilateral_sxy", "crf.bilateral_srgb", "crf.bilateral_weight",
       "crf.iterations", "crf.normalization"}
STATISTICS = {"bn_statistics.batches", "bn_statistics.batch", "bn_statistics.variance"}
TRAIN = {"train.iterations", "train.batch", "train.micro_batch", "train.stage2_from", "train.validate_every",
         "train.validate_windows", "train.validate_crop", "train.checkpoint_every", "train.workers"}
NETWORK = {"network.width", "network.input", "network.unpooling", "network.batch_norm", "network.bn_eps",
           "network.bn_shift", "network.deconv_std", "network.conv_std"}
FCN = {"fcn.width", "fcn.canvas", "fcn.fc6_kernel", "fcn.batch_norm", "fcn.staged", "fcn.iterations", "fcn.batch",
       "fcn.micro_batch", "fcn.lr", "fcn.momentum", "fcn.weight_decay", "fcn.validate_images"}
LONGER = {"train.iterations", "fcn.iterations"}  # a rule of their own
COMMANDS = {
    train: ARITHMETIC | INFERENCE | CRF | {"train.workers", "train.stage2_from", "train.checkpoint_every"},
    bn_statistics: ARITHMETIC | INFERENCE | CRF | STATISTICS | {"train.workers"},
    infer: ARITHMETIC | INFERENCE | CRF | STATISTICS | TRAIN,
}
CHECKPOINT = {"name", "train.workers", "train.stage2_from", "train.checkpoint_every"} | (
    ARITHMETIC | INFERENCE | CRF | STATISTICS)
FCN_SCORES = {"fcn.canvas", "runtime.precision", "infer.score_type"}
DECONVNET_SCORES = FCN_SCORES | NETWORK | {
    "windows.enlarge", "windows.shape", "windows.outside", "infer.proposals", "infer.least_side", "infer.resize",
    "infer.aggregate", "infer.outside"}


def other_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return [*value, value[0]] if isinstance(value, list) else f"{value}x" if isinstance(value, str) else value + 1


def changed(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another value under one key, allowed or not."""
    recipe = deepcopy(recipe)
    *groups, last = name.split(".")
    node = getattr(recipe, groups[0]) if groups else recipe
    setattr(node, last, other_value(getattr(node, last)))
    return recipe


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
def test_what_a_command_lets_change_within_a_run(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def stop(*_: object, free_keys: tuple[str, ...] = (), **__: object) -> None:
        asked["free"] = free_keys
        raise InterruptedError

    monkeypatch.setattr(command, "open_run", stop)
    with pytest.raises(InterruptedError):
        command.main(command.parse().parse_args([] if command is not train else ["--stage", "1"]))
    free = {name for name in KEYS if name.startswith(asked["free"])}
    assert free - LONGER == COMMANDS[command] - LONGER


@pytest.mark.parametrize("training, free", [("stage2", CHECKPOINT | FCN), ("fcn8s", CHECKPOINT)])
def test_what_may_differ_from_a_checkpoint(training: str, free: set[str], tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    nothing = {"iteration": 0, "position": 0, "best": -1.0, "origin": "", "model": {}, "random": torch.zeros(1),
               "descent": {"optimizer": {}, "rule": {}}}
    save_checkpoint(tmp_path / "last.pt", recipe, {"training": training, **nothing})
    load_checkpoint(tmp_path / "last.pt", recipe)
    accepted = set()
    for name in KEYS:
        try:
            load_checkpoint(tmp_path / "last.pt", changed(recipe, name))
            accepted.add(name)
        except UserError as error:
            assert f"another recipe: {name} is" in str(error)
    assert accepted - LONGER == free - LONGER


@pytest.fixture
def scores_name(tmp_path: Path) -> Any:
    """The name of a network's score maps, for a recipe, weights and proposals."""
    weights = tmp_path / "network.safetensors"

    def name(kind: str, recipe: Recipe, proposals: str = "built in", content: bytes = b"weights") -> str:
        weights.write_bytes(content)
        source = SimpleNamespace(token=lambda: proposals, split="val")
        return Scorer(RunFolder(tmp_path, recipe, None), source, kind, weights, "cpu").name

    return name


@pytest.mark.parametrize("kind, telling", [("deconvnet", DECONVNET_SCORES), ("fcn8s", FCN_SCORES)])
def test_what_names_score_maps(kind: str, telling: set[str], scores_name: Any) -> None:
    """Score maps that differ never share a name; what does not change them makes no new ones."""
    recipe = load_recipe("tiny")
    usual = scores_name(kind, recipe)
    assert usual == scores_name(kind, recipe)
    assert {name for name in KEYS if scores_name(kind, changed(recipe, name)) != usual} == telling
    assert scores_name(kind, recipe, content=b"weightz") != usual
    assert (scores_name(kind, recipe, proposals="structured") != usual) == (kind == "deconvnet")
