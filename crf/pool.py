"""The dense CRF in several processes, while a network produces the jobs."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from crf.dense import CrfParameters, check, mean_field, of_all_classes, possible_classes

PENDING_PER_WORKER = 2  # one at work, one waiting: no worker idles, and memory stays bounded
PENDING_BYTES = 1 << 30  # of probabilities, for large images: a running job takes about 12 times as much


Done = TypeVar("Done")


class CrfPool:
    """Processes that run the dense CRF; use it as a context manager.

    They are sent the classes that take part alone: of a photograph mostly three or four of 21, which are 16 MB.

    with CrfPool(parameters, workers) as pool:
        for key, labels in pool.map(jobs): ...
    """

    def __init__(self, parameters: CrfParameters, workers: int,
                 make_executor: Callable[[int], Executor] | None = None) -> None:
        """make_executor: makes the pool for a number of processes, if other than Python's."""
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        self.parameters = parameters
        self.most_pending = PENDING_PER_WORKER * workers
        self._executor = (make_executor or _spawning)(workers)

    def __enter__(self) -> "CrfPool":
        """Starts a process now, while the first job is made; others come with the jobs."""
        self._executor.submit(_nothing)
        return self

    def __exit__(self, *_: object) -> None:
        """Drops pending jobs, lets running ones finish (a second or so)."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, jobs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (key, labels) in the order of the jobs; labels: uint8 H x W, the most probable class.

        jobs: (key, image, probabilities) as `dense_crf` takes them. They are drawn one by one, and no more than
        `most_pending` of them are held at a time, fewer where they are large (PENDING_BYTES). A job that fails raises
        RuntimeError with its key; a process that is killed, BrokenProcessPool.
        """
        for key, kept, labels in self._map(_labels, jobs):
            yield key, np.flatnonzero(kept).astype(np.uint8)[labels]

    def posteriors(self, jobs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Iterator[tuple[str, np.ndarray, float]]:
        """The same, but yields (key, posterior, seconds): float32 C x H x W, as `dense_crf` returns it, and what that
        took.
        """
        for key, kept, (posterior, seconds) in self._map(_timed_posterior, jobs):
            yield key, of_all_classes(posterior, kept), seconds

    def _map(self, work: Callable[[np.ndarray, np.ndarray, CrfParameters], Done],
             jobs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Iterator[tuple[str, np.ndarray, Done]]:
        """Each key, the classes that took part (bool C), and what came of them."""
        pending: deque[tuple[str, np.ndarray, Future[Done]]] = deque()
        for key, image, probabilities in jobs:
            pending.append((key, *self._submit(work, key, image, probabilities)))
            most = max(1, min(self.most_pending, PENDING_BYTES // max(1, probabilities.nbytes)))
            del image, probabilities  # else the last job is held twice while the next one is made
            while pending and (len(pending) >= most or pending[0][2].done()):
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())

    def _submit(self, work: Callable[[np.ndarray, np.ndarray, CrfParameters], Done], key: str, image: np.ndarray,
                probabilities: np.ndarray) -> tuple[np.ndarray, Future[Done]]:
        try:
            check(image, probabilities)
        except ValueError as error:  # told in its turn, after the jobs before it
            wrong: Future[Done] = Future()
            wrong.set_exception(error)
            return np.zeros(0, bool), wrong
        kept, likely = possible_classes(probabilities, self.parameters.least_probability)
        try:
            return kept, self._executor.submit(work, image, likely, self.parameters)
        except BrokenProcessPool as error:
            raise _lost(key) from error


def _spawning(workers: int) -> ProcessPoolExecutor:
    """Spawned processes: forking a process with torch or CUDA threads may hang."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _nothing() -> None:
    """What a process is started with."""


def _labels(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    return mean_field(image, probabilities, parameters).argmax(axis=0).astype(np.uint8)


def _timed_posterior(image: np.ndarray, probabilities: np.ndarray,
                     parameters: CrfParameters) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    return mean_field(image, probabilities, parameters), time.perf_counter() - began


def _result(key: str, kept: np.ndarray, future: Future[Done]) -> tuple[str, np.ndarray, Done]:
    try:
        return key, kept, future.result()
    except BrokenProcessPool as error:
        raise _lost(key) from error
    except Exception as error:
        raise RuntimeError(f"dense CRF of {key}: {error}") from error


def _lost(key: str) -> BrokenProcessPool:
    return BrokenProcessPool(f"dense CRF of {key} or an image close to it: its process was killed")
