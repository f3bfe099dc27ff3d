"""Run folders for the tests of the training commands: a small data set, its windows, the commands in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from deconvnet.data.synthetic import generate
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.run_folder import RunFolder
from proposals.build import build_proposals, build_windows
from stages.cli import run_command
from stages.train import main, parse

SEED, WARP, SIDE, BATCH, PASS = 7, 40, 32, 6, 2
KEYS = ["data.train_split=train", f"seed={SEED}", "proposals.edges=gradient", "proposals.count=100",
        "windows.stage2_top=4", f"windows.warp={WARP}", f"network.input={SIDE}", "network.width=0.0625",
        "network.deconv_std=0.05", f"train.batch={BATCH}", f"train.micro_batch={PASS}", "train.iterations=[5,3]",
        "train.validate_every=2", "train.validate_windows=5", "train.checkpoint_every=2", "train.workers=0",
        "solver.rate_rule=step", "solver.lr=0.05", "solver.lr_factor=0.5", "solver.lr_step=[2,1]",
        "bn_statistics.batches=3", "bn_statistics.batch=4", "fcn.width=0.03125", "fcn.canvas=112", "fcn.batch=4",
        "fcn.micro_batch=2", "fcn.iterations=[4,3,2]", "fcn.lr=0.001", "fcn.momentum=0.8", "fcn.weight_decay=0.002",
        "fcn.validate_images=2", "fcn.fc6_kernel=3"]


def build(folder: Path, stages: tuple[int, ...], recipe: str = "paper", keys: list[str] = KEYS) -> RunFolder:
    """A run folder with a data set of 12 images and the windows of the given stages; stage 2's are materialized."""
    run = RunFolder(folder / "run", load_recipe(recipe, keys), generate(folder / "voc", 9, 3, seed=0, side=96))
    save_recipe(run.recipe, run.root / "recipe.yaml")
    for split in ("train", "val"):
        for stage in stages:
            if stage == 2:
                build_proposals(run, split, None, 0, "stop")
            build_windows(run, split, stage, stage == 2, 0, "stop")
    return run


def sibling(run: RunFolder, root: Path, *changes: str) -> RunFolder:
    """A run folder with the same windows and other recipe keys."""
    if (run.root / "windows").is_dir():
        shutil.copytree(run.root / "windows", root / "windows")
    recipe = load_recipe(run.root / "recipe.yaml", changes)
    save_recipe(recipe, root / "recipe.yaml")
    return RunFolder(root, recipe, run.voc_root)


def train(run: RunFolder, *arguments: object) -> int:
    """stages.train in this process: its exit status."""
    given = ["--device", "cpu", "--run", run.root, "--voc-root", run.voc_root, *arguments]
    return run_command(parse(), main, [str(argument) for argument in given])


def starts(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """What a training's trace tells of each start of the command."""
    return json.loads((run.training(name) / "trace.json").read_text())["starts"]


def checkpoint(run: RunFolder, name: str, file: str = "last.pt") -> dict[str, Any]:
    """What a training's checkpoint holds."""
    return torch.load(run.training(name) / file, weights_only=True)
