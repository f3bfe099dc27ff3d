"""What a worker, the queue and the connection of the Ray engine do by themselves; no cluster is started."""

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from deconvnet.support.engines import Engine, LocalEngine, attempt
from deconvnet.support.errors import LostWorker, UsageError, UserError
from deconvnet.support.installation import OURS, ROOT, code_hash, difference, installation
from deconvnet.support.ray_engine import TRIES, Lost, _Actors, _Queue, connected
from deconvnet.support.ray_worker import Worker
from stages import build_proposals, evaluate, infer
from stages.cli import run_command


class Doubles:
    """Doubles numbers; cannot use negative ones; warns of zero."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.opened = wrong, 0

    def open(self) -> None:
        if self.wrong:
            raise UserError(self.wrong)
        self.opened += 1

    def __call__(self, item: int) -> int:
        if item < 0:
            raise UserError(f"{item}: negative")
        if item == 0:
            import logging

            logging.getLogger("work").warning("nothing to double")
        return 2 * item


@pytest.fixture
def here():
    """Workers change the working folder of their process, and hear its warnings."""
    import logging

    folder, handlers = os.getcwd(), logging.getLogger().handlers[:]
    yield
    os.chdir(folder)
    logging.getLogger().handlers[:] = handlers


def test_a_worker_does_its_work_where_the_command_was_called(here: None, tmp_path: Path) -> None:
    worker, work = Worker(), Doubles()
    assert worker.open(work, str(tmp_path), installation()) is None and work.opened == 1 and Path.cwd() == tmp_path
    assert worker.run(3) == (6, []) and worker.run(0) == (0, ["nothing to double"]) and worker.run(4) == (8, [])
    result, _ = worker.run(-1)
    assert isinstance(result, UserError) and str(result) == "-1: negative"


def test_what_cannot_be_opened_is_told(here: None, tmp_path: Path) -> None:
    worker = Worker()
    gone = worker.open(Doubles(), str(tmp_path / "gone"), installation())
    assert isinstance(gone, UserError) and "gone: not there on the cluster's machine" in str(gone)
    wrong = worker.open(Doubles("no network of this recipe"), str(tmp_path), installation())
    assert isinstance(wrong, UserError) and str(wrong) == "no network of this recipe"


def test_items_of_lost_workers_come_first_but_not_forever() -> None:
    drawn = []
    queue = _Queue(drawn.append(number) or number for number in range(4))
    assert queue and drawn == [0]  # no more than needed is drawn: there may be millions
    lost, second = queue.take(), queue.take() if queue else None
    queue.put_back(lost)
    assert queue.take() is lost and drawn == [0, 1]
    for _ in range(TRIES - 2):
        queue.put_back(lost)
        assert queue.take() is lost
    with pytest.raises(LostWorker, match=f"^0: its worker was lost {TRIES} times: most likely the machine ran out of"):
        queue.put_back(lost)
    assert queue and drawn == [0, 1, 2]  # the next one is at hand, and waits for the one that was lost
    queue.put_back(second)
    assert [queue.take().item for _ in range(3) if queue] == [1, 2, 3] and not queue


def test_a_worker_of_another_installation_is_refused(here: None, tmp_path: Path) -> None:
    work = Doubles()
    refused = Worker().open(work, str(tmp_path), installation() | {"numpy": "0.1", "caffe": "1.0"})
    assert isinstance(refused, UserError) and work.opened == 0
    assert f"has numpy {np.__version__}, not 0.1, caffe missing, not 1.0): install this project" in str(refused)
    assert difference(installation(), installation()) == ""


def test_code_is_told_apart_by_its_content_wherever_it_is_installed(tmp_path: Path) -> None:
    for name in OURS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_hash(tmp_path) == installation()["this project's code"]
    with (tmp_path / "crf/dense.py").open("a") as file:
        file.write("#")
    assert code_hash(tmp_path) != code_hash(ROOT)


def answer(error: Exception) -> object:
    """What _Actors makes of an error that Ray raises for what was awaited."""
    ray = pytest.importorskip("ray")

    class Raises:
        exceptions = ray.exceptions

        def get(self, _: object) -> None:
            raise error

    actors = _Actors.__new__(_Actors)
    actors.ray = Raises()
    return actors._answer("awaited")


def test_an_installation_that_lacks_the_project_is_no_lack_of_memory() -> None:
    """Texts as Ray 2.60 gives them: where the worker's class, and where the work cannot be imported."""
    exceptions = pytest.importorskip("ray.exceptions")
    told = r"\(ModuleNotFoundError: No module named 'deconvnet'\): install this project on every machine in the same"
    died = exceptions.RayActorError("a", "The actor died because of an error raised in its creation task, ...\n\n"
                                    "ModuleNotFoundError: No module named 'deconvnet'", actor_init_failed=True)
    unread = exceptions.RaySystemError("System error: No module named 'deconvnet'",
                                       "Traceback ...\nModuleNotFoundError: No module named 'deconvnet'\n")
    for error in (died, exceptions.RayTaskError("open", "Traceback", unread, "worker", 1, "127.0.0.1")):
        with pytest.raises(UserError, match=told):
            answer(error)
    assert answer(exceptions.RayActorError("a", "The actor died\n\tat once")) == Lost("The actor died at once")
    with pytest.raises(ZeroDivisionError):
        answer(exceptions.RayTaskError("run", "Traceback", ZeroDivisionError(), "worker", 1, "127.0.0.1"))


class FakeRay:
    """What _Actors.end asks of Ray."""

    def __init__(self, connected: bool) -> None:
        self.connected, self.killed = connected, list[str]()

    def is_initialized(self) -> bool:
        return self.connected

    def kill(self, actor: str) -> None:
        self.killed.append(actor)


@pytest.mark.parametrize("is_connected, killed", [(True, ["a", "b"]), (False, [])])
def test_workers_are_ended_while_there_is_a_connection(is_connected: bool, killed: list[str]) -> None:
    """ray.kill without one would begin a cluster on this machine."""
    actors = _Actors.__new__(_Actors)
    actors.ray, actors.actors = FakeRay(is_connected), {0: "a", 3: "b"}
    actors.end()
    assert actors.ray.killed == killed


@pytest.mark.parametrize("workers", [0, 2])
def test_the_local_engine_returns_errors_beside_results(workers: int) -> None:
    engine: Engine = LocalEngine(workers)
    found = dict(engine.map(Doubles(), [1, -2, 3]))
    assert found[1] == 2 and found[3] == 6 and isinstance(found[-2], UserError)
    assert attempt(Doubles(), 4) == 8


def status(module, *arguments: object) -> int:
    return run_command(module.parse(), module.main, [*map(str, arguments)])


@pytest.mark.parametrize("module", [build_proposals, evaluate, infer])
def test_each_command_takes_the_engine(module) -> None:
    options = module.parse().parse_args(["--engine", "ray", "--address", "head:6379"])
    assert (options.engine, options.address) == ("ray", "head:6379")
    assert module.parse().parse_args([]).engine == "local"


@pytest.fixture
def labelled(tmp_path: Path) -> list[object]:
    """What stages.evaluate needs to get as far as its engine: a split of one image, and its label map."""
    from PIL import Image

    from deconvnet.data.palette import write_label_png

    voc, labels = tmp_path / "voc", np.array([[0, 1], [1, 1]], np.uint8)
    for name in ("JPEGImages", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("a\n")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(voc / "JPEGImages/a.png")
    for folder in (voc / "SegmentationClass", tmp_path / "predicted"):
        write_label_png(folder / "a.png", labels)
    return ["--voc-root", voc, "--predictions", tmp_path / "predicted", "--split", "val"]


RAY = ("--engine", "ray")


def refused(capsys: pytest.CaptureFixture, expected: int, words: str, *arguments: object) -> None:
    assert status(evaluate, *arguments) == expected
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] and words in lines[-1], lines


def test_what_is_wrong_is_one_line(labelled: list[object], capsys: pytest.CaptureFixture,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        told = f"--address {nobody}: no Ray cluster answers there"
        refused(capsys, 1, told, *labelled, *RAY, "--address", nobody)
        monkeypatch.setenv("RAY_ADDRESS", nobody)
        refused(capsys, 1, told, *labelled, *RAY)
    for address in ("head", "ray://head:10001", ":1", "head:port"):
        refused(capsys, 2, f"--address {address}: expected HOST:PORT", *labelled, *RAY, "--address", address)
    refused(capsys, 2, "--address is for --engine ray alone", *labelled, "--address", "head:6379")


def test_without_ray_the_extra_is_named(labelled: list[object], capsys: pytest.CaptureFixture,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(capsys, 2, "--engine ray needs Ray, which is not installed: pip install '.[cluster]'", *labelled, *RAY)


@pytest.mark.parametrize("given, words", [
    (dict(workers=0), "--workers 0"), (dict(per_gpu=0), "--workers-per-gpu 0"),
    (dict(device="cuda:1"), "--device cuda:1"), (dict(device="mps"), "auto, cpu"),
])
def test_values_that_are_none(given: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words), connected(None, **{"workers": None, **given}):
        pass


def test_workers_per_gpu_is_for_ray_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert status(infer, "--run", tmp_path, "--workers-per-gpu", 2) == 2
    assert "--workers-per-gpu is for --engine ray alone" in capsys.readouterr().err
