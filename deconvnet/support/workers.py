"""Worker processes of a command: only the command handles signals sent to the whole process group."""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import popen_fork, popen_spawn_posix, resource_tracker
from multiprocessing.context import BaseContext, ForkContext, ForkProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from deconvnet.support.errors import UsageError
from deconvnet.support.freed_memory import keep_freed_memory
from deconvnet.support.interrupts import StopRequest, unseen

KEPT = 1 << 29  # bytes: more than an image of VOC's size takes; what a large one took is given back


class _Worker(BaseProcess):
    """Mixin for a Process: Ctrl-C, SIGTERM and SIGHUP do not reach it; it ends with its parent, even if that is killed.
    It keeps KEPT of the memory that it frees, for its next image.
    """

    def start(self) -> None:
        with unseen():  # inherited, so in effect before its first instruction
            super().start()

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        sys.excepthook = _unless_hung_up
        keep_freed_memory(KEPT)
        super().run()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def _unless_hung_up(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Hides the traceback of Python's thread that passes tensors on when an interrupted parent closed the connection.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, where)


class _ForkHandle(popen_fork.Popen):
    terminate = popen_fork.Popen.kill  # pools and loaders end processes by it: SIGTERM does not reach them


class _SpawnHandle(popen_spawn_posix.Popen):
    terminate = popen_spawn_posix.Popen.kill


class _ForkWorker(_Worker, ForkProcess):
    _Popen = staticmethod(_ForkHandle)


class _SpawnWorker(_Worker, SpawnProcess):
    _Popen = staticmethod(_SpawnHandle)


class _ForkWorkers(ForkContext):
    Process = _ForkWorker


class _SpawnWorkers(SpawnContext):
    Process = _SpawnWorker


def worker_context(method: str | None = None) -> BaseContext:
    """How worker processes are started, as a multiprocessing context.

    method: 'fork', 'spawn', or None for the platform's default.
    """
    if (method or multiprocessing.get_start_method()) == "fork":
        return _ForkWorkers()
    with unseen():  # Python's process that cleans up semaphores would end on SIGHUP
        resource_tracker.ensure_running()
    return _SpawnWorkers()


class WorkerPool(ProcessPoolExecutor):
    """A pool of such processes. (Spawned: forking a process with torch or CUDA threads may hang.)"""

    def __init__(self, workers: int, **options: Any) -> None:
        super().__init__(workers, mp_context=worker_context("spawn"), **options)

    def submit(self, *job: Any, **options: Any) -> Future[Any]:
        """As in the base class; an interruption in the middle of it would leave a pool that cannot be shut down."""
        with StopRequest():
            return super().submit(*job, **options)


WORKERS_PER_CORE = 16  # at most; more than one is seldom useful


def default_workers() -> int:
    """One worker per core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def check_workers(count: int, least: int) -> None:
    """Raises UsageError for a number of processes that would only cost memory. least: 0 if none means in this process.
    """
    most = WORKERS_PER_CORE * default_workers()
    if not least <= count <= most:
        own = " (0: in this process)" if least == 0 else ""
        raise UsageError(f"--workers {count}: expected {least}{own} to {most}, {WORKERS_PER_CORE} per core")
