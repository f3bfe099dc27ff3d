"""Which recipe keys may change, and where: in a run, in a checkpoint, in saved score maps. Every key, one by one.

The tables here are written by hand, from what each key is read for; a new recipe key has to find its place in them.
"""

import dataclasses
import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deconvnet.data.synthetic import generate
from deconvnet.inference.networks import ImageScorer
from deconvnet.inference.predictions import Prediction, prediction_settings
from deconvnet.inference.saved_scores import SavedScores
from deconvnet.recipe import (
    CHECKPOINTS,
    CRF_LABELS,
    ENSEMBLE_LABELS,
    NETWORKS,
    PROPOSALS,
    SCORES,
    THINGS,
    WINDOW_SCORES,
    WINDOWS,
    Recipe,
    key,
    recipe_keys,
)
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder, free_keys
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UserError
from deconvnet.training.checkpoint import load_checkpoint, save_checkpoint
from proposals.build import ProposalWork, build_proposals, build_windows
from stages import bn_statistics, infer, train

KEYS = tuple(recipe_keys())
ARITHMETIC = {"runtime.precision", "runtime.channels_last", "runtime.compile"}
INFERENCE = {"infer.proposals", "infer.least_side", "infer.resize", "infer.aggregate", "infer.outside",
             "infer.ensemble_rule", "infer.window_batch", "infer.score_type", "infer.most_gigabytes", "infer.most_side"}
CRF = {"crf.gaussian_sxy", "crf.gaussian_weight", "crf.bilateral_sxy", "crf.bilateral_srgb", "crf.bilateral_weight",
       "crf.iterations", "crf.normalization", "crf.least_probability"}
STATISTICS = {"bn_statistics.batches", "bn_statistics.batch", "bn_statistics.variance"}
NETWORK = {"network.width", "network.input", "network.unpooling", "network.batch_norm", "network.bn_eps",
           "network.bn_shift", "network.deconv_std", "network.conv_std", "network.fc_channels"}
FCN = {"fcn.width", "fcn.canvas", "fcn.fc6_kernel", "fcn.batch_norm", "fcn.staged", "fcn.iterations", "fcn.batch",
       "fcn.micro_batch", "fcn.lr", "fcn.momentum", "fcn.weight_decay", "fcn.validate_images", "fcn.fc_channels",
       "fcn.bn_start", "fcn.scaled_skips", "fcn.trunk_lr", "fcn.lr_step"}
SEGNET = {"segnet.examples", "segnet.width", "segnet.canvas", "segnet.iterations", "segnet.batch", "segnet.micro_batch",
          "segnet.lr", "segnet.momentum", "segnet.weight_decay", "segnet.validate", "segnet.bn_start",
          "segnet.trunk_lr"}
LONGER = {"train.iterations", "fcn.iterations", "segnet.iterations"}  # a training goes on
ALWAYS = ARITHMETIC | INFERENCE | CRF | LONGER | {"name", "train.workers", "train.decoded_gigabytes",
                                                  "train.stage2_from", "train.checkpoint_every"}
COMMANDS = {
    train: ALWAYS,
    bn_statistics: ALWAYS | STATISTICS,
    infer: ALWAYS,
}
CHECKPOINT = ALWAYS | STATISTICS
ANY_SCORES = {"runtime.precision", "infer.score_type"}
FCN_SCORES = ANY_SCORES | {"fcn.canvas", "fcn.fc_channels", "fcn.scaled_skips"}
DECONVNET_SCORES = ANY_SCORES | NETWORK | {
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

    def stop(*_: object, keeps: tuple[str, ...] = (), **__: object) -> None:
        asked["keeps"] = keeps
        raise InterruptedError

    monkeypatch.setattr("deconvnet.run_folder.open_run", stop)
    with pytest.raises(InterruptedError):
        command.main(command.parse().parse_args([] if command is not train else ["--stage", "1"]))
    assert free_keys(load_recipe("tiny"), asked["keeps"]) == COMMANDS[command]


@pytest.mark.parametrize("training, free", [
    ("stage2", CHECKPOINT | FCN | SEGNET), ("fcn8s", CHECKPOINT | SEGNET), ("segnet", CHECKPOINT | FCN)])
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
    assert accepted == free


@pytest.fixture
def scores_name(tmp_path: Path) -> Any:
    """The name of a network's score maps, for a recipe, weights and proposals."""
    weights = tmp_path / "network.safetensors"

    def name(kind: str, recipe: Recipe, proposals: str = "built in", content: bytes = b"weights") -> str:
        weights.write_bytes(content)
        source = SimpleNamespace(shaped_by=lambda: {"proposals": proposals})
        return SavedScores(source, ImageScorer(kind, weights, recipe)).name

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


# Label maps: how many networks' scores they are made of, and whether the CRF's.
LABELS = {"labels": (1, False), "CRF labels": (1, True), "ensemble's labels": (2, False),
          "ensemble's CRF labels": (2, True)}
def test_label_maps_from_before_the_crf_left_classes_out_are_kept_by_their_run(tmp_path: Path) -> None:
    """Their settings.json lacks the key; the run that they are of is read with all classes, as they were made."""
    before, now = (load_recipe("tiny", [f"crf.least_probability={least}"]) for least in (0, 0.1))
    kept, others = (prediction_settings(recipe, "deconvnet-max-crf", "val", ["scores"], crf=True)
                    for recipe in (before, now))
    older = {name: value for name, value in kept.items() if name != "crf.least_probability"}
    assert len(older) == len(kept) - 1
    write_json(tmp_path / "settings.json", {"settings": older})
    assert not Prediction(tmp_path, kept, {}, False).stale
    with pytest.raises(UserError, match="made with other settings"):
        Prediction(tmp_path, others, {}, False)


# What each thing that a key may shape makes stale, by hand.
STALE = {
    PROPOSALS: {"proposals", "checkpoint", "deconvnet", *LABELS},
    WINDOWS: {"windows", "checkpoint"},
    CHECKPOINTS: {"checkpoint"},
    NETWORKS: set(),  # stages.bn_statistics makes it again; its scores go by the file's hash
    SCORES: {"deconvnet", "fcn8s", *LABELS},
    WINDOW_SCORES: {"deconvnet", *LABELS},
    ENSEMBLE_LABELS: {"ensemble's labels", "ensemble's CRF labels"},
    CRF_LABELS: {"CRF labels", "ensemble's CRF labels"},
}


def grown(section: str, shaped: str, value: int) -> Recipe:
    """A recipe that has one key more, section.new."""
    recipe = load_recipe("tiny", ["data.train_split=train"])
    old = getattr(recipe, section)
    new = key(1, "a new one", shapes=(shaped,))
    cls = dataclasses.make_dataclass(type(old).__name__, [("new", int, new)], bases=(type(old),))
    setattr(recipe, section, cls(**vars(old), new=value))
    return recipe


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "voc", train=1, val=1, seed=0, side=96)


@pytest.mark.slow
@pytest.mark.parametrize("shaped", THINGS)
@pytest.mark.parametrize("section", ["data", "infer", "runtime"])
def test_a_new_key_makes_stale_what_is_made_with_it(section: str, shaped: str, images: Path, tmp_path: Path,
                                                    scores_name: Any) -> None:
    one, other = (grown(section, shaped, value) for value in (1, 2))
    nothing = {"iteration": 0, "position": 0, "best": -1.0, "origin": "", "model": {}, "random": torch.zeros(1),
               "descent": {"optimizer": {}, "rule": {}}, "training": "stage1"}
    makers = {
        "proposals": lambda run: build_proposals(run, "train", None, 0, "stop"),
        "windows": lambda run: build_windows(run, "train", 1, False, 0, "stop"),
        "checkpoint": lambda run: load_checkpoint(run.root / "last.pt", run.recipe),
    }
    run = RunFolder(tmp_path / "run", one, images)
    save_checkpoint(run.root / "last.pt", one, nothing)
    for make in makers.values():
        make(run)
        make(run)  # whole already
    stale = set()
    for name, make in makers.items():
        try:
            make(RunFolder(run.root, other, images))
        except UserError as error:
            assert f"{section}.new" in str(error)
            stale.add(name)
    names = {kind: [scores_name(kind, recipe, json.dumps(ProposalWork(None, recipe, None).shaped_by()))
                    for recipe in (one, other)] for kind in ("deconvnet", "fcn8s")}
    stale |= {kind for kind, (first, second) in names.items() if first != second}
    for name, (networks, crf) in LABELS.items():
        before, now = (prediction_settings(recipe, "maps", "val", [*scores[:networks]], crf)
                       for recipe, scores in zip((one, other), zip(*names.values(), strict=True), strict=True))
        Prediction(run.root / name, before, {}, True).write("a", "", np.zeros((2, 2), np.uint8))
        assert not Prediction(run.root / name, before, {}, True).stale
        stale |= {name} if Prediction(run.root / name, now, {}, True).stale else set()
    assert stale == STALE[shaped]
    keeps = (PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS)
    assert (f"{section}.new" in free_keys(one, keeps)) == (shaped not in keeps)
