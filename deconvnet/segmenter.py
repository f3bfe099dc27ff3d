"""Section 5 of the paper as an object.

    image -> proposals -> windows -> scores -> aggregate -> ensemble -> CRF -> labels

What stages.infer, a notebook, a web server and a worker on another machine all call.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crf.dense import CrfParameters, dense_crf
from crf.pool import CrfPool
from deconvnet.conventions import PACKED, PRETRAINED
from deconvnet.data.photographs import Photograph, read_photograph, size_of, working_size
from deconvnet.inference.enlarging import enlarged_labels
from deconvnet.inference.memory import check_size
from deconvnet.inference.networks import ImageScorer, weights_of_run
from deconvnet.inference.score_files import check_finite
from deconvnet.inference.segmentation import Segmentation
from deconvnet.inference.weight_choice import networks_of_files
from deconvnet.models.registry import NETWORKS as NETWORK_SPECS
from deconvnet.models.registry import PARTNERS, partner_name
from deconvnet.recipe import CHECKPOINTS, NETWORKS, PROPOSALS, WINDOWS, Recipe
from deconvnet.recipe_files import override
from deconvnet.run_folder import RunFolder, read_run
from deconvnet.support.errors import LostWorker, UsageError, UserError
from deconvnet.support.workers import check_workers
from proposals.build import ProposalWork, warn_of_other_edges

log = logging.getLogger(__name__)

# torch is imported where it is used, not above: the CRF's processes import this module.
KEPT = (PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS)  # of a run, while its images are labelled
GIVEN = "the image given"  # the name, in messages, of one that is no file
SMALLER = "label it smaller (infer.most_side)"  # so that it takes less memory

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass
class _Scored:
    """An image that awaits the CRF; its probabilities are held apart from it."""

    given: ImageLike
    photograph: Photograph
    boxes: np.ndarray
    seconds: float


class Proposer:
    """Proposals of images that have none in a file; how they are made is settled with the first image."""

    def __init__(self, recipe: Recipe, edge_model: Path | None, run: RunFolder | None) -> None:
        """run: whose proposals so far are compared, if any: the networks were trained on windows made of them."""
        self.recipe, self.edge_model, self.run = recipe, edge_model, run

    @cached_property
    def _work(self) -> ProposalWork:
        work = ProposalWork(None, self.recipe, self.edge_model)
        log.info("proposals are made as they are needed, edge detector %s", work.edges)
        if self.run:
            warn_of_other_edges(self.run, work.edges)
        return work

    def open(self) -> None:
        """Reads the edge model, if there is one. Raises UserError for a file that is none."""
        _ = self._work

    def boxes(self, image: np.ndarray) -> np.ndarray:
        """The boxes of an image (RGB uint8 H x W x 3), int32 N x 4, best first."""
        return self._work.propose(image)[0]

    def shaped_by(self) -> dict[str, object]:
        """All that decides what boxes are found."""
        return self._work.shaped_by()


class Segmenter:
    """Labels images with DeconvNet or another network of the registry, alone or in an ensemble, with or without CRF.

    Threads may share one: they take turns at the proposals and networks, and run the CRF each for itself. Pickled, it
    holds its choices and the absolute paths of its files, not what is in them; the other process opens them itself.
    Processes are to be spawned, not forked, once an image was labelled: torch's threads do not survive a fork.
    """

    def __init__(self, recipe: Recipe, networks: Sequence[ImageScorer], crf: bool = False,
                 edge_model: Path | None = None, run: RunFolder | None = None) -> None:
        """networks: one, or the two of an ensemble. Use from_run or from_weights."""
        self.recipe, self.networks, self.crf = recipe, tuple(networks), crf
        self.proposer = Proposer(recipe, edge_model, run)
        self._turn = threading.Lock()
        self._said: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        edge_model = self.proposer.edge_model
        return type(self), (self.recipe, self.networks, self.crf, edge_model.resolve() if edge_model else None)

    @classmethod
    def from_run(cls, run: Path | str, model: str = "deconvnet", ensemble: str | None = None, crf: bool = False,
                 device: str = "auto", aggregate: str | None = None, edge_model: Path | str | None = None,
                 set: Sequence[str] = ()) -> "Segmenter":
        """With the networks that a run trained; the run's folder is read, and nothing is written into it.

        model, ensemble, crf, device, aggregate, edge_model, set: as --model, --ensemble, ... of stages.infer; the
        proposals are made anew, never read. Raises UsageError for a run, network or recipe key that is not there.
        """
        return cls.of(read_run(Path(run), set, KEPT), model, ensemble, crf, device, aggregate,
                      Path(edge_model) if edge_model else None)

    @classmethod
    def from_pretrained(cls, crf: bool = True, device: str = "auto", set: Sequence[str] = ()) -> "Segmenter":
        """With the networks that come with this package (docs/model_card.md says what they can do).

        crf, device, set: as for from_run. Raises UsageError where the package comes without networks.
        """
        model, ensemble = pretrained_networks()
        return cls.from_run(PRETRAINED, model, ensemble, crf, device, set=set)

    @classmethod
    def of(cls, run: RunFolder, model: str = "deconvnet", ensemble: str | None = None, crf: bool = False,
           device: str = "auto", aggregate: str | None = None, edge_model: Path | None = None,
           weights: Mapping[str, Path | None] | None = None) -> "Segmenter":
        """The same of an opened run, whose recipe then has `aggregate`, too.

        weights: files to take instead of the run's, by network.
        """
        if model not in NETWORK_SPECS:
            raise UsageError(f"model {model!r}: expected one of {', '.join(NETWORK_SPECS)}")
        if aggregate:
            run.recipe = override(run.recipe, [f"infer.aggregate={aggregate}"])
        kinds = [model] if ensemble in (None, "none") else [model, _partner(ensemble)]
        if len({*kinds}) < len(kinds):
            raise UsageError(f"ensemble {ensemble!r} is {model} itself: expected another network")
        networks = [ImageScorer(kind, weights_of_run(run, kind, (weights or {}).get(kind)), run.recipe, device)
                    for kind in kinds]
        return cls(run.recipe, networks, crf, edge_model, run)

    @classmethod
    def from_weights(cls, weights: Path | str, partner_weights: Path | str | None = None,
                     recipe: Recipe | Path | str | None = None, crf: bool = False, device: str = "auto",
                     aggregate: str | None = None, edge_model: Path | str | None = None,
                     set: Sequence[str] = ()) -> "Segmenter":
        """With networks in files: stages.train's, stages.import_caffe's, or a published one that the registry reads.

        partner_weights: the second one of an ensemble (FCN-8s's). recipe: a recipe, its name or file; None: the one
        that the file of stages.train carries, so that it stands alone. set: keys changed over it. The rest as for
        from_run. Raises UserError for a file that is no network, UsageError where a recipe is needed.
        """
        paths = [Path(path) for path in (weights, partner_weights) if path]
        kinds, recipe = networks_of_files(paths, recipe)
        recipe = override(override(recipe, set), [f"infer.aggregate={aggregate}"] if aggregate else [])
        networks = [ImageScorer(kind, path, recipe, device) for kind, path in zip(kinds, paths, strict=True)]
        return cls(recipe, networks, crf, Path(edge_model) if edge_model else None)

    @property
    def name(self) -> str:
        """The prediction's, as stages.infer names its folder: deconvnet-max-fcn-crf."""
        both = [self.networks[0].name, *(partner_name(one.kind) for one in self.networks[1:])]
        return "-".join([*both, *(["crf"] if self.crf else [])])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names; 0 is background."""
        return tuple(self.recipe.data.classes)

    @property
    def crf_parameters(self) -> CrfParameters:
        """Of the recipe's section crf."""
        return CrfParameters(**asdict(self.recipe.crf))

    def load(self) -> "Segmenter":
        """Opens the networks and the edge model now, not with the first image. Raises UserError for what is wrong."""
        with self._turn:
            if any(network.sees_windows for network in self.networks):
                self.proposer.open()
            for network in self.networks:
                network.open()
        return self

    def check(self, image: ImageLike, name: str | None = None) -> None:
        """Raises UserError for what is no image or takes too much memory, as far as the start of a file tells."""
        name, kinds = name or _name(image), [network.kind for network in self.networks]
        size = working_size(size_of(image, name), self.recipe.infer.most_side)
        check_size(name, size, self.recipe, kinds, self.crf, SMALLER)

    def __call__(self, image: ImageLike) -> Segmentation:
        """Labels one image: a path, a PIL image or an array (RGB uint8 H x W x 3).

        Files and PIL images may be of any kind that deconvnet.data.photographs reads. One with a side above
        infer.most_side is labelled smaller, and its labels are enlarged again. Raises UserError, one line, for an image
        that is none, damaged, or larger than infer.most_gigabytes allows.
        """
        return self._finished(*self._before_crf(image, _name(image)))

    def segment_many(self, images: Iterable[ImageLike], workers: int = 0) -> Iterator[Segmentation]:
        """Labels images one by one, in their order, as they are asked for; the first that is wrong raises and ends it.

        workers: processes that the CRF runs in beside the network, which then is a few images ahead (a program that
        asks for them has its `if __name__ == "__main__":`); 0: in this one. Raises LostWorker for one that was killed.
        """
        check_workers(workers, least=0)
        if isinstance(images, ImageLike):  # a path would be read as one image a letter, an array as one a line
            raise UsageError("segment_many takes several images, a list of paths say; one is segmenter(image)'s")
        return self._results_of(images, workers)

    def _results_of(self, images: Iterable[ImageLike], workers: int) -> Iterator[Segmentation]:
        try:
            for _, result in self.each(images, workers):
                yield result
        except BrokenProcessPool as error:
            raise LostWorker(str(error), "workers") from None

    def each(self, images: Iterable[ImageLike], workers: int = 0,
             leave_out: Callable[[ImageLike, UserError], None] | None = None,
             make_executor: Callable[[int], Executor] | None = None) -> Iterator[tuple[ImageLike, Segmentation]]:
        """The same, each image with its result; what stages.infer calls.

        leave_out: called with an image that cannot be used and the error, which then ends nothing. make_executor: see
        CrfPool. Raises BrokenProcessPool for a process that was killed.
        """
        ready = self._each_before_crf(images, leave_out)
        if not (self.crf and workers):
            for one, probabilities in ready:
                yield one.given, self._finished(one, probabilities)
            return
        ahead: deque[_Scored] = deque()

        def jobs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
            for number, (one, probabilities) in enumerate(ready):
                ahead.append(one)
                yield _name(one.given, number), one.photograph.image, probabilities

        with CrfPool(self.crf_parameters, workers, make_executor) as pool:
            for _, posterior, seconds in pool.posteriors(jobs()):
                one = ahead.popleft()
                yield one.given, self._result(one, posterior, one.seconds + seconds)

    def _each_before_crf(self, images: Iterable[ImageLike], leave_out: Callable[[ImageLike, UserError], None] | None
                         ) -> Iterator[tuple[_Scored, np.ndarray]]:
        for number, image in enumerate(images):
            try:
                yield self._before_crf(image, _name(image, number))
            except UserError as error:
                if not leave_out:
                    raise
                leave_out(image, error)

    def _before_crf(self, image: ImageLike, name: str) -> tuple[_Scored, np.ndarray]:
        """The photograph, its proposals, and the networks' probabilities."""
        began = time.perf_counter()
        self.check(image, name)
        photograph = read_photograph(image, name, self.recipe.infer.most_side)
        self._say(name, photograph.conversions)
        boxes = np.zeros((0, 4), np.int32)
        with self._turn:
            if any(network.sees_windows for network in self.networks):
                boxes = self.proposer.boxes(photograph.image)
            scores = [network(name, photograph.image, lambda: boxes) for network in self.networks]
            for one in scores:
                check_finite(one, name)
            probabilities = self.probabilities(scores)
        return _Scored(image, photograph, boxes, time.perf_counter() - began), probabilities

    def _say(self, name: str, conversions: tuple[str, ...]) -> None:
        for one in conversions:
            if one not in self._said:
                self._said.add(one)
                log.info("%s: %s (others like it are not mentioned again)", name, one)

    def probabilities(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities, float32 C x H x W, of the scores of each of the networks, before the CRF."""
        from deconvnet.inference.ensemble import ensemble, softmax

        if len(scores) == 2:
            return ensemble(scores[0], scores[1], self.recipe.infer.ensemble_rule)
        return softmax(scores[0])

    def _finished(self, one: _Scored, probabilities: np.ndarray) -> Segmentation:
        """After the CRF, in this process."""
        began = time.perf_counter()
        if self.crf:
            probabilities = dense_crf(one.photograph.image, probabilities, self.crf_parameters)
        return self._result(one, probabilities, one.seconds + time.perf_counter() - began)

    def _result(self, one: _Scored, probabilities: np.ndarray, seconds: float) -> Segmentation:
        began = time.perf_counter()
        labels = enlarged_labels(probabilities, one.photograph.size)
        return Segmentation(labels, probabilities, one.boxes, self.class_names, one.photograph.image,
                            one.photograph.conversions, seconds + time.perf_counter() - began)


def pretrained_networks() -> tuple[str, str | None]:
    """Network and ensemble partner that come with this package. Raises UsageError where none do."""
    found = [kind for kind, training in PACKED.items() if (PRETRAINED / training / "network.safetensors").is_file()]
    if not found:
        raise UsageError(f"{PRETRAINED}: this package comes without networks: train some, and give their run")
    return found[0], "fcn" if len(found) == 2 else None


def _partner(name: str) -> str:
    if name not in PARTNERS:
        raise UsageError(f"ensemble {name!r}: expected one of {', '.join(PARTNERS)}, or none")
    return PARTNERS[name]


def _name(image: ImageLike, number: int | None = None) -> str:
    """An image's name in messages."""
    if isinstance(image, str | Path):
        return str(image)
    return GIVEN if number is None else f"image {number}"
