"""Label maps, overlays, probabilities, labels.json and a report of photographs into a folder, by a Segmenter."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deconvnet.data.contents import hash_file
from deconvnet.inference.label_records import LabelRecords, record_of
from deconvnet.inference.predictions import Prediction, prediction_settings
from deconvnet.inference.saved_scores import scores_name
from deconvnet.inference.segmentation import Segmentation
from deconvnet.reporting.photographs import MOST, write_report
from deconvnet.run_folder import RunFolder, provenance
from deconvnet.segmenter import ImageLike, Segmenter
from deconvnet.support.engines import Engine, LocalEngine, Work
from deconvnet.support.errors import LostWorker, UserError
from deconvnet.support.locks import held
from deconvnet.support.progress import progress
from deconvnet.support.workers import WorkerPool

log = logging.getLogger(__name__)

# No torch here either: the CRF's processes import this module with stages.infer.


@dataclass(frozen=True)
class Wanted:
    """What is written of each photograph beside its label map."""

    overlay: bool = False
    probabilities: bool = False


def label_photographs(run: RunFolder, segmenter: Segmenter, files: Mapping[str, Path], folder: Path, wanted: Wanted,
                      on_error: str, workers: int, left_out: Mapping[Path, str],
                      engine: Engine | None = None) -> None:
    """Writes what is wanted of every photograph into a folder of the prediction's name, unless it is there already;
    and a report of them all.

    files: photographs by the names of their label maps. on_error: 'stop' raises UserError for one that cannot be used,
    'skip' logs it and continues. left_out: files left out so far, and why. engine: None: this process, with CRF
    processes, `workers` of them. Raises UserError if no photograph could be used.
    """
    name, recipe = segmenter.name, segmenter.recipe
    settings = prediction_settings(recipe, name, None, [scores_name(network, segmenter.proposer.shaped_by)
                                                        for network in segmenter.networks], segmenter.crf)
    weights = [str(network.weights) for network in segmenter.networks]
    record = {"weights": weights, "classes": recipe.data.classes, "recipe": run.values("infer.", "crf.", "runtime."),
              **provenance()}
    with held(folder / name):
        prediction = Prediction(folder / name, settings | {"infer.most_side": recipe.infer.most_side}, record, False)
        log.info("%s: %s", name, ", ".join(weights))
        prediction.remove_leftovers(files)
        with LabelRecords(prediction.folder / "labels.json", segmenter.class_names) as records:
            for path, reason in left_out.items():
                records.leave_out(path, reason)
            _label(Labelling(segmenter, prediction, wanted), files, records, on_error, workers, engine)
        used = ", ".join("/".join(Path(path).parts[-2:]) for path in weights)
        _report(files, prediction, records, {"Labelled by": name, "Weights": used,
                                             "With": f"commit {record['commit']}, {record['machine']}"})


class Given(NamedTuple):
    """A photograph that was named. recorded: whether labels.json tells of it."""

    image_id: str
    path: Path
    recorded: bool

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Look(Work[Given, str | None]):
    """The hash of a photograph's content; None where all results that are made of this content are there."""

    segmenter: Segmenter
    prediction: Prediction
    wanted: Wanted

    def __call__(self, given: Given) -> str | None:
        made_of, wanted = hash_file(given.path), self.wanted
        if given.recorded and self.prediction.has(given.image_id, made_of, wanted.overlay, wanted.probabilities):
            return None
        self.segmenter.check(given.path)
        return made_of


class Missing(NamedTuple):
    """A photograph whose results are not all there. made_of: its content's hash."""

    image_id: str
    path: Path
    made_of: str

    def __str__(self) -> str:
        return str(self.path)


Labelled = Generator[tuple[Missing, dict[str, Any]], None, None]  # photographs, with their records for labels.json


@dataclass
class Labelling(Work[Missing, dict[str, Any]]):
    """Writes what is wanted of one photograph; its record for labels.json."""

    segmenter: Segmenter
    prediction: Prediction
    wanted: Wanted

    def open(self) -> None:
        """Opens the networks: one that does not fit is no photograph's fault."""
        self.segmenter.load()

    def __call__(self, missing: Missing) -> dict[str, Any]:
        return self.write(missing, self.segmenter(missing.path))

    def write(self, missing: Missing, result: Segmentation) -> dict[str, Any]:
        """Writes a result; its record."""
        self.prediction.write(missing.image_id, missing.made_of, result.labels)
        if self.wanted.probabilities:
            self.prediction.write_probabilities(missing.image_id, result.probabilities, result.class_names)
        if self.wanted.overlay:
            self.prediction.write_overlay(missing.image_id, result.overlay())
        return record_of(missing.path, result)

    def each(self, missing: Iterable[Missing], workers: int,
             leave_out: Callable[[ImageLike, UserError], None]) -> Labelled:
        """Several of them, in this process, the CRF in others."""
        self.open()
        by_path = {one.path: one for one in missing}
        try:
            for path, result in self.segmenter.each([*by_path], workers, leave_out, WorkerPool):
                one = by_path[Path(str(path))]
                yield one, self.write(one, result)
        except BrokenProcessPool as error:
            raise LostWorker(str(error), "--workers") from None

    def by(self, engine: Engine, missing: Iterable[Missing],
           leave_out: Callable[[ImageLike, UserError], None]) -> Labelled:
        """The same by an engine."""
        self.prediction.begin()  # its workers write at the same time
        for one, record in engine.map(self, missing):
            if isinstance(record, UserError):
                leave_out(one.path, record)
            else:
                yield one, record


def _label(work: Labelling, files: Mapping[str, Path], records: LabelRecords, on_error: str, workers: int,
           engine: Engine | None) -> None:
    refused: list[str] = []

    def leave_out(image: ImageLike, error: UserError) -> None:
        if on_error == "stop":
            raise UserError(f"{error}; --on-error skip leaves such images out")
        log.warning("left out: %s", error)
        records.leave_out(Path(str(image)), str(error))
        refused.append(str(error))

    missing = _missing(work, files, records, leave_out, engine or LocalEngine(0))
    there = len(files) - len(missing) - len(refused)
    if there:
        log.info("%d of %d label maps are there already", there, len(files))
    with progress(total=len(missing), desc=work.prediction.folder.name, unit="image") as bar:
        if missing:
            records.forget(one.image_id for one in missing)
            done = work.by(engine, missing, leave_out) if engine else work.each(missing, workers, leave_out)
            with closing(done):  # while its engine is connected, whatever happens here
                for one, record in done:
                    records.add(one.image_id, record)
                    bar.update()
    log.info("%d label maps in %s", len(files) - len(refused), work.prediction.folder)
    if refused:
        log.warning("%d of %d images were left out; %s names them", len(refused), len(files), records.path)
    if len(refused) == len(files):
        raise UserError(f"none of the {len(files)} images could be used; the first: {refused[0]}")


def _report(files: Mapping[str, Path], prediction: Prediction, records: LabelRecords, facts: Mapping[str, str]) -> None:
    """A page of the photographs that were labelled, by this command or an earlier one."""
    names = records.labelled(files)
    path = write_report(prediction.folder, {name: files[name] for name in names},
                        {name: records.record(name) for name in names[:MOST]}, records.class_names, facts,
                        records.left_out)
    log.info("to look through in a browser: %s", path)


def _missing(work: Labelling, files: Mapping[str, Path], records: LabelRecords,
             leave_out: Callable[[ImageLike, UserError], None], engine: Engine) -> list[Missing]:
    """The photographs whose results are not all there.

    All of them are looked at first: one that cannot be used would end the work in its middle.
    """
    missing = []
    given = [Given(image_id, path, records.has(image_id)) for image_id, path in files.items()]
    with progress(total=len(files), desc="photographs", unit="image", delay=1) as bar:
        for one, made_of in engine.map(Look(work.segmenter, work.prediction, work.wanted), given):
            if isinstance(made_of, UserError):
                leave_out(one.path, made_of)
            elif made_of is not None:
                missing.append(Missing(one.image_id, one.path, made_of))
            bar.update()
    return missing
