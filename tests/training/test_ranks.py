"""Several ranks, real processes started by torchrun, make the training that one process makes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from deconvnet.models.build import build_network
from deconvnet.models.registry import training_specs
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.atomic import is_running
from deconvnet.support.errors import UsageError
from deconvnet.training import ranks
from tests.training_runs import KEYS, build, checkpoint, sibling, starts, train

ITERATIONS, ENDS = 20, 30  # ENDS: seconds within which the loss of a rank ends the others, as docs/reproduction.md says
# So that the rounding of float32 does not grow: one process whose gradients are changed by 6e-8 of themselves learns
# weights that differ by 2e-7 of what it learned after 20 iterations; at 0.01 and without a shift by more than that.
CALM = ["network.deconv_std=0.05", "network.bn_shift=0.5", "network.bn_eps=0.1", "train.batch=16",
        "train.micro_batch=4", f"train.iterations=[{ITERATIONS},3]",
        "train.validate_every=10", "train.checkpoint_every=6", "solver.lr=0.0002", "solver.lr_step=[8,2]",
        "fcn.lr=0.00001", "fcn.batch=2", "fcn.micro_batch=1", f"fcn.iterations=[{ITERATIONS},3,2]", "fcn.canvas=64"]
STAGE, FCN = ("--stage", 1), ("--model", "fcn32s")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build(tmp_path_factory.mktemp("ranks"), (1,), keys=[*KEYS, *CALM])


@pytest.fixture(scope="module")
def alone(built: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One process's trainings."""
    run = sibling(built, tmp_path_factory.mktemp("alone") / "run")
    assert train(run, *STAGE) == 0 and train(run, *FCN) == 0
    return run


@contextmanager
def torchrun(run: RunFolder, count: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """torchrun with stages.train; whatever is left of it at the end of the block is killed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, "-m", "--",
               "stages.train", "--run", run.root, "--voc-root", run.voc_root, "--device", "cpu", *arguments]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            for one in (*children(process.pid), process.pid):
                os.kill(one, signal.SIGKILL)
        process.wait()


def trained(run: RunFolder, count: int, *arguments: object) -> None:
    with torchrun(run, count, *arguments) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said


def children(process: int) -> list[int]:
    """The processes that a process started, in that order: torchrun's are the ranks."""
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def check_same(run: RunFolder, alone: RunFolder, name: str) -> None:
    """Weights, momenta, BN's running statistics, random numbers and what was logged, of one process."""
    own, other = checkpoint(run, name), checkpoint(alone, name)
    assert own.keys() == other.keys() and own["iteration"] == other["iteration"] == ITERATIONS
    assert torch.equal(own["random"], other["random"]) and own["position"] == other["position"]
    assert own["best"] == pytest.approx(other["best"], abs=0.01)  # a pixel between two classes may change sides
    began = build_network("fcn32s" if name == "fcn32s" else "deconvnet", run.recipe)
    weights = [key for key, _ in began.named_parameters()]
    difference, learned = (torch.cat([(state[key] - other["model"][key]).flatten() for key in weights]).norm()
                           for state in (own["model"], began.state_dict()))
    assert difference < 1e-5 * learned, (float(difference), float(learned))
    for key in own["model"].keys() - set(weights):
        torch.testing.assert_close(own["model"][key], other["model"][key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_train_fcn_with_its_dropout(built: RunFolder, alone: RunFolder, tmp_path: Path) -> None:
    run = sibling(built, tmp_path / "run")
    trained(run, 2, *FCN)
    check_same(run, alone, "fcn32s")
    (own,), (other,) = starts(run, "fcn32s"), starts(alone, "fcn32s")
    assert own.pop("ranks") == 2 and own == other
    assert (run.training("fcn32s") / "network.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_another_number_goes_on(built: RunFolder, alone: RunFolder, tmp_path: Path) -> None:
    """Four ranks; one is killed after the first checkpoint. One process goes on, with the same examples."""
    run = sibling(built, tmp_path / "run")
    with torchrun(run, 4, *STAGE) as process:
        wait_for(run.training("stage1") / "last.pt", process)
        members = children(process.pid)
        assert len(members) == 4
        os.kill(members[2], signal.SIGKILL)
        said = process.communicate(timeout=ENDS)[1]
    assert process.returncode == 1 and not any(map(is_running, members))
    assert said.count("error: another rank has ended") == 1 and said.count("error: ") == 1, said
    assert 0 < checkpoint(run, "stage1")["iteration"] < ITERATIONS
    assert train(run, *STAGE, "--resume") == 0
    check_same(run, alone, "stage1")
    (four, _), (other,) = starts(run, "stage1"), starts(alone, "stage1")
    assert four["ranks"] == 4 and four["iterations"] == other["iterations"]


@pytest.mark.long
def test_interrupted_ranks_keep_the_iteration(built: RunFolder, alone: RunFolder, tmp_path: Path) -> None:
    run = sibling(built, tmp_path / "run")
    with torchrun(run, 2, *STAGE) as process:
        wait_for(run.training("stage1") / "last.pt", process)
        process.terminate()
        said = process.communicate(timeout=ENDS)[1]
    assert process.returncode and said.count("interrupted; what was finished is kept") == 1, said
    assert said.count("stops after this iteration and keeps it") == 1 and "error: " not in said
    assert checkpoint(run, "stage1")["iteration"] not in (0, 6, 12, 18, 20)  # those of train.checkpoint_every
    assert train(run, *STAGE, "--resume") == 0
    check_same(run, alone, "stage1")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.is_file() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.parametrize("count", [3, 8])
def test_ranks_that_cannot_share_the_micro_batches(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_specs(load_recipe("paper", [*KEYS, *CALM]))["stage1"]
    monkeypatch.setattr(ranks, "count", lambda: count)
    with pytest.raises(UsageError, match=r"4 micro-batches evenly \(train.batch 16, .* 4\): start 1, 2, 4 of"):
        ranks.check_share(training)
    for fitting in (1, 2, 4):
        monkeypatch.setattr(ranks, "count", lambda fitting=fitting: fitting)
        ranks.check_share(training)


def test_the_ranks_parts_are_the_iterations_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    parts = []
    for own in range(3):
        monkeypatch.setattr(ranks, "rank", lambda own=own: own)
        parts.append([position for position, _ in ranks.own_part(((at, 100 + at) for at in range(6, 18)), 6)])
    assert parts == [[6, 7, 12, 13], [8, 9, 14, 15], [10, 11, 16, 17]]


def test_a_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.own_device("cuda:1") == "cuda:1"  # one process
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [ranks.own_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(UsageError, match="--device cuda:1: 2 ranks have a GPU each"):
        ranks.own_device("cuda:1")
