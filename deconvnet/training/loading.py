"""Batches of examples, loaded by worker processes."""

import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from deconvnet.data.examples import Example, ImageCanvases, WindowCrops
from deconvnet.support.errors import LostWorker, UserError, describe
from deconvnet.support.interrupts import StopRequest
from deconvnet.support.workers import worker_context
from deconvnet.training.sampling import Batches

Batch = tuple[Tensor, Tensor, Tensor]  # of examples: pictures, labels, dataset indices


def load(dataset: WindowCrops | ImageCanvases, items: Iterator[tuple[int, int]] | list[tuple[int, int]], size: int,
         workers: int) -> Generator[Batch, None, None]:
    """Batches of pictures (uint8 N x 3 x S x S), labels (uint8 N x S x S) and dataset indices, loaded by worker
    processes.

    The loader draws its workers' seeds from a generator of its own: drawing from the global one would make what
    follows depend on how often loaders were made, and a resumed training would differ. Raises the dataset's UserError;
    LostWorker when a worker was killed, at a moment when the next batch is waited for.
    """
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=Batches(items, size),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context=worker_context() if workers else None,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    with StopRequest():  # torch's iterator does not survive an interruption while it starts its processes
        batches = iter(loader)
    if workers and threading.current_thread() is threading.main_thread():
        # torch's handler raises in the middle of anything, a step of the solver say; waiting for a batch it looks too.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        while (batch := _next(batches)) is not None:
            if isinstance(batch, UserError):
                raise batch
            yield batch[0], batch[1], batch[2]
    finally:
        del batches  # ends the processes now, not when the last traceback is gone


def _next(batches: Iterator[Any]) -> list[Tensor] | UserError | None:
    """The next batch or an error; None at the end."""
    try:
        return next(batches, None)
    except (RuntimeError, EOFError, OSError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise  # CUDA's, of the thread that pins memory
        what = " ".join(str(error).split()) or type(error).__name__
        return LostWorker(f"a loading process was killed ({what})", "--set train.workers")


class _ErrorsAsItems(Dataset[Example | UserError]):
    """Hands errors on as items: what is raised in a loading process, torch turns into a text of tracebacks.

    Any other error (memory, OpenCV's) becomes a UserError that names the window.
    """

    def __init__(self, dataset: WindowCrops | ImageCanvases) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> Example | UserError:
        try:
            return self.dataset[item]
        except UserError as error:
            return error
        except Exception as error:
            return UserError(f"{self.dataset.example_id(item[1])}: {describe(error)}")


def _collate(examples: list[Example | UserError]) -> list[Tensor] | UserError:
    try:
        return next((one for one in examples if isinstance(one, UserError)), None) or default_collate(examples)
    except Exception as error:
        return UserError(f"a batch of {len(examples)} examples cannot be put together: {describe(error)}")


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
