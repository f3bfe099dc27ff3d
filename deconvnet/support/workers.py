"""Processes that work for a command: signals sent to the whole process group are the command's alone to answer."""

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
from deconvnet.support.interrupts import StopRequest, unseen


class _Worker(BaseProcess):
    """Mixed into a Process: Ctrl-C, SIGTERM and SIGHUP do not reach it; it ends with its parent, killed or not."""

    def start(self) -> None:
        with unseen():  # inherited, from before its first instruction on
            super().start()

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        sys.excepthook = _unless_hung_up
        super().run()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def _unless_hung_up(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Python's thread that hands tensors on tells of an interrupted parent, which hung up, with a traceback."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, where)


class _ForkHandle(popen_fork.Popen):
    terminate = popen_fork.Popen.kill  # by which pools and loaders end a process: no SIGTERM reaches it


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
    """How worker processes are started, for whoever takes a multiprocessing context.

    method: 'fork', 'spawn', or None for the platform's default.
    """
    if (method or multiprocessing.get_start_method()) == "fork":
        return _ForkWorkers()
    with unseen():  # Python's process that clears semaphores away would end on SIGHUP
        resource_tracker.ensure_running()
    return _SpawnWorkers()


class WorkerPool(ProcessPoolExecutor):
    """A pool of such processes. (Spawned: a fork of a process in which torch or CUDA has threads may hang.)"""

    def __init__(self, workers: int, **options: Any) -> None:
        super().__init__(workers, mp_context=worker_context("spawn"), **options)

    def submit(self, *job: Any, **options: Any) -> Future[Any]:
        """As it was; an interruption between two lines of it would leave a pool that cannot be shut down."""
        with StopRequest():
            return super().submit(*job, **options)


WORKERS_PER_CORE = 16  # at most; more than one is seldom of use


def default_workers() -> int:
    """One worker a core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def check_workers(count: int, least: int) -> None:
    """Raises UsageError for a number of processes that only costs memory. least: 0 where none means in this process."""
    most = WORKERS_PER_CORE * default_workers()
    if not least <= count <= most:
        own = " (0: in this process)" if least == 0 else ""
        raise UsageError(f"--workers {count}: expected {least}{own} to {most}, {WORKERS_PER_CORE} a core")
