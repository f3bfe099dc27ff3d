"""What is kept, and said, when a process that works for a command is killed, as by the kernel when memory runs out."""

import csv
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from crf.dense import CrfParameters
from crf.pool import CrfPool
from deconvnet import labelling
from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import Rows
from deconvnet.support.atomic import temporary_name
from deconvnet.support.errors import LostWorker, UserError
from deconvnet.support.interrupts import Interruptible
from deconvnet.support.workers import WorkerPool
from deconvnet.training import loading
from deconvnet.training import trainer as training_module
from deconvnet.training.loading import load
from deconvnet.training.trainer import Training
from tests.training import test_trainer
from tests.training.test_trainer import make_training, small_recipe

windows = test_trainer.windows
MAIN = os.getpid()


def end_this_process() -> None:
    if os.getpid() != MAIN:
        time.sleep(0.3)  # what was loaded before has been handed over
        os.kill(os.getpid(), signal.SIGKILL)


class Killed(WindowCrops):
    """Its loading process is killed at a position, or at a row."""

    position, row = -1, -1

    def __getitem__(self, item: tuple[int, int]) -> tuple:
        if item[0] == self.position or item[1] == self.row:
            end_this_process()
        return super().__getitem__(item)


def a_training(folder: Path, windows: Rows) -> Training:
    recipe = small_recipe("solver.lr_patience=1")
    return make_training(folder, windows, recipe, 7, batch=4, micro=2, every=3)


@pytest.fixture
def whole(tmp_path: Path, windows: Rows, monkeypatch: pytest.MonkeyPatch) -> Training:
    """An undisturbed training of 7 iterations, with lines of the log at 2, 3, 4, 6, 7."""
    monkeypatch.setattr(training_module, "LOG_EVERY", 2)
    # torch looks every 5 s whether its processes are alive
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    training = a_training(tmp_path / "whole", windows)
    training.folder.mkdir()
    left = training.folder / temporary_name(Path("best.pt"), 999999999)  # by a killed one
    left.touch()
    training.run()
    assert not left.exists()
    return training


def lines(training: Training) -> list[dict[str, str]]:
    """log.csv, but for the time that things took."""
    with (training.folder / "log.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "images_per_second"}
                for row in csv.DictReader(file)]


def goes_on_as(whole: Training, windows: Rows, folder: Path) -> None:
    """Resumed, a broken-off training equals the whole one: weights, statistics, rule, log."""
    second = a_training(folder, windows)
    second.resume()
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert second.best == whole.best and second.sgd.rate == whole.sgd.rate
    assert lines(second) == lines(whole)
    assert [line["iteration"] for line in lines(whole)] == ["2", "3", "4", "6", "7"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["training", "validation"])
def test_a_killed_loading_process_costs_nothing(place: str, whole: Training, windows: Rows, tmp_path: Path) -> None:
    """Neither in the second half of an iteration nor in a validation, which is made up for."""
    broken = a_training(tmp_path / "broken", windows)
    broken.plan.workers = 1
    broken.plan.checkpoint_every = 1000
    lost = Killed(windows, None, broken.recipe, place == "training", (0,))
    if place == "training":
        lost.position = 4 * 4 + 3  # iteration 5, second micro-batch
        broken.examples.training = lost
    else:
        lost.row = 2
        broken.examples.validation = lost
    with pytest.raises(LostWorker, match=r"a loading process was killed \(.*\): most likely the machine ran out .* "
                                         r"\(--set train.workers=N\)"):
        broken.run()
    kept = torch.load(broken.last, weights_only=True)
    assert kept["iteration"] == {"training": 4, "validation": 3}[place]
    assert kept["unvalidated"] == (place == "validation")
    assert not multiprocessing.active_children()
    goes_on_as(whole, windows, tmp_path / "broken")


def test_an_interruption_while_a_validation_starts_its_processes(whole: Training, windows: Rows, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's iterator does not survive it; the iteration is kept."""
    broken = a_training(tmp_path / "broken", windows)
    broken.plan.workers, broken.plan.checkpoint_every = 1, 1000
    start, started = multiprocessing.context.ForkProcess.start, []

    def interrupted(process: multiprocessing.Process) -> None:
        start(process)
        started.append(process)
        if len(started) == 2:  # the first loads the training's examples
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    kept = torch.load(broken.last, weights_only=True)
    assert kept["iteration"] == 3 and not kept["unvalidated"] and not multiprocessing.active_children()
    goes_on_as(whole, windows, tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_log_of_an_interrupted_training_is_the_whole_ones(number: int, whole: Training, windows: Rows,
                                                              tmp_path: Path, monkeypatch) -> None:
    broken = a_training(tmp_path / "broken", windows)
    iterate = broken._iterate

    def interrupted(batches: Iterator) -> tuple[float, float]:
        if broken.iteration == 4:
            signal.raise_signal(number)
            signal.raise_signal(number)
        return iterate(batches)

    monkeypatch.setattr(broken, "_iterate", interrupted)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    finally:
        signal.signal(number, before)
    kept = torch.load(broken.last, weights_only=True)
    assert kept["iteration"] == 5 and len(kept["since"]["losses"]) == 1
    goes_on_as(whole, windows, tmp_path / "broken")


def test_a_checkpoint_from_before_the_sums_were_kept(whole: Training, windows: Rows, tmp_path: Path) -> None:
    content = torch.load(whole.last, weights_only=True)
    del content["since"], content["unvalidated"]
    torch.save(content, whole.last)
    second = a_training(whole.folder, windows)
    second.resume()
    assert second.iteration == 7 and not second.since.losses and not second.unvalidated


class Failing(WindowCrops):
    error: Exception

    def __getitem__(self, item: tuple[int, int]) -> tuple:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("division by zero")])
def test_what_a_loading_process_raises_names_the_window(workers: int, error: Exception, windows: Rows) -> None:
    failing = Failing(windows, None, small_recipe(), True, (0,))
    failing.error = error
    with pytest.raises(UserError) as told:
        list(load(failing, [(0, 3), (1, 4)], 2, workers))
    assert str(told.value).startswith("scene[3,0,39,36]: ") and "\n" not in str(told.value)
    assert ("out of memory" if isinstance(error, MemoryError) else "division by zero") in str(told.value)


def test_windows_of_different_sizes_are_one_line(windows: Rows) -> None:
    class Odd(WindowCrops):
        def __getitem__(self, item: tuple[int, int]) -> tuple:
            picture, labels, row = super().__getitem__(item)
            return picture[:, : 30 - item[0]], labels, row

    with pytest.raises(UserError, match="a batch of 2 examples cannot be put together: .*size"):
        list(load(Odd(windows, None, small_recipe(), True, (0,)), [(0, 3), (1, 4)], 2, 1))


def test_a_killed_process_of_the_crf() -> None:
    """What is finished comes out; the others end too, though no SIGTERM reaches them."""
    image, probabilities = np.zeros((20, 20, 3), np.uint8), np.full((2, 20, 20), 0.5, np.float32)

    def jobs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for number in range(9):
            if number == 5:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(1)  # until it is noticed: the other one would do all the rest by then
            yield str(number), image, probabilities

    found = []
    with (CrfPool(CrfParameters(iterations=1), 2, WorkerPool) as pool,
          pytest.raises(BrokenProcessPool, match="dense CRF of . or an image close to it: its process was killed")):
        for key, _ in pool.map(jobs()):
            found.append(key)
    assert found == ["0", "1", "2", "3", "4"][: len(found)] and found
    assert not multiprocessing.active_children()


def test_infer_tells_of_a_killed_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *given: object) -> None:
            assert given == (CrfParameters(), 3, WorkerPool)

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def map(self, jobs: Iterator) -> Iterator[tuple[str, np.ndarray]]:
            yield "a", np.zeros(1)
            raise BrokenProcessPool("dense CRF of b: its process was killed")

    monkeypatch.setattr(labelling, "CrfPool", Pool)
    monkeypatch.setattr(labelling.Labelling, "write", lambda *_: None)
    segmenter = SimpleNamespace(crf=True, crf_parameters=CrfParameters())
    found = labelling.Labelling(segmenter, None, [], None, False).each([], 3)
    assert next(found) == "a"
    with pytest.raises(LostWorker, match=r"dense CRF of b: its process was killed: most likely the machine ran out"):
        next(found)


def test_an_interruption_waits_until_torchs_iterator_is_whole(windows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half made, it cannot be ended: its destructor fails, and its processes stay."""
    whole = []

    class Interrupted(loading.DataLoader):
        def __iter__(self) -> Iterator:
            signal.raise_signal(signal.SIGINT)
            iterator = super().__iter__()
            whole.append(len(iterator._workers))
            return iterator

    monkeypatch.setattr(loading, "DataLoader", Interrupted)
    with pytest.raises(KeyboardInterrupt), Interruptible():
        list(load(WindowCrops(windows, None, small_recipe(), False, (0,)), [(0, 0)], 1, workers=2))
    assert whole == [2] and not multiprocessing.active_children()
