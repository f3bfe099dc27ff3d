"""Label maps of a split into a folder, by a Segmenter: what is there already is not made again, scores are kept."""

import logging
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from crf.pool import CrfPool
from deconvnet.data.images import read_rgb
from deconvnet.inference.enlarging import most_probable
from deconvnet.inference.memory import check_memory
from deconvnet.inference.overlays import overlay
from deconvnet.inference.predictions import Prediction, prediction_settings
from deconvnet.inference.saved_scores import SavedScores
from deconvnet.inference.sources import Source
from deconvnet.run_folder import RunFolder, provenance
from deconvnet.segmenter import Segmenter
from deconvnet.support.atomic import remove_leftovers
from deconvnet.support.errors import LostWorker
from deconvnet.support.locks import held
from deconvnet.support.progress import progress
from deconvnet.support.workers import WorkerPool

log = logging.getLogger(__name__)

# No torch here either: the CRF's processes import this module with stages.infer.


def label(run: RunFolder, segmenter: Segmenter, source: Source, replace_others: bool, overlaid: bool,
          workers: int) -> None:
    """Writes the label map of every image of the source that has none yet, into a folder of the prediction's name.

    replace_others: see Prediction. overlaid: the labels over the image too. workers: CRF processes.
    """
    name, recipe = segmenter.name, segmenter.recipe
    scores = [SavedScores(source, network) for network in segmenter.networks]
    weights = [str(network.weights) for network in segmenter.networks]
    settings = prediction_settings(recipe, name, source.split, [one.name for one in scores], segmenter.crf)
    record = {"weights": weights, "classes": recipe.data.classes, "recipe": run.values("infer.", "crf.", "runtime."),
              **provenance()}
    with held(source.folder / name):
        prediction = Prediction(source.folder / name, settings, record, replace_others)
        log.info("%s: %s", name, ", ".join(weights))
        prediction.remove_leftovers(source.paths)
        for one in scores:
            remove_leftovers(one.folder)
        _label_missing(segmenter, source, scores, prediction, overlaid, workers)
    log.info("%d label maps in %s", len(source.paths), prediction.folder)


def _label_missing(segmenter: Segmenter, source: Source, scores: list[SavedScores], prediction: Prediction,
                   overlaid: bool, workers: int) -> None:
    missing = [image_id for image_id in source.paths
               if not prediction.has(image_id, source.made_of[image_id], overlaid)]
    if len(missing) < len(source.paths):
        log.info("%d of %d label maps are there already", len(source.paths) - len(missing), len(source.paths))
    if not missing:
        return
    kinds = [network.kind for network in segmenter.networks]
    for image_id in missing:  # all of them first: one that is too large would end the work in its middle
        check_memory(source.paths[image_id], segmenter.recipe, kinds, segmenter.crf)
    bar = progress(total=len(missing), desc=prediction.folder.name, unit="image")

    def jobs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for image_id in missing:
            image = read_rgb(source.paths[image_id])
            yield image_id, image, segmenter.probabilities([one(image_id, image) for one in scores])

    with bar:
        for image_id, labels in _labelled(segmenter, jobs(), workers):
            picture = None
            if overlaid:
                picture = overlay(read_rgb(source.paths[image_id]), labels, segmenter.class_names)
            prediction.write(image_id, source.made_of[image_id], labels, picture)
            bar.update()


def _labelled(segmenter: Segmenter, jobs: Iterator[tuple[str, np.ndarray, np.ndarray]],
              workers: int) -> Iterator[tuple[str, np.ndarray]]:
    if not segmenter.crf:
        for image_id, _, probabilities in jobs:
            labels = most_probable(probabilities)
            del probabilities  # else they are held while the next image is scored
            yield image_id, labels
        return
    with CrfPool(segmenter.crf_parameters, workers, WorkerPool) as pool:
        try:
            yield from pool.map(jobs)
        except BrokenProcessPool as error:
            raise LostWorker(str(error), "--workers") from None
