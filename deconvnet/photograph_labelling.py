"""Label maps, overlays, probabilities, labels.json and a report of photographs into a folder, by a Segmenter."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from deconvnet.data.contents import hash_file
from deconvnet.inference.label_records import LabelRecords
from deconvnet.inference.predictions import Prediction, prediction_settings
from deconvnet.inference.saved_scores import scores_name
from deconvnet.inference.segmentation import Segmentation
from deconvnet.reporting.photographs import write_report
from deconvnet.run_folder import RunFolder, provenance
from deconvnet.segmenter import ImageLike, Segmenter
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
                      on_error: str, workers: int, left_out: Mapping[Path, str]) -> None:
    """Writes what is wanted of every photograph into a folder of the prediction's name, unless it is there already;
    and a report of them all.

    files: photographs by the names of their label maps. on_error: 'stop' raises UserError for one that cannot be used,
    'skip' logs it and continues. workers: CRF processes. left_out: files left out so far, and why. Raises UserError if
    no photograph could be used.
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
            _label(segmenter, files, prediction, records, wanted, on_error, workers)
        used = ", ".join("/".join(Path(path).parts[-2:]) for path in weights)
        _report(files, prediction, records, {"Labelled by": name, "Weights": used,
                                             "With": f"commit {record['commit']}, {record['machine']}"})


def _label(segmenter: Segmenter, files: Mapping[str, Path], prediction: Prediction, records: LabelRecords,
           wanted: Wanted, on_error: str, workers: int) -> None:
    refused: list[str] = []

    def leave_out(image: ImageLike, error: UserError) -> None:
        if on_error == "stop":
            raise UserError(f"{error}; --on-error skip leaves such images out")
        log.warning("left out: %s", error)
        records.leave_out(Path(str(image)), str(error))
        refused.append(str(error))

    missing = _missing(segmenter, files, prediction, records, wanted, leave_out)
    there = len(files) - len(missing) - len(refused)
    if there:
        log.info("%d of %d label maps are there already", there, len(files))
    if missing:
        segmenter.load()  # a network that does not fit is no photograph's fault
    with progress(total=len(missing), desc=prediction.folder.name, unit="image") as bar:
        try:
            for path, result in segmenter.each([*missing], workers, leave_out, WorkerPool):
                _write(result, *missing[Path(str(path))], Path(str(path)), prediction, records, wanted)
                bar.update()
        except BrokenProcessPool as error:
            raise LostWorker(str(error), "--workers") from None
    log.info("%d label maps in %s", len(files) - len(refused), prediction.folder)
    if refused:
        log.warning("%d of %d images were left out; %s names them", len(refused), len(files), records.path)
    if len(refused) == len(files):
        raise UserError(f"none of the {len(files)} images could be used; the first: {refused[0]}")


def _report(files: Mapping[str, Path], prediction: Prediction, records: LabelRecords, facts: Mapping[str, str]) -> None:
    """A page of the photographs that were labelled, by this command or an earlier one."""
    images = records.labelled(files)
    path = write_report(prediction.folder, {name: files[name] for name in images}, images, records.class_names, facts,
                        records.left_out)
    log.info("to look through in a browser: %s", path)


def _missing(segmenter: Segmenter, files: Mapping[str, Path], prediction: Prediction, records: LabelRecords,
             wanted: Wanted, leave_out: Callable[[ImageLike, UserError], None]) -> dict[Path, tuple[str, str]]:
    """The photographs whose results are not all there: name and hash of the content, by path.

    All of them are looked at first: one that cannot be used would end the work in its middle.
    """
    missing = {}
    for image_id, path in files.items():
        made_of = hash_file(path)
        if records.has(image_id) and prediction.has(image_id, made_of, wanted.overlay, wanted.probabilities):
            continue
        try:
            segmenter.check(path)
        except UserError as error:
            leave_out(path, error)
        else:
            missing[path] = image_id, made_of
    return missing


def _write(result: Segmentation, image_id: str, made_of: str, path: Path, prediction: Prediction,
           records: LabelRecords, wanted: Wanted) -> None:
    if wanted.probabilities:
        prediction.write_probabilities(image_id, result.probabilities, result.class_names)
    prediction.write(image_id, made_of, result.labels, result.overlay() if wanted.overlay else None)
    records.add(image_id, path, result)
