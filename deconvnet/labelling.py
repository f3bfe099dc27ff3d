"""Label maps of a split into a folder, by a Segmenter: what is there already is not made again, scores are kept."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from crf.dense import dense_crf
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
from deconvnet.support.engines import Engine, Work
from deconvnet.support.errors import LostWorker
from deconvnet.support.locks import held
from deconvnet.support.progress import progress
from deconvnet.support.workers import WorkerPool

log = logging.getLogger(__name__)

# No torch here either: the CRF's processes import this module with stages.infer.


def label(run: RunFolder, segmenter: Segmenter, source: Source, replace_others: bool, overlaid: bool,
          workers: int, engine: Engine | None = None) -> None:
    """Writes the label map of every image of the source that has none yet, into a folder of the prediction's name.

    replace_others: see Prediction. overlaid: the labels over the image too. engine: None: this process, with CRF
    processes, `workers` of them.
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
        _label_missing(Labelling(segmenter, source, scores, prediction, overlaid), workers, engine)
    log.info("%d label maps in %s", len(source.paths), prediction.folder)


@dataclass
class Labelling(Work[str, None]):
    """Writes the label map of one image of a split, and its score maps."""

    segmenter: Segmenter
    source: Source
    scores: list[SavedScores]
    prediction: Prediction
    overlaid: bool

    def __call__(self, image_id: str) -> None:
        _, image, probabilities = self.scored(image_id)
        if self.segmenter.crf:
            probabilities = dense_crf(image, probabilities, self.segmenter.crf_parameters)
        self.write(image_id, most_probable(probabilities))

    def scored(self, image_id: str) -> tuple[str, np.ndarray, np.ndarray]:
        """Its id, the image, and its probabilities before the CRF."""
        image = read_rgb(self.source.paths[image_id])
        return image_id, image, self.segmenter.probabilities([one(image_id, image) for one in self.scores])

    def write(self, image_id: str, labels: np.ndarray) -> None:
        """Writes labels, and what else is wanted."""
        self.prediction.write(image_id, self.source.made_of[image_id], labels)
        if self.overlaid:
            picture = overlay(read_rgb(self.source.paths[image_id]), labels, self.segmenter.class_names)
            self.prediction.write_overlay(image_id, picture)

    def each(self, image_ids: Iterable[str], workers: int) -> Iterator[str]:
        """The same of several, in this process, the CRF in others; each id as it is done."""
        if not self.segmenter.crf:
            for image_id in image_ids:
                self(image_id)
                yield image_id
            return
        with CrfPool(self.segmenter.crf_parameters, workers, WorkerPool) as pool:
            try:
                for image_id, labels in pool.map(map(self.scored, image_ids)):
                    self.write(image_id, labels)
                    yield image_id
            except BrokenProcessPool as error:
                raise LostWorker(str(error), "--workers") from None


def _label_missing(work: Labelling, workers: int, engine: Engine | None) -> None:
    source, segmenter, prediction = work.source, work.segmenter, work.prediction
    missing = [image_id for image_id in source.paths
               if not prediction.has(image_id, source.made_of[image_id], work.overlaid)]
    if len(missing) < len(source.paths):
        log.info("%d of %d label maps are there already", len(source.paths) - len(missing), len(source.paths))
    if not missing:
        return
    kinds = [network.kind for network in segmenter.networks]
    for image_id in missing:  # all of them first: one that is too large would end the work in its middle
        check_memory(source.paths[image_id], segmenter.recipe, kinds, segmenter.crf)
    with progress(total=len(missing), desc=prediction.folder.name, unit="image") as bar:
        for _ in _by(engine, work, missing) if engine else work.each(missing, workers):
            bar.update()


def _by(engine: Engine, work: Labelling, missing: list[str]) -> Iterator[str]:
    work.prediction.begin()  # its workers write at the same time
    for image_id, error in engine.map(work, missing):
        if error:
            raise error
        yield image_id
