"""Work on many images by the machines of a Ray cluster: each worker is an actor that opens the work once.

Actors of our own, not Ray Data or Ray's ActorPool: an image that cannot be used is told by itself; what a lost worker
had in hand goes to another at once, where an actor that Ray restarts might wait forever for room on fewer machines; and
Ray's core alone is installed. The command's working folder, and what it names, is on a file system that all machines
share.
"""

import itertools
import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deconvnet.support.engines import Done, Item, Work
from deconvnet.support.errors import LostWorker, UsageError, UserError
from deconvnet.support.installation import installation
from deconvnet.support.interrupts import SIGNALS, StopRequest
from deconvnet.support.ray_worker import Worker, installed_otherwise

log = logging.getLogger(__name__)

# ray is imported where it is used: --help and the local engine need none.

PENDING = 2  # items in each worker's hands: one at work, one waiting
TRIES = 4  # of an item whose workers are lost, and of a worker that is lost while it starts
SHARES = 10_000  # of a GPU: Ray counts no smaller ones; rounded up, six sixths might not fit
PATIENCE = 60.0  # seconds without a worker, after which that is said


@contextmanager
def connected(address: str | None, workers: int | None, device: str = "cpu",
              per_gpu: int = 1) -> Iterator["RayEngine"]:
    """The engine of a cluster, until the end of the block.

    address: of the head node, HOST:PORT; None: $RAY_ADDRESS, a cluster that runs on this machine, else one of this
    machine alone, started here. workers: how many; None: one a core or, with GPUs, per_gpu a GPU. device: 'cpu',
    'cuda', or 'auto' for GPUs where the cluster has some. Raises UsageError where Ray is not installed or a value is
    none, UserError where no cluster answers.
    """
    if workers is not None and workers < 1 or per_gpu < 1:
        raise UsageError(f"--workers {workers}, --workers-per-gpu {per_gpu}: expected 1 or more with --engine ray")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: with --engine ray expected auto, cpu or cuda: Ray itself gives each "
                         "worker its GPU")
    ray = _imported()
    _check_answers(address or os.environ.get("RAY_ADDRESS"))
    with _handlers_kept():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody of it
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of many kinds, by what is wrong: another version of Ray or Python, no token, ...
            told = " ".join(str(error).split())[:300]
            raise UserError(f"{address or 'Ray'}: no way into the cluster: {told}") from None
    try:
        has = ray.cluster_resources()
        gpus = (SHARES // per_gpu) / SHARES if device == "cuda" or (device == "auto" and has.get("GPU", 0)) else 0
        count = workers or max(1, int(has.get("GPU", 0) * per_gpu if gpus else has.get("CPU", 1)))
        log.info("Ray: %d machines, %d workers of a core%s", sum(node["Alive"] for node in ray.nodes()), count,
                 f" and {gpus:.2g} GPUs" if gpus else "")
        yield RayEngine(count, gpus)
    finally:
        ray.shutdown()


def _imported() -> Any:
    with _handlers_kept():
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray needs Ray, which is not installed: pip install '.[cluster]'") from None
    return ray


def _check_answers(address: str | None) -> None:
    """Raises UserError where nobody answers: Ray itself tries for minutes."""
    if address in (None, "", "auto", "local"):
        return
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"--address {address}: expected HOST:PORT of a cluster's head node, on one of whose machines "
                         "this command runs")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error}): `ray start --head --port 6379` "
                        "starts one") from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the command with whatever was at work."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class RayEngine:
    """Actors of a cluster that is connected. gpus: of each worker, a fraction where several share one."""

    workers: int
    gpus: float

    def map(self, work: Work[Item, Done], items: Iterable[Item]) -> Iterator[tuple[Item, Done | UserError]]:
        """See Engine. What a lost worker had in hand goes to others; an interruption ends it after what is at work."""
        queue = _Queue(items)
        if not queue:
            return
        with StopRequest("interrupted: what is at work is finished first (Ctrl-C once more ends at once)") as stop:
            actors = _Actors(work, self.workers, self.gpus)
            try:
                while True:
                    while not stop.asked and queue and (free := actors.free()) is not None:
                        actors.give(free, queue.take())
                    if not actors.running and (stop.asked or not queue):
                        return
                    for pending, result in actors.finished():
                        if isinstance(result, Lost):
                            queue.put_back(pending)
                        else:
                            yield pending.item, result
            finally:
                actors.end()


@dataclass
class _Pending:
    """An item, and how many of its workers were lost."""

    item: Any
    losses: int = 0


@dataclass(frozen=True)
class Lost:
    """In place of a result. why: what Ray tells of it."""

    why: str


class _Queue:
    """The items that no worker has in hand."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._next = deque[_Pending]()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(_Pending(item) for item in itertools.islice(self._items, 1))
        return bool(self._next)

    def take(self) -> _Pending:
        """The next one; there is one."""
        return self._next.popleft()

    def put_back(self, pending: _Pending) -> None:
        """One whose worker was lost comes next. Raises LostWorker when that has happened too often."""
        pending.losses += 1
        if pending.losses == TRIES:
            raise LostWorker(f"{pending.item}: its worker was lost {TRIES} times", "--workers")
        log.warning("%s: its worker was lost; another one takes it", pending.item)
        self._next.appendleft(pending)


class _Actors:
    """The workers, by number: which are open, and what they have in hand. Another one takes a lost one's place."""

    def __init__(self, work: Work[Any, Any], count: int, gpus: float) -> None:
        import ray

        self.ray = ray
        # Without a list of all that was ever done, which Ray's own process would keep for a dashboard.
        self.kind = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, enable_task_events=False)
        self.work = ray.put(work)
        self.actors: dict[int, Any] = {}
        self.opening: dict[Any, tuple[int, int]] = {}  # what is awaited: the worker, and how many it follows
        self.ready: set[int] = set()
        self.running: dict[Any, tuple[int, _Pending]] = {}
        self._heard, self._numbers = time.monotonic(), itertools.count()
        for _ in range(count):
            self._start(losses=0)

    def _start(self, losses: int) -> None:
        """Asks for a worker, wherever there is room, and for its work to be opened there."""
        number = next(self._numbers)
        self.actors[number] = self.kind.remote()
        self.opening[self.actors[number].open.remote(self.work, os.getcwd(), installation())] = number, losses

    def _replace(self, number: int, losses: int) -> None:
        self.ray.kill(self.actors.pop(number))  # it may live, on a machine that cannot be reached
        self._start(losses)

    def free(self) -> int | None:
        """A worker that can take an item, one with nothing in hand first; None if there is none."""
        held = Counter(number for number, _ in self.running.values())
        least = min(self.ready, key=lambda number: held[number], default=None)
        return None if least is None or held[least] == PENDING else least

    def give(self, number: int, pending: _Pending) -> None:
        """Gives a worker an item."""
        self.running[self.actors[number].run.remote(pending.item)] = number, pending

    def finished(self) -> Iterator[tuple[_Pending, Any]]:
        """What has come back within a second: items with their results or errors, or Lost."""
        done, _ = self.ray.wait([*self.running, *self.opening], timeout=1.0)
        if done or self.ready:
            self._heard = time.monotonic()
        elif time.monotonic() > self._heard + PATIENCE:
            log.warning("no worker has started: are %d cores (and GPUs, with --device cuda) free in the cluster?",
                        len(self.actors))
            self._heard = time.monotonic()
        for ref in done:
            if ref in self.opening:
                self._opened(ref)
            else:
                number, pending = self.running.pop(ref)
                yield pending, self._result(ref, number)

    def _opened(self, ref: Any) -> None:
        number, losses = self.opening.pop(ref)
        error = self._answer(ref)
        if isinstance(error, Lost) and losses + 1 == TRIES:
            raise LostWorker(f"a worker was lost {TRIES} times while it started ({error.why})", "--workers")
        if isinstance(error, Lost):
            self._replace(number, losses + 1)
        elif error:
            raise error
        else:
            self.ready.add(number)

    def _result(self, ref: Any, number: int) -> Any:
        answer = self._answer(ref)
        if isinstance(answer, Lost):
            if number in self.ready:
                self.ready.remove(number)
                self._replace(number, losses=0)
            return answer
        result, told = answer
        for line in told:
            log.warning("%s", line)
        return result

    def _answer(self, ref: Any) -> Any:
        """What a worker answered; Lost for its process, its machine, or what it left in that machine's memory.

        Raises UserError where the worker, or what it is sent, cannot be imported there.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as failure:
            if isinstance(failure.cause, errors.RaySystemError):  # what it was sent
                raise installed_otherwise(_last_line(failure.cause)) from None
            raise failure.cause from failure  # a fault of the program
        except errors.RayError as failure:
            if getattr(failure, "actor_init_failed", False):  # Worker itself, whose making does nothing
                raise installed_otherwise(_last_line(failure)) from None
            return Lost(" ".join(str(failure).split())[:300])

    def end(self) -> None:
        """Ends the workers at once, unless Ray ended them with the connection: it would begin a cluster for that."""
        if not self.ray.is_initialized():
            return
        for actor in self.actors.values():
            self.ray.kill(actor)


def _last_line(error: Exception) -> str:
    """Of the traceback that Ray's errors hold as text: the error itself."""
    return str(error).strip().splitlines()[-1]
