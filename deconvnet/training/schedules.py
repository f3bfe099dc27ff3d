"""Which training starts from which: stage 1, stage 2 from it [P 4.2], FCN-32s, 16s and 8s; and what each is given."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconvnet.data.examples import ImageCanvases, WindowCrops
from deconvnet.data.row_files import read_rows
from deconvnet.models.build import build_network
from deconvnet.models.fcn import fcn_from_shallower
from deconvnet.models.network_files import save_network
from deconvnet.models.vgg16_weights import start_from_vgg16
from deconvnet.models.weight_files import read_safetensors
from deconvnet.models.weights import load_into
from deconvnet.recipe import WINDOWS, Recipe, Solver, shaping
from deconvnet.run_contents import check_contents, images_made_of, windows_made_of
from deconvnet.run_folder import RunFolder, git_commit
from deconvnet.runtime import prepare
from deconvnet.support.errors import UsageError, UserError
from deconvnet.training.bn_measurement import measure_bn_statistics
from deconvnet.training.checkpoint import load_checkpoint
from deconvnet.training.lengthening import done, record_iterations, start_name, warn_of_older_start
from deconvnet.training.loading import load
from deconvnet.training.sampling import positions
from deconvnet.training.trainer import Examples, Plan, Training

log = logging.getLogger(__name__)


# Streams of random numbers: the second of the seeds of whatever is drawn, after the recipe's, so that no two share one.
ORDER, CROP, VALIDATION, MEASURE_ORDER, MEASURE_CROP = range(5)


FCN_STRIDES = (32, 16, 8)


def window_examples(run: RunFolder, stage: int) -> Examples:
    """Stage 1 or 2: the windows of the training split; a fixed random part of the validation split's."""
    recipe = run.recipe
    training, validation = (window_crops(run, stage, split, augment) for split, augment in
                            ((recipe.data.train_split, True), (recipe.data.val_split, False)))
    classes = training.rows.columns["class_index"]
    if not len(classes) or not len(validation):
        raise UserError(f"{training.rows.path}: no windows to train on, or none to validate on; are there objects?")

    def order(start: int, stop: int) -> Iterator[tuple[int, int]]:
        return positions(classes, recipe.windows.balance, (recipe.seed, ORDER, stage), start, stop)

    chosen = _validation_sample(len(validation), recipe.train.validate_windows, recipe.seed)
    log.info("stage %d: %d training windows, validation on %d of %d", stage, len(training), len(chosen),
             len(validation))
    return Examples(training, validation, order, chosen, windows_made_of(training.rows, validation.rows))


def window_crops(run: RunFolder, stage: int, split: str, augment: bool) -> WindowCrops:
    """The windows of a split. Those that were materialized need no images."""
    path = run.windows(stage, split)
    if not path.is_file():
        raise UsageError(f"{path}: no windows yet; `python -m stages.build_proposals --run {run.root} --stage {stage}` "
                         "makes them")
    rows = read_rows(path, "windows")
    voc = None
    if not rows.materialized:
        voc = run.voc()
        rows = read_rows(path, "windows", voc.fingerprint(split))
        check_contents(run, rows)
    found = rows.attributes.get("stage"), rows.attributes.get("split")
    if found != (stage, split):
        raise UserError(f"{path}: holds the windows of stage {found[0]}, split {found[1]}; expected stage {stage}, "
                        f"split {split}: was it copied to another name?")
    made = {**rows.attributes["shaped_by"], "data.classes": rows.attributes["classes"]}
    for name, here in shaping(run.recipe, WINDOWS).items():
        if made.get(name) != here:
            raise UserError(f"{path}: was made with {name} = {made.get(name)!r}, the recipe has {here!r}")
    return WindowCrops(rows, voc, run.recipe, augment, (run.recipe.seed, CROP if augment else VALIDATION, stage))


def image_examples(run: RunFolder, step: int) -> Examples:
    """FCN: whole images. step: 0, 1, 2 for 32s, 16s, 8s."""
    recipe, voc = run.recipe, run.voc()
    training_ids, validation_ids = (voc.image_ids(split) for split in (recipe.data.train_split, recipe.data.val_split))
    side, seed = recipe.fcn.canvas, (recipe.seed, CROP, 10 + step)

    def order(start: int, stop: int) -> Iterator[tuple[int, int]]:
        everything = np.zeros(len(training_ids), np.int64)
        return positions(everything, "none", (recipe.seed, ORDER, 10 + step), start, stop)

    chosen = _validation_sample(len(validation_ids), recipe.fcn.validate_images, recipe.seed)
    return Examples(ImageCanvases(voc, training_ids, side, True, seed),
                    ImageCanvases(voc, validation_ids, side, False, seed), order, chosen,
                    images_made_of(run, training_ids, validation_ids))


def _validation_sample(count: int, wanted: int, seed: int) -> np.ndarray:
    if wanted == 0 or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, VALIDATION]).choice(count, wanted, replace=False))


def train_stage(run: RunFolder, stage: int, vgg16: Path | None, resume: bool, device: torch.device) -> None:
    """One of the two stages [P 4.2], and the BN statistics behind it."""
    recipe, keys = run.recipe, run.recipe.train
    examples = window_examples(run, stage)
    plan = Plan(f"stage{stage}", stage, keys.iterations[stage - 1], keys.batch, keys.micro_batch, keys.validate_every,
                keys.checkpoint_every, keys.workers)
    model = prepare(build_network("deconvnet", recipe), recipe.runtime, device)
    training = Training(model, recipe, recipe.solver, plan, examples, run.training(plan.name), device)
    resumed = _begin(training, resume)
    if not resumed:
        training.origin, training.start_file = _start_stage(run, model, stage, vgg16, device)
        log.info("%s starts from %s", plan.name, training.origin)
    record_iterations(run)
    if stage == 2:
        warn_of_older_start("stage2", training.origin, _stage2_start(run))
    if resumed and _is_done(run, training):
        return
    training.run()
    if recipe.network.batch_norm:
        training.trace.add(bn_statistics=measure(run, model, examples.training, stage, device))
    _save_final(run, training, "deconvnet", "measured" if recipe.network.batch_norm else "none")
    if stage == 1 and (run.training("stage2") / "last.pt").is_file():
        origin = load_checkpoint(run.training("stage2") / "last.pt", None, "meta")["origin"]
        warn_of_older_start("stage2", origin, _stage2_start(run))


def _stage2_start(run: RunFolder) -> Path:
    """The checkpoint that stage 2 starts from, unless the recipe says 'nothing'."""
    return run.training("stage1") / f"{run.recipe.train.stage2_from}.pt"


def _start_stage(run: RunFolder, model: torch.nn.Module, stage: int, vgg16: Path | None,
                 device: torch.device) -> tuple[str, Path | None]:
    """Gives a stage the weights that it starts from; says which, and their file."""
    if stage == 2 and run.recipe.train.stage2_from != "nothing":
        if vgg16:
            raise UsageError("--vgg16 is for stage 1: stage 2 starts from stage 1's checkpoint")
        start = _stage2_start(run)
        if not start.is_file():
            raise UsageError(f"{start}: stage 2 starts from stage 1's checkpoint: run stage 1 first")
        how = f"`python -m stages.train --run {run.root} --stage 1 --resume` finishes it"
        if not run.network("stage1").is_file():
            raise UsageError(f"{run.network('stage1')}: no such file, so stage 1 is not finished: {how}")
        so_far, planned = done(run, "stage1"), run.recipe.train.iterations[0]
        if so_far is not None and so_far < planned:  # its network is of fewer, since train.iterations grew
            raise UsageError(f"{start.parent}: {so_far} of train.iterations' {planned} are done, so stage 1 is not "
                             f"finished: {how}")
        content = load_checkpoint(start, run.recipe, device)
        load_into(model, content["model"], model.state_dict(), str(start))
        return start_name(start, content), start
    if vgg16:
        start_from_vgg16(model, vgg16)
        return f"ImageNet weights of {vgg16.name}", vgg16
    return "random numbers, not ImageNet weights (no --vgg16 file)", None


def measure(run: RunFolder, model: torch.nn.Module, training: WindowCrops, stage: int,
            device: torch.device) -> dict[str, Any]:
    """Measures BN statistics over a stage's training windows, as the recipe says; returns what was really done."""
    recipe, keys = run.recipe, run.recipe.bn_statistics
    windows = WindowCrops(training.rows, training.voc, recipe, True, (recipe.seed, MEASURE_CROP, stage))
    order = positions(training.rows.columns["class_index"], recipe.windows.balance, (recipe.seed, MEASURE_ORDER, stage),
                      0, keys.batches * keys.batch)
    return measure_bn_statistics(model, load(windows, order, keys.batch, recipe.train.workers), keys.batches,
                                 keys.variance, recipe.runtime, device)


def train_fcn(run: RunFolder, stride: int, vgg16: Path | None, resume: bool, device: torch.device) -> None:
    """FCN of a stride; staged [recipe]: those of larger strides first, each starting from the one before."""
    recipe, keys = run.recipe, run.recipe.fcn
    solver = Solver(lr=keys.lr, momentum=keys.momentum, weight_decay=keys.weight_decay, rate_rule="constant")
    strides = _strides(recipe, stride)
    for one in strides:
        step, kind = FCN_STRIDES.index(one), f"fcn{one}s"
        plan = Plan(kind, 1, keys.iterations[step], keys.batch, keys.micro_batch, recipe.train.validate_every,
                    recipe.train.checkpoint_every, recipe.train.workers)
        model = prepare(build_network(kind, recipe), recipe.runtime, device)
        training = Training(model, recipe, solver, plan, image_examples(run, step), run.training(kind), device)
        before, resumed = run.training(f"fcn{2 * one}s") / "last.pt", _begin(training, resume or one != stride)
        if not resumed:
            if one != strides[0]:
                content = load_checkpoint(before, recipe, device)
                fcn_from_shallower(model, content["model"])
                training.origin, training.start_file = start_name(before, content), before
            elif vgg16:
                start_from_vgg16(model, vgg16)
                training.origin, training.start_file = f"ImageNet weights of {vgg16.name}", vgg16
            log.info("%s starts from %s", kind, training.origin)
        record_iterations(run)
        warn_of_older_start(kind, training.origin, before)
        if resumed and _is_done(run, training):
            continue
        training.run()
        _save_final(run, training, kind, "running" if keys.batch_norm else "none")


def _strides(recipe: Recipe, stride: int) -> list[int]:
    """Those that are trained for an FCN of a stride, in order."""
    return [one for one in FCN_STRIDES if one >= stride] if recipe.fcn.staged else [stride]


def _is_done(run: RunFolder, training: Training) -> bool:
    """Whether a training and what follows it were finished before; nothing is written again then."""
    planned, network = training.plan.iterations, run.network(training.plan.name)
    if training.iteration < planned or not network.is_file():
        return False
    origin = read_safetensors(network)[1].get("origin", {})
    if origin.get("iterations", planned) != planned:  # it was killed before it wrote the longer training's network
        return False
    log.info("%s: done already, %s", training.plan.name, network)
    return True


def _begin(training: Training, resume: bool) -> bool:
    """Goes on from the folder's last.pt where there is one; True if so. Never overwrites it unasked."""
    if training.last.is_dir():
        raise UserError(f"{training.last}: a folder; expected a checkpoint: put that back, or remove the folder")
    if not training.last.is_file():
        if resume:
            log.info("%s: no checkpoint yet, starts anew", training.last)
        return False
    if not resume:
        raise UsageError(f"{training.last}: there is a checkpoint already: --resume goes on from it; to start anew, "
                         f"remove {training.folder} or use another --run folder")
    training.resume()
    return True


def _save_final(run: RunFolder, training: Training, kind: str, bn: str) -> None:
    name = training.plan.name
    origin = {"training": name, "iterations": training.plan.iterations, "started_from": training.origin,
              "recipe": run.recipe.name, "seed": run.recipe.seed, "commit": git_commit(),
              **run.values("runtime.")}
    save_network(training.model, run.network(name), kind, run.recipe, bn, origin)
    log.info("%s: final weights in %s", name, run.network(name))
