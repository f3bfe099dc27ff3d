"""The training loop, the same for every network."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from deconvnet.conventions import VOID
from deconvnet.data.examples import ImageCanvases, WindowCrops
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.models.weights import load_into
from deconvnet.recipe import Recipe, Solver, recipe_difference, recipe_to_dict
from deconvnet.runtime import autocast, to_device
from deconvnet.support.atomic import remove_leftovers
from deconvnet.support.errors import LostWorker, UserError
from deconvnet.support.interrupts import StopRequest
from deconvnet.support.progress import progress
from deconvnet.training import ranks
from deconvnet.training.checkpoint import load_checkpoint, save_checkpoint
from deconvnet.training.loading import Batch, load
from deconvnet.training.log_file import LOG_EVERY, LogFile, Running
from deconvnet.training.solver import ScheduledSgd
from deconvnet.training.trace import Trace

log = logging.getLogger(__name__)


@dataclass
class Examples:
    """Where a training's examples come from."""

    training: WindowCrops | ImageCanvases
    validation: WindowCrops | ImageCanvases
    order: Callable[[int, int], Iterator[tuple[int, int]]]  # positions start .. stop - 1 with their dataset indices
    validation_indices: np.ndarray  # of the validation examples, in their dataset
    made_of: str = ""  # tells them from others under the same names; empty: they are not compared


@dataclass
class Plan:
    """How long, how much at a time, and how often to look."""

    name: str
    stage: int  # whose solver.lr_step applies
    iterations: int
    batch: int
    micro_batch: int
    validate_every: int
    checkpoint_every: int
    workers: int


class Training:
    """One training in one folder: last.pt, best.pt, log.csv, trace.json, TensorBoard events."""

    def __init__(self, model: nn.Module, recipe: Recipe, solver: Solver, plan: Plan, examples: Examples, folder: Path,
                 device: torch.device) -> None:
        """model: on `device`, in the state to start from."""
        self.model, self.recipe, self.plan, self.examples = model, recipe, plan, examples
        self.folder, self.device = folder, device
        self.accumulation = plan.batch // plan.micro_batch
        self.sgd = ScheduledSgd(model, solver, self.accumulation, plan.stage)
        self.forward: nn.Module = torch.compile(model) if recipe.runtime.compile else model  # type: ignore[assignment]
        self.iteration = 0
        self.best = -1.0
        self.origin = "random numbers, not ImageNet weights"  # what the weights started from, for the record
        self.start_file: Path | None = None  # where they were read
        self.trace = Trace(folder / "trace.json", self.sgd.optimizer)
        self.share: ranks.Share  # of several processes; from run() on
        self.since = Running()
        self.unvalidated = False  # whether the validation that is due after the last iteration was broken off

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.folder / "last.pt"

    def resume(self) -> None:
        """Goes on from last.pt as if never stopped. Raises UserError for a checkpoint that is not this training's."""
        content = load_checkpoint(self.last, self.recipe, self.device)
        if content["training"] != self.plan.name:
            raise UserError(f"{self.last}: a checkpoint of {content['training']}; expected one of {self.plan.name}")
        if content["iteration"] > self.plan.iterations:
            raise UserError(f"{self.last}: {content['iteration']} iterations are done, more than the recipe's "
                            f"{self.plan.iterations}: set as many or more, or use another --run folder")
        if content.get("examples") and self.examples.made_of not in ("", content["examples"]):
            raise UserError(f"{self.last}: began on other windows or images than there are now (changed, or made "
                            f"again): remove {self.folder} to start over, or use another --run folder")
        load_into(self.model, content["model"], self.model.state_dict(), str(self.last))
        try:
            if content["position"] != content["iteration"] * self.plan.batch:
                raise ValueError(f"position {content['position']} at iteration {content['iteration']}")
            self.sgd.load_state(content["descent"])
            torch.set_rng_state(content["random"].cpu())
            if "random_cuda" in content and self.device.type == "cuda":
                torch.cuda.set_rng_state(content["random_cuda"].cpu(), self.device)
        except (ValueError, RuntimeError, TypeError) as error:  # torch's for random states are of the latter two
            raise UserError(f"{self.last}: damaged: {' '.join(str(error).split())}; remove it: the training then "
                            "starts over") from None
        self.iteration, self.best, self.origin = content["iteration"], content["best"], content["origin"]
        self.start_file = self.last
        self.since = Running(**(content.get("since") or {}))
        self.unvalidated = content.get("unvalidated", False)
        log.info("%s: resumes at iteration %d", self.plan.name, self.iteration)
        for name, (before, now) in recipe_difference(content["recipe"], recipe_to_dict(self.recipe)).items():
            if name.startswith("runtime."):
                log.warning("%s: started with %s = %r, resumes with %r: --set %s=%s resumes as it "
                            "started", self.plan.name,
                            name, before, now, name, str(before).lower())

    def run(self) -> None:
        """Trains up to plan.iterations. Raises UserError when the loss is not finite; last.pt is then still good.

        Raises LostWorker when a loading process was killed, once what was trained up to then is in last.pt.
        """
        plan = self.plan
        self.trace.begin(self)
        if self.iteration >= plan.iterations and not self.unvalidated:
            log.info("%s: all %d iterations are done", plan.name, plan.iterations)
            return
        self.share = ranks.Share(self.model, self.forward, self.accumulation)
        order = self.examples.order(self.iteration * plan.batch, plan.iterations * plan.batch)
        order = self.trace.drawn(ranks.own_part(order, plan.batch))
        batches = load(self.examples.training, order, plan.micro_batch, plan.workers)
        self.model.train()
        records = Records(self.folder, self.iteration) if ranks.rank() == 0 else None
        message = "stops after this iteration and keeps it; Ctrl-C again stops at once"
        # The loader is closed within the request: what is raised while torch ends its processes is lost.
        with (records or contextlib.nullcontext(), StopRequest(message) as stop, contextlib.closing(batches),
              progress(total=plan.iterations, initial=self.iteration, desc=plan.name, unit="iteration",
                       disable=records is None) as bar):
            try:
                while self.unvalidated or self.iteration < plan.iterations:
                    if not self.unvalidated:
                        self._step(batches)
                        bar.update()
                        bar.set_postfix(self.since.in_short(), refresh=False)
                    self._look(records)
                    stop.asked = ranks.any_of(stop.asked)
                    if self.iteration % plan.checkpoint_every == 0 or self.iteration == plan.iterations or stop.asked:
                        self._save(self.last)
                    stop.stop_if_asked()
            except LostWorker:
                if self.iteration:
                    self._save(self.last)
                raise

    def _step(self, batches: Iterator[Batch]) -> None:
        """One iteration, timed. Nothing has changed where LostWorker is raised."""
        rate, began = self.sgd.rate, time.perf_counter()
        loss, accuracy = self._iterate(batches)
        self.iteration += 1
        self.since.add(loss, accuracy, rate, self.plan.batch, time.perf_counter() - began)

    def _look(self, records: "Records | None") -> None:
        """Validates and writes to the log after the iterations where that is due."""
        validated = {}
        if self.iteration % self.plan.validate_every == 0 or self.iteration == self.plan.iterations:
            self.unvalidated = True
            validated = self._validate()
        if validated or self.iteration % LOG_EVERY == 0:
            since = self.since
            line = {"iteration": self.iteration, "rate": since.rate, "loss": since.loss,
                    "pixel_accuracy": since.accuracy, "images_per_second": since.speed, **validated}
            if records:
                records.add(line)
            self.since = Running()

    def _iterate(self, source: Iterator[Batch]) -> tuple[float, float]:
        """One iteration of accumulated passes, on several ranks a part of them each: its mean loss and pixel accuracy.
        """
        losses: Tensor | float = 0.0
        right: Tensor | int = 0
        counted: Tensor | int = 0
        passes = self.share.passes
        loaded = [next(source) for _ in range(passes)]  # all of them first: the source may raise LostWorker
        with self.share.iteration(lambda: self._scores(self.model, *loaded[0][:2])[0]):
            for number, (pictures, labels, indices) in enumerate(loaded, start=1):
                with self.share.backward(last=number == passes):
                    scores, pictures, labels = self._scores(self.share.network, pictures, labels)
                    self.trace.passed(pictures, labels, indices, scores, self.model)
                    loss = pixel_loss(scores, labels)
                    (loss / passes).backward()
                losses = losses + loss.detach() / self.accumulation
                valid = labels != VOID
                right = right + ((scores.argmax(1) == labels) & valid).sum()
                counted = counted + valid.sum()
        mean_loss, all_right, all_counted = ranks.summed(float(losses), float(right), float(counted))
        if not math.isfinite(mean_loss):
            raise self._not_finite(f"the loss is {mean_loss}", self.iteration + 1)
        self.sgd.step()
        return mean_loss, all_right / max(all_counted, 1.0)

    def _scores(self, network: nn.Module, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A loaded batch's scores, and its pictures and labels on the device."""
        pictures, labels = to_device(pictures, labels, self.recipe.runtime, self.device)
        with autocast(self.recipe.runtime, self.device):
            return network(pictures), pictures, labels

    def _not_finite(self, what: str, iteration: int) -> UserError:
        batch = self.examples.order((iteration - 1) * self.plan.batch, iteration * self.plan.batch)
        examples = " ".join(self.examples.training.example_id(index) for _, index in batch)
        good = f"{self.last} is the last good checkpoint" if self.last.is_file() else "no checkpoint was written yet"
        return UserError(f"{what} at iteration {iteration} of {self.plan.name}: {good}; try a smaller learning rate "
                         f"(now {self.sgd.rate:g}). The examples of this batch: {examples}")

    def _validate(self) -> dict[str, float]:
        found = ranks.first(lambda: validate(
            self.model, self.examples.validation, self.examples.validation_indices, self.plan.micro_batch,
            self.plan.workers, self.recipe, self.device, self.trace.validating))
        self.trace.write()
        self.unvalidated = False
        accuracy = found["validation_accuracy"]
        log.info("%s %d: validation loss %.3f, pixel accuracy %.4f, mean IoU %.4f, rate %g", self.plan.name,
                 self.iteration, found["validation_loss"], accuracy, found["validation_mean_iou"], self.sgd.rate)
        if found.pop("predicted_objects") == 0:
            log.warning("!!! %s PREDICTS NOTHING BUT BACKGROUND on all validation examples at iteration %d. That is "
                        "normal for a while at the start only; else look at the learning rate, the labels and the "
                        "class list.", self.plan.name, self.iteration)
        self.sgd.validated(accuracy)
        if accuracy > self.best:
            self.best = accuracy
            self._save(self.folder / "best.pt")
        return found

    def _save(self, path: Path) -> None:
        """Writes a checkpoint, unless the last step made a weight infinite while the loss before it was finite."""
        if ranks.rank():
            return
        wrong = next((name for name, value in self.model.state_dict().items() if not value.isfinite().all()), None)
        if wrong:
            raise self._not_finite(f"{wrong} holds NaN or infinity", self.iteration)
        content = {
            "training": self.plan.name,
            "iteration": self.iteration,
            "position": self.iteration * self.plan.batch,
            "best": self.best,
            "since": vars(self.since),
            "unvalidated": self.unvalidated,
            "origin": self.origin,
            "examples": self.examples.made_of,
            "model": self.model.state_dict(),
            "descent": self.sgd.state(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            content["random_cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(path, self.recipe, content)


class Records:
    """log.csv and TensorBoard's events of a training, open within a `with` block."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """iteration: at which the training begins or goes on."""
        remove_leftovers(folder)
        self.log_file = LogFile(folder / "log.csv", iteration)
        self.board = SummaryWriter(str(folder), purge_step=iteration + 1)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.board.close()

    def add(self, line: dict[str, float]) -> None:
        """line: values by column, the iteration among them."""
        self.log_file.add(line)
        for name, value in line.items():
            self.board.add_scalar(name, value, line["iteration"])


def pixel_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross entropy, mean over the pixels that are not void; 0 where all are.

    scores: N x C x H x W; labels: int64 N x H x W.
    """
    total = F.cross_entropy(scores.float(), labels, ignore_index=VOID, reduction="sum")
    return total / (labels != VOID).sum().clamp(min=1)


@torch.no_grad()
def validate(model: nn.Module, examples: WindowCrops | ImageCanvases, indices: np.ndarray, batch: int, workers: int,
             recipe: Recipe, device: torch.device, look: Callable[..., None] | None = None) -> dict[str, float]:
    """Loss, pixel accuracy and mean IoU on validation examples, with BN's running statistics.

    look: is shown each batch: pictures and labels as the network gets them, indices, scores, the network.
    """
    was_training = model.training
    model.eval()
    classes = len(recipe.data.classes)
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    pixels = torch.zeros((), dtype=torch.int64, device=device)
    for pictures, labels, seen in load(examples, [(0, int(index)) for index in indices], batch, workers):
        pictures, labels = to_device(pictures, labels, recipe.runtime, device)
        with autocast(recipe.runtime, device):
            scores = model(pictures)
        if look:
            look(pictures, labels, seen, scores, model)
        valid = labels != VOID
        loss += pixel_loss(scores, labels).double() * valid.sum()
        pixels += valid.sum()
        pairs = labels[valid] * classes + scores.argmax(1)[valid]
        counts += torch.bincount(pairs, minlength=classes * classes)
    model.train(was_training)
    matrix = ConfusionMatrix(recipe.data.classes)
    matrix.counts += counts.reshape(classes, classes).cpu().numpy()
    return {
        "validation_loss": float(loss / pixels.clamp(min=1)),
        "validation_accuracy": matrix.pixel_accuracy(),
        "validation_mean_iou": matrix.mean_iou(),
        "predicted_objects": int(matrix.counts[:, 1:].sum()),
    }
