"""experiments.bench: ratios, memory and floor against known ones; the guard; every entry runs, and agrees."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from deconvnet.support.errors import UserError
from experiments import bench
from experiments.benchmarks import BENCHMARKS, guard, load, measuring
from experiments.benchmarks import floor as floors
from experiments.benchmarks.base import Settings, Work
from experiments.benchmarks.measuring import Measured
from stages.cli import run_command
from tests import timed_work


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """timed_work sets it in this process too."""
    monkeypatch.setattr("torch.utils.benchmark.utils.timer.timer", time.perf_counter)


@pytest.mark.slow
def test_ratios_are_those_of_calls_of_known_length_and_memory_that_of_the_call() -> None:
    plain, quick, slow = measuring.measure(timed_work.benchmark, 3)
    assert plain.ratios == 6 * [1] and len(quick.ratios) == 3
    assert quick.ratio == pytest.approx(3) and slow.ratio == pytest.approx(0.5)
    assert plain.rate == pytest.approx(2 / 0.06)
    assert quick.agreement == {"largest difference": pytest.approx(0.04)}
    if Path("/proc/self/clear_refs").exists():
        assert quick.memory == pytest.approx(timed_work.MEGABYTES * 2**20, rel=0.1)


@pytest.mark.slow
def test_a_way_that_fails_is_named() -> None:
    with pytest.raises(UserError, match="wrong: ValueError: back in time"):
        measuring.measure(timed_work.broken, 1)


def test_statistics() -> None:
    one = Measured("one", "fp32", 12, seconds=[1.0, 4.0, 2.0], ratios=[1.0, 2.0, 5.0])
    assert (one.rate, one.ratio) == (6, 2)
    assert measuring.spread([0, 1, 2, 3, 4]) == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_memory_is_that_of_the_processes_it_starts_too() -> None:
    """A pool's, say; and theirs."""
    started = []

    def call() -> None:
        script = "import sys; held = b'x' * (64 << 20); print(flush=True); sys.stdin.read()"
        started.append(subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        started[0].stdout.readline()

    try:
        _, found = measuring._first(call)
    finally:
        started[0].communicate()
    assert 64 << 20 < found < 100 << 20


def test_the_command_measures_the_same_and_names_no_place_of_its_record() -> None:
    words = ["--only", "crf,image", "--repeats", "2", "--voc-root", "voc", "--quick"]
    told = bench.command(bench.parse().parse_args([*words, "--json", "/tmp/one/bench.json", "--guard"]))
    assert told.split() == ["python", "-m", "experiments.bench", *words]
    assert bench.command(bench.parse().parse_args(["--device", "cuda"])).split()[3:] == [
        "--repeats", "5", "--device", "cuda"]


def test_the_floor_of_scoring_reads_weights_once_for_all_windows() -> None:
    """Of 8 windows of 64 x 64, an eighth of the width: conv1_1 (3 to 8 channels) and fc6 (64 x 2 x 2 to 512)."""
    steps = load("scoring", Settings(quick=True)).work().steps
    assert len(steps) == 30
    assert steps[0] == (2 * 8 * 64 * 64 * 8 * 3 * 9, 4 * (8 * 3 * 64 * 64 + 8 * 3 * 9 + 8 + 8 * 8 * 64 * 64))
    assert steps[13] == (2 * 8 * 256 * 512, 4 * (8 * 256 + 256 * 512 + 512 + 8 * 512))


def test_operations_and_bytes_of_a_convolution() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    with floors.counted() as steps:
        layer(torch.zeros(2, 3, 8, 8)).relu()
    moved = 4 * (2 * 3 * 8 * 8 + 5 * 3 * 3 * 3 + 5 + 2 * 5 * 8 * 8)
    assert steps == [(2 * 2 * 8 * 8 * 5 * 3 * 9, moved)]


def test_the_floor_is_the_longer_of_arithmetic_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "peak_operations", lambda precision, device: {"fp32": 10.0, "bf16": 40.0}[precision])
    monkeypatch.setattr(floors, "peak_bytes", lambda device: 2.0)
    work = Work(((100.0, 4.0), (10.0, 8.0)))
    assert floors.floor(work, "fp32", "cpu") == 10 + 4
    assert floors.floor(work, "bf16", "cpu") == 2.5 + 2


def test_the_guard_names_what_fell() -> None:
    """By the fastest calls: one in three was held up by another program, of the baseline and of the default each."""
    ways = [Measured("plain", "fp32", 1, [3.8, 9.5, 4.0, 3.9], [1.0, 1.0, 1.0, 1.0]),
            Measured("default", "fp32", 1, [7.0, 2.0], [0.5, 4.75]), Measured("bf16", "bf16", 1, [38.0], [0.1])]
    assert guard.fallen("scoring", ways, {"scoring": {"default": 1.8}}) == []
    (line,) = guard.fallen("scoring", ways, {"scoring": {"default": 2.0}})
    assert "scoring, default" in line and "1.90" in line and "2" in line


@pytest.mark.slow
def test_least_ratios_are_of_what_there_is() -> None:
    """A renamed variant would not be guarded any more."""
    for name, ways in guard.least_ratios().items():
        assert ways.keys() <= {one.name for one in load(name, Settings(quick=True)).variants}, name


def run(*arguments: object) -> int:
    return run_command(bench.parse(), bench.main, [str(one) for one in arguments])


@pytest.mark.slow
def test_measures_and_records(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "SIDE", 64)
    monkeypatch.setattr(floors, "MAPS", (1, 8, 8, 8))
    monkeypatch.setattr(floors, "COPIED", 1 << 20)
    floors.peak_operations.cache_clear()
    kept = tmp_path / "bench.json"
    assert run("--quick", "--repeats", 1, "--only", "scoring", "--json", kept) == 0
    found = json.loads(kept.read_text())
    assert found["benchmarks"].keys() == {"scoring"} and found["commit"]
    printed = capsys.readouterr().out
    for name, one in found["benchmarks"].items():
        assert name in printed
        assert [way["name"] for way in one["ways"]][0] == "plain" and one["ways"][0]["ratio"] == 1
        for way in one["ways"][1:2]:  # the default path
            told = way["agreement"]
            assert told.get("largest difference", 0) < 1e-4 and told.get("same labels", 1) > 0.999
    floors.peak_operations.cache_clear()


@pytest.mark.slow
def test_a_ratio_that_fell_ends_in_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "load", timed_work.load)
    monkeypatch.setattr(guard, "least_ratios", lambda: {"scoring": {"quick": 100.0}})
    assert run("--quick", "--guard", "--repeats", 1, "--only", "scoring") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: scoring, quick: ") and "100" in error


@pytest.mark.parametrize("arguments, named", [
    (["--only", "nothing"], "nothing"), (["--guard"], "--quick"), (["--repeats", "0"], "--repeats"),
])
def test_wrong_use(capsys: pytest.CaptureFixture, arguments: list[str], named: str) -> None:
    assert run(*arguments) == 2
    assert named in capsys.readouterr().err


def test_list_names_all(capsys: pytest.CaptureFixture) -> None:
    assert run("--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


@pytest.mark.parametrize("name, wanted", [("scoring", "bf16, 400 a pass"), ("training", "bf16, compiled")])
def test_a_gpu_is_measured_with_more_at_once(name: str, wanted: str) -> None:
    """Nothing is made before a way is prepared, so this needs no GPU."""
    gpu, cpu = (load(name, Settings(quick=True, device=device)) for device in ("cuda", "cpu"))
    assert wanted in [way.name for way in gpu.variants] and wanted not in [way.name for way in cpu.variants]
    assert gpu.units == {"scoring": 400, "training": 64}[name] and cpu.units == 8
