"""Where work on many images is done: in processes of this machine, or on a Ray cluster (ray_engine.py).

The work itself is the same object on every engine.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2

from deconvnet.support.errors import LostWorker, UserError, describe
from deconvnet.support.workers import WorkerPool

PER_WORKER = 4  # items pending in a local pool, for each of its processes

Item = TypeVar("Item")
Done = TypeVar("Done")
Given = TypeVar("Given", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Work(Protocol[Given, Made]):
    """What is done with each of many images; picklable, with its choices and files, not with what it opened."""

    def open(self) -> None:
        """Called in each worker process before its first item; what it raises is no item's fault."""
        return

    def __call__(self, item: Given, /) -> Made:
        """An item's result, small: files are written here, whole or not at all. Raises UserError for an item that
        cannot be used.
        """


class Engine(Protocol):
    """Does work on many items."""

    def map(self, work: Work[Item, Done], items: Iterable[Item]) -> Iterator[tuple[Item, Done | UserError]]:
        """Each item with its result, or with the error for which it cannot be used, as they are finished.

        Items are drawn as workers are free for them: a few per worker are pending. Raises LostWorker where a worker was
        killed and nobody can take its place; what is a fault of the program, as it is.
        """


def attempt(work: Work[Item, Done], item: Item) -> Done | UserError:
    """An item's result, or the error for which it cannot be used."""
    try:
        return work(item)
    except UserError as error:
        return error
    except (MemoryError, cv2.error) as error:
        return UserError(describe(error))


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine. workers: 0 for none but this one."""

    workers: int

    def map(self, work: Work[Item, Done], items: Iterable[Item]) -> Iterator[tuple[Item, Done | UserError]]:
        """See Engine. Raises LostWorker for any process that is killed."""
        if self.workers == 0:
            for item in items:
                yield item, attempt(work, item)
            return
        pool = WorkerPool(self.workers, initializer=_start_worker, initargs=(work,))
        try:
            waiting, running = iter(items), dict[Future[Done | UserError], Item]()
            while True:
                while len(running) < PER_WORKER * self.workers and (following := next(waiting, None)) is not None:
                    running[pool.submit(_attempt_here, following)] = following
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise LostWorker("a process that worked on images was killed", "--workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


_work_here: Work[Any, Any]  # a worker's own


def _start_worker(work: Work[Any, Any]) -> None:
    """Gives a process its work once: it may hold a split's proposals or an edge model, too much to send each time."""
    global _work_here
    _work_here = work
    cv2.setNumThreads(1)
    work.open()


def _attempt_here(item: Any) -> Any:
    return attempt(_work_here, item)
