"""One training after another: what each starts from, its iterations, its BN statistics, its network's file.

Which trainings a network has, and which starts from which (stage 2 from stage 1 [P 4.2], FCN-16s from 32s), stands in
its NetworkSpec.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deconvnet.models.build import build_network
from deconvnet.models.fine_tuning import start_from_network
from deconvnet.models.network_files import save_network
from deconvnet.models.registry import NETWORKS, training_specs
from deconvnet.models.spec import MEASURED, TrainingSpec
from deconvnet.models.vgg16_weights import start_from_vgg16
from deconvnet.models.weight_files import read_safetensors
from deconvnet.models.weights import load_into
from deconvnet.recipe import PRESERVE, Recipe
from deconvnet.run_folder import RunFolder, git_commit
from deconvnet.runtime import prepare
from deconvnet.support.errors import UsageError, UserError
from deconvnet.training import ranks
from deconvnet.training.bn_measurement import measure_bn_statistics
from deconvnet.training.bn_start import layers_to_preserve, preserve
from deconvnet.training.checkpoint import load_checkpoint
from deconvnet.training.example_sources import (
    MEASURE_ORDER,
    START_ORDER,
    example_order,
    make_examples,
    to_measure_on,
)
from deconvnet.training.lengthening import done, record_iterations, start_name, warn_of_older_start
from deconvnet.training.loading import load
from deconvnet.training.trainer import Plan, Training

log = logging.getLogger(__name__)

START_EXAMPLES = 128  # on which bn_start=preserve measures


@dataclass(frozen=True)
class Given:
    """The weights file that the first training of a command starts from: VGG16's, or a whole network's to fine-tune."""

    vgg16: Path | None = None
    weights: Path | None = None

    @property
    def path(self) -> Path | None:
        """The one that is given."""
        return self.vgg16 or self.weights


def asked_for(recipe: Recipe, network: str, stage: int | None) -> list[TrainingSpec]:
    """The trainings of a network, in order: all of them, or of one that is trained by stages the one asked for."""
    trainings = NETWORKS[network].trainings(recipe)
    return trainings if stage is None else [one for one in trainings if one.stage == stage]


def train_all(run: RunFolder, trainings: Sequence[TrainingSpec], given: Given, resume: bool,
              device: torch.device) -> None:
    """Trainings that belong to one command. Those before the last go on, or are passed over, where they have begun.

    given: what the first starts from. resume: the last goes on too.
    """
    for training in trainings:
        train(run, training, given if training is trainings[0] else Given(), resume or training is not trainings[-1],
              device)


def train(run: RunFolder, spec: TrainingSpec, given: Given, resume: bool, device: torch.device) -> None:
    """One training, from its start to its network's file with measured BN statistics [R]."""
    recipe, keys = run.recipe, run.recipe.train
    examples = ranks.in_turn(lambda: make_examples(run, spec))
    plan = Plan(spec.name, spec.stage, spec.iterations, spec.batch, spec.micro_batch, keys.validate_every,
                keys.checkpoint_every, keys.workers)
    model = prepare(build_network(spec.network, recipe), recipe.runtime, device)
    training = Training(model, recipe, spec.solver, plan, examples, run.training(spec.name), device)
    resumed = _begin(training, resume)
    if not resumed:
        training.origin, training.start_file = ranks.first(
            lambda: _start(run, model, spec, given, examples.training, device))
        log.info("%s starts from %s", spec.name, training.origin)
    ranks.first(lambda: record_iterations(run))
    _warn_of_older_start(run, spec, training.origin)
    if resumed and ranks.first(lambda: _is_done(run, training)):
        return
    training.run()
    ranks.first(lambda: _finish(run, training, spec))
    for later in training_specs(recipe).values():
        if later.start and later.start.training == spec.name and (run.training(later.name) / "last.pt").is_file():
            origin = load_checkpoint(run.training(later.name) / "last.pt", None, "meta")["origin"]
            _warn_of_older_start(run, later, origin)


def _start(run: RunFolder, model: torch.nn.Module, spec: TrainingSpec, given: Given, learned: Any,
           device: torch.device) -> tuple[str, Path | None]:
    """Gives a network the weights that its training starts from; says which, and their file."""
    if spec.start:
        before = training_specs(run.recipe)[spec.start.training]
        if given.path:
            option = "--vgg16" if given.vgg16 else "--weights"
            raise UsageError(f"{option} is for {before.title}: {spec.title} starts from {before.title}'s checkpoint")
        start = _finished(run, spec, before, spec.start.checkpoint)
        content = load_checkpoint(start, run.recipe, device)
        if spec.start.fill:
            spec.start.fill(model, content["model"])
        else:
            load_into(model, content["model"], model.state_dict(), str(start))
        return start_name(run, start, content), start
    if given.vgg16:
        _preserve(run, model, spec, start_from_vgg16(model, given.vgg16), learned, device)
        return f"ImageNet weights of {given.vgg16.name}", given.vgg16
    if given.weights:
        copied = start_from_network(model, given.weights, spec.network, run.recipe)
        _preserve(run, model, spec, copied, learned, device)
        return f"the network of {given.weights.name}, fine-tuned", given.weights
    return "random numbers, not ImageNet weights (no --vgg16 file)", None


def _preserve(run: RunFolder, model: torch.nn.Module, spec: TrainingSpec, copied: set[str], learned: Any,
              device: torch.device) -> None:
    """Lets the batch normalisation behind copied weights undo itself, if the recipe asks for it."""
    layers = layers_to_preserve(model, copied)
    if spec.bn_start != PRESERVE or not layers:
        return
    batch = max(2, spec.micro_batch)
    count = -(-START_EXAMPLES // batch)
    order = example_order(run, spec, learned, START_ORDER, 0, count * batch)
    batches = load(to_measure_on(run, spec, learned), order, batch, run.recipe.train.workers)
    preserve(model, layers, batches, count, run.recipe.runtime, device)
    log.info("%s: batch normalisation undoes itself at first in %s", spec.name, ", ".join(layers))


def _finished(run: RunFolder, spec: TrainingSpec, before: TrainingSpec, checkpoint: str) -> Path:
    """The checkpoint that a training starts from, of a training that must be finished. Raises UsageError."""
    start = run.training(before.name) / f"{checkpoint}.pt"
    if not start.is_file():
        raise UsageError(f"{start}: {spec.title} starts from {before.title}'s checkpoint: run {before.title} first")
    which = f"--stage {before.stage}" if NETWORKS[before.network].by_stage else f"--model {before.network}"
    how = f"`python -m stages.train --run {run.root} {which} --resume` finishes it"
    if not run.network(before.name).is_file():
        raise UsageError(f"{run.network(before.name)}: no such file, so {before.title} is not finished: {how}")
    so_far = done(run, before.name)
    if so_far is not None and so_far < before.iterations:  # its network is of fewer, since its iterations grew
        raise UsageError(f"{start.parent}: {so_far} of {before.iterations_key}' {before.iterations} are done, so "
                         f"{before.title} is not finished: {how}")
    return start


def _warn_of_older_start(run: RunFolder, spec: TrainingSpec, origin: str) -> None:
    if spec.start:
        warn_of_older_start(run, spec, origin, run.training(spec.start.training) / f"{spec.start.checkpoint}.pt")


def measure(run: RunFolder, model: torch.nn.Module, spec: TrainingSpec, learned: Any,
            device: torch.device) -> dict[str, Any]:
    """Measures BN statistics over a training's examples, as the recipe says; returns what was really done.

    learned: the examples (WindowCrops or ImageCanvases) of the training split.
    """
    keys = run.recipe.bn_statistics
    order = example_order(run, spec, learned, MEASURE_ORDER, 0, keys.batches * keys.batch)
    batches = load(to_measure_on(run, spec, learned), order, keys.batch, run.recipe.train.workers)
    return measure_bn_statistics(model, batches, keys.batches, keys.variance, run.recipe.runtime, device)


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
            log.info("%s: no checkpoint yet, starts from the beginning", training.last)
        return False
    if not resume:
        raise UsageError(f"{training.last}: there is a checkpoint already: --resume continues from it; to start over, "
                         f"remove {training.folder} or use another --run folder")
    training.resume()
    return True


def _finish(run: RunFolder, training: Training, spec: TrainingSpec) -> None:
    """BN statistics and the network's file."""
    if spec.bn == MEASURED:
        learned = training.examples.training
        training.trace.add(bn_statistics=measure(run, training.model, spec, learned, training.device))
    origin = {"training": spec.name, "iterations": spec.iterations, "started_from": training.origin,
              "recipe": run.recipe.name, "seed": run.recipe.seed, "commit": git_commit(), **run.values("runtime.")}
    save_network(training.model, run.network(spec.name), spec.network, run.recipe, spec.bn, origin)
    log.info("%s: final weights in %s", spec.name, run.network(spec.name))
