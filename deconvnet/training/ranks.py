"""One training by several processes, the ranks that torchrun starts: on several GPUs, or hosts with one file system.

Each iteration's micro-batches are divided among the ranks in their order: rank 0 has the first ones. So 8 ranks with
one micro-batch each make the step that one process makes of 8 accumulated ones, up to the rounding of float32:

    gradients           torch's DistributedDataParallel averages them during the last backward pass
    BN in training      by micro-batch, as in one process and in the release; no SyncBatchNorm
    BN's running means  each micro-batch fades the ones before it; put together in the micro-batches' order (Share)
    dropout             each rank draws, and drops, what the others use: the masks are one process's (Share)

Rank 0 alone validates, measures BN statistics and writes; the others wait for it. Without torchrun there is one rank,
and nothing here does anything.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from deconvnet.models.spec import TrainingSpec
from deconvnet.support.errors import UsageError, UserError

PATIENCE = timedelta(days=1)  # torch's 10 or 30 minutes would end a training while rank 0 validates on many windows
Result = TypeVar("Result")


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it, the processes that torchrun started know each other.

    When one fails, the others fail too, in their next exchange or by torchrun; the first one alone tells why. Raises
    UserError where another one is gone. Rank 0 alone logs.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    store, own, size = next(rendezvous("env://", timeout=PATIENCE))
    if own:
        logging.disable(logging.WARNING)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=PATIENCE)
        yield
        dist.destroy_process_group()
    except BaseException as error:
        if not _first_to_tell(store):
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until this process ends, now
        if isinstance(error, RuntimeError) and _is_lost(error):
            raise UserError("another rank has ended: killed, or its host or network failed. All ranks end; the last "
                            "checkpoint is kept: run again with --resume, on as many ranks as you like") from None
        raise


def _first_to_tell(store: Store) -> bool:
    try:
        return store.add("told", 1) == 1
    except RuntimeError:  # torchrun, which keeps the store, has ended
        return True


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()  # gloo raises plain RuntimeErrors


def own_device(name: str) -> str:
    """--device for this rank: of several ranks each has a GPU of its own. Raises UsageError for one GPU for all."""
    if count() == 1 or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        raise UsageError(f"--device {name}: {count()} ranks have a GPU each: expected auto, cuda or cpu")
    if not torch.cuda.is_available():
        return name
    own = int(os.environ["LOCAL_RANK"])
    if own < torch.cuda.device_count():
        torch.cuda.set_device(own)
    return f"cuda:{own}"


def check_share(training: TrainingSpec) -> None:
    """Raises UsageError where an iteration's micro-batches cannot be divided evenly among the ranks."""
    passes = training.batch // training.micro_batch
    if passes % count():
        fit = ", ".join(str(ranks) for ranks in range(1, passes + 1) if passes % ranks == 0)
        raise UsageError(f"{count()} ranks cannot share an iteration's {passes} micro-batches evenly "
                         f"({training.section}.batch {training.batch}, {training.section}.micro_batch "
                         f"{training.micro_batch}): start {fit} of them")


def first(work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0, which alone does it, for all; they wait for it."""
    if count() == 1:
        return work()
    found: list[Any] = [work() if rank() == 0 else None]
    dist.broadcast_object_list(found, 0)
    return found[0]


def in_turn(work: Callable[[], Result]) -> Result:
    """`work` on every rank, on rank 0 before the others: what it writes, hashes of files say, they find done."""
    if rank() == 0:
        found = work()
    first(lambda: None)
    return found if rank() == 0 else work()


def any_of(asked: bool) -> bool:
    """Whether one of the ranks is asked."""
    return summed(asked)[0] > 0


def summed(*numbers: float) -> list[float]:
    """The sums over the ranks."""
    if count() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def gathered(items: list[Any]) -> list[Any]:
    """All ranks' items, rank 0's first."""
    if count() == 1:
        return items
    found: list[list[Any]] = [[] for _ in range(count())]
    dist.all_gather_object(found, items)
    return [item for one in found for item in one]


def own_part(order: Iterator[tuple[int, int]], batch: int) -> Iterator[tuple[int, int]]:
    """Of (position, index) pairs, in iterations of `batch`, this rank's."""
    part = batch // count()
    return ((position, index) for position, index in order if position % batch // part == rank())


class Share:
    """This rank's share of the work on a network."""

    def __init__(self, model: nn.Module, forward: nn.Module, accumulation: int) -> None:
        """forward: the network, or as it was compiled. accumulation: micro-batches of an iteration.

        Weights and the states of torch's random generators become rank 0's; its buffers stay there (see iteration).
        """
        self.passes = accumulation // count()
        self._before, self._after = rank() * self.passes, (count() - 1 - rank()) * self.passes
        self._model, self._drops = model, list[tuple[float, Tensor]]()
        self._norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.network = forward
        if count() > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # 2.15 has a new name for what is here as in 2.9
                self.network = DistributedDataParallel(forward, broadcast_buffers=False, gradient_as_bucket_view=True)
            torch.set_rng_state(first(torch.get_rng_state))
            if next(model.parameters()).is_cuda:
                torch.cuda.set_rng_state(first(torch.cuda.get_rng_state))

    def backward(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a forward and backward pass: in the last one the gradients become the mean of all ranks'."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()

    @contextlib.contextmanager
    def iteration(self, a_pass: Callable[[], Tensor]) -> Iterator[None]:
        """Around this rank's passes of an iteration: random numbers and BN's statistics become one process's.

        a_pass: a forward pass of `model`, by which the shapes of what is dropped are learned.
        """
        if count() == 1:
            yield
            return
        if not self._drops:
            self._find_drops(a_pass)
        self._draw(self._before)
        if rank():
            for norm in self._norms:
                norm.reset_running_stats()
                norm.get_buffer("running_var").zero_()
        yield
        self._draw(self._after)
        self._combine_statistics()

    def _find_drops(self, a_pass: Callable[[], Tensor]) -> None:
        def note(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
            assert isinstance(module, nn.Dropout)
            self._drops.append((module.p, torch.empty_like(inputs[0])))

        layers = [module for module in self._model.modules() if isinstance(module, nn.Dropout)]
        if not layers:
            return
        hooks = [layer.register_forward_hook(note) for layer in layers]
        self._model.eval()  # in which nothing is dropped or drawn
        with torch.no_grad():
            a_pass()
        self._model.train()
        for hook in hooks:
            hook.remove()

    def _draw(self, passes: int) -> None:
        """Draws the dropout masks of other ranks' passes."""
        for _ in range(passes):
            for share, values in self._drops:
                F.dropout(values, share)

    def _combine_statistics(self) -> None:
        """BN's running statistics from all ranks' passes.

        A pass makes (1 - m) r + m b of the running r and its own b. Rank 0 began from r, the others from 0; so what
        each has is to be faded by the passes after its own, (1 - m) each, and added up.
        """
        if not self._norms:
            return
        buffers = []
        for norm in self._norms:
            assert norm.momentum is not None  # None is torch's plain average, which no network here uses
            faded = (1 - norm.momentum) ** self._after
            buffers += [(norm.get_buffer("running_mean"), faded), (norm.get_buffer("running_var"), faded),
                        (norm.get_buffer("num_batches_tracked"), 1.0)]
        sums = torch.cat([values.double().reshape(-1) * faded for values, faded in buffers])
        dist.all_reduce(sums)
        parts = sums.split([values.numel() for values, _ in buffers])
        for (values, _), part in zip(buffers, parts, strict=True):
            values.copy_(part.view_as(values))
