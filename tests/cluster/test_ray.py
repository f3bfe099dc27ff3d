"""The commands on a real Ray cluster of three machines, all of them on this one: `pytest -m long tests/cluster`.

Every result is compared with that of the same command without a cluster; workers are killed, a machine is lost, and
commands are interrupted in their middle.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from deconvnet.data.synthetic import generate
from deconvnet.support.errors import LostWorker
from deconvnet.support.ray_engine import TRIES, connected
from tests.stages.test_build_proposals import FILES, SETTINGS, contents
from tests.stages.test_infer_command import networks, run_folder  # noqa: F401 (a fixture)

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = 24
CRF = ("--set", "crf.iterations=30")  # some tenths of a second an image, so that there is a middle
MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else they hardly run beside other tests
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # tests beside it may fill the memory
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=MACHINE)
        for _ in range(2):
            cluster.add_node(**MACHINE)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "voc", train=4, val=12, seed=0, side=128)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures, and one file that is none."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        small = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        small.resize((150, 120), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    (folder / "none.jpg").write_bytes(b"no photograph")
    return folder


def started(module: str, *arguments: object, cwd: Path | None = None) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], cwd=cwd or ROOT, text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(module: str, *arguments: object, cwd: Path | None = None) -> str:
    """What a command printed that succeeded."""
    process = started(module, *arguments, cwd=cwd)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def by(cluster: Any) -> tuple[str, ...]:
    """The options for a cluster."""
    return "--engine", "ray", "--address", cluster.address


def until(there: Callable[[], Any], process: subprocess.Popen) -> None:
    """Waits for something that a command is to bring about."""
    while not there():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def workers(cluster: Any) -> list[psutil.Process]:
    """The processes at work in the cluster, not those of another one on this machine."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    found = [one for raylet in raylets for one in psutil.Process(raylet).children(recursive=True)]
    return [one for one in found if one.is_running() and one.name().startswith("ray::Worker")]


def files(folder: Path) -> dict[str, bytes]:
    """The results of a folder, without half-written files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("[!.]*"))
            if path.suffix in (".png", ".jpg", ".npz", ".h5")}


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """By which a file that was written once more is told."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("[!.]*.png")}


def test_photographs_while_a_worker_is_killed_and_a_machine_lost(
        cluster: Any, voc: Path, photographs: Path, networks: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = run_folder(tmp_path / "run", voc, networks)
    wanted = ("--run", folder, "--ensemble", "fcn", "--crf", *CRF, "--images", photographs, "--on-error", "skip",
              "--overlay", "--probabilities", "--device", "cpu")
    run("stages.infer", *wanted, "--out", tmp_path / "local", "--workers", 1)
    (tmp_path / "here").mkdir()  # paths are those of the command's folder: out is a relative one
    process = started("stages.infer", *wanted, "--out", "out", *by(cluster), cwd=tmp_path / "here")
    done = tmp_path / "here/out/deconvnet-max-fcn-crf"
    until(lambda: len(written(done)) >= 2, process)
    workers(cluster)[0].send_signal(signal.SIGKILL)
    before = len(written(done))
    until(lambda: len(written(done)) >= before + 2, process)
    assert len(written(done)) < PHOTOGRAPHS, "too fast: nothing was left when the machine was lost"
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert len(written(done)) < PHOTOGRAPHS, "too fast: nothing was left when the machine was lost"
    said = process.communicate()[0]
    cluster.add_node(**MACHINE)
    assert process.returncode == 0 and said.count("its worker was lost; another one takes it") >= 2, said
    assert "1 of 25 images were left out" in said
    local = tmp_path / "local/deconvnet-max-fcn-crf"
    assert files(done) == files(local) and len(written(done)) == PHOTOGRAPHS and not list(done.rglob(".*.part*"))
    records = [json.loads((place / "labels.json").read_text()) for place in (done, local)]
    for record in records:
        for one in record["images"].values():
            one.pop("seconds")
        assert len(record["images"]) == PHOTOGRAPHS and list(record["left_out"]) == [str(photographs / "none.jpg")]
    assert records[0] == records[1]


def test_an_interrupted_command_goes_on_and_makes_no_image_twice(
        cluster: Any, voc: Path, photographs: Path, networks: Path, tmp_path: Path) -> None:  # noqa: F811
    """Neither one that was finished before, nor one that was at work; labels.json, the own record, is true."""
    folder = run_folder(tmp_path / "run", voc, networks)
    wanted = ("--run", folder, "--model", "fcn8s", "--crf", *CRF, "--images", photographs, "--on-error", "skip",
              *by(cluster), "--out", tmp_path / "out", "--device", "cpu")
    done = tmp_path / "out/fcn8s-crf"
    process = started("stages.infer", *wanted)
    until(lambda: len(written(done)) >= 3, process)
    process.terminate()
    said = process.communicate()[0]
    assert process.returncode == 130 and "what is at work is finished first" in said, said
    assert "Traceback" not in said and said.count("interrupted; ") == 1
    first = written(done)
    assert 3 <= len(first) < PHOTOGRAPHS
    until_gone = time.monotonic() + 20
    while workers(cluster) and time.monotonic() < until_gone:
        time.sleep(0.1)
    assert not workers(cluster) and written(done) == first
    assert len(json.loads((done / "labels.json").read_text())["images"]) == len(first)
    said = run("stages.infer", *wanted)
    assert f"{len(first)} of 25 label maps are there already" in said
    now = written(done)
    assert len(now) == PHOTOGRAPHS and {name: now[name] for name in first} == first


def test_a_split_with_its_proposals_and_scores_is_labelled_as_without_a_cluster(
        cluster: Any, voc: Path, networks: Path, tmp_path: Path) -> None:  # noqa: F811
    """Proposals and windows, label and score maps, and their evaluation."""
    for name in ("local", "ray"):
        run_folder(tmp_path / name, voc, networks)
    results = {}
    for name, engine in (("local", ("--workers", 1)), ("ray", by(cluster))):
        build = ("stages.build_proposals", "--run", tmp_path / name, "--voc-root", voc, *engine)
        label = ("stages.infer", "--run", tmp_path / name, "--ensemble", "fcn", "--crf", "--device", "cpu", *engine)
        run(*build, "--materialize")
        run(*label, "--overlay")
        run("stages.evaluate", "--run", tmp_path / name, *(engine if name == "ray" else ()))
        results[name] = tmp_path / name / "predictions/val/deconvnet-max-fcn-crf"
    for name in FILES:
        assert contents(tmp_path / "ray" / name) == contents(tmp_path / "local" / name), name
    assert files(results["ray"]) == files(results["local"]) and len(written(results["ray"])) == 12
    scores = [{path.parent.name + path.name: contents(path) for path in (tmp_path / name / "scores").rglob("*.h5")}
              for name in ("ray", "local")]
    assert scores[0] == scores[1] and len(scores[0]) == 24
    for name in ("metrics.json", "images.json", "images.csv"):
        assert (results["ray"] / name).read_bytes() == (results["local"] / name).read_bytes()
    assert not list(tmp_path.rglob("*.part*"))


def test_an_interrupted_build_goes_on(cluster: Any, voc: Path, tmp_path: Path) -> None:
    """With an image that cannot be used."""
    mine = tmp_path / "voc"
    shutil.copytree(voc, mine)
    first, *_ = sorted((mine / "JPEGImages").glob("*"))
    first.write_bytes(first.read_bytes()[:300])
    wanted = ("--recipe", "tiny", *SETTINGS[2:], "--voc-root", mine, "--on-error", "skip")
    run("stages.build_proposals", "--run", tmp_path / "local", *wanted, "--workers", 0)
    ray = ("stages.build_proposals", "--run", tmp_path / "ray", *wanted, *by(cluster))
    process = started(*ray)
    until(lambda: [*(tmp_path / "ray").rglob("*.parts/[!.]*.npz")], process)
    process.terminate()
    said = process.communicate()[0]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert f"skipped: {first}" in run(*ray) + said
    for name in FILES:
        assert contents(tmp_path / "ray" / name) == contents(tmp_path / "local" / name), name
    assert not list((tmp_path / "ray").rglob("*.part*"))


class Kills:
    """Ends its own process at one item, as memory that runs out would."""

    def open(self) -> None:
        """Nothing to open."""

    def __call__(self, item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return -item


def test_an_image_that_ends_every_worker_is_named(cluster: Any) -> None:
    with (pytest.raises(LostWorker, match=f"^3: its worker was lost {TRIES} times"),
          connected(cluster.address, 1) as engine):
        for item, result in engine.map(Kills(), range(100)):
            assert result == -item


class TellsItsGpu:
    """The GPU that Ray gave to the worker, and the worker's process."""

    def open(self) -> None:
        """Nothing to open."""

    def __call__(self, item: int) -> tuple[str, int]:
        time.sleep(0.3)
        return os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def test_workers_share_gpus(cluster: Any) -> None:
    """By what Ray counts, in ten-thousandths, of which a sixth is no whole number: this machine has none."""
    node = cluster.add_node(**MACHINE | {"num_cpus": 6, "num_gpus": 1})
    with connected(cluster.address, None, "auto", 6) as engine:
        assert engine.workers == 6
        found = [result for _, result in engine.map(TellsItsGpu(), range(40))]
    assert len({process for _, process in found}) == 6 and len({gpu for gpu, _ in found}) == 1
    cluster.remove_node(node)
    with connected(cluster.address, None, "auto") as engine:
        assert engine.gpus == 0
