"""A whole run: its commands, the time left, what it does when a command fails, on Ctrl-C, and the second time."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deconvnet.data.synthetic import generate
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.errors import UsageError, UserError
from experiments import figures, report, reproduce
from stages import build_proposals, evaluate, infer, train
from stages.cli import run_command
from stages.run import main, parse
from stages.step_runner import _stop, about, duration, run_step, time_left
from stages.steps import SHARES, Step

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "experiments" / "recipes").glob("*.yaml"))
# The pipeline at its smallest: it shows that the commands fit together, and learns nothing.
SMALLEST = """
name: smallest
data: {train_split: train, val_split: val}
proposals: {count: 60}
windows: {warp: 36, stage2_top: 4}
network: {width: 0.03125, input: 32}
train: {iterations: [4, 4], batch: 4, micro_batch: 4, validate_every: 4, validate_windows: 8, checkpoint_every: 2,
        workers: 0}
bn_statistics: {batches: 2, batch: 4}
fcn: {width: 0.03125, canvas: 160, fc6_kernel: 3, batch_norm: true, staged: false, iterations: [4, 4, 4], batch: 2,
      micro_batch: 2, lr: 0.01}
infer: {proposals: 4}
"""
ROWS = {"fcn8s": "--model fcn8s", "deconvnet-max": "--aggregate max --ensemble none",
        "deconvnet-max-crf": "--aggregate max --ensemble none --crf",
        "deconvnet-max-fcn": "--aggregate max --ensemble fcn",
        "deconvnet-max-fcn-crf": "--aggregate max --ensemble fcn --crf"}


def run(*arguments: object) -> int:
    return run_command(parse(), main, [str(argument) for argument in arguments])


@pytest.fixture
def commands(tmp_path: Path, capsys: pytest.CaptureFixture):
    """The commands that --dry-run prints, of the run T/run; T stands for the test's folder."""
    def printed(*arguments: object) -> list[str]:
        assert run("--run", tmp_path / "run", "--dry-run", *arguments) == 0
        return capsys.readouterr().out.replace(str(tmp_path), "T").splitlines()

    return printed


def test_commands_in_order(commands) -> None:
    """Only the first names recipe and data set: the run folder remembers them."""
    assert commands("--recipe", "tiny", "--voc-root", "my images") == [
        "python -m stages.build_proposals --run T/run --recipe tiny --voc-root 'my images'",
        "python -m stages.train --run T/run --stage 1",
        "python -m stages.train --run T/run --stage 2",
        "python -m stages.train --run T/run --model fcn8s",
        *(f"python -m stages.infer --run T/run {options} --split val" for options in ROWS.values()),
        *(f"python -m stages.evaluate --run T/run --predictions {row} --split val" for row in ROWS),
        "python -m experiments.reproduce T/run",
        "python -m experiments.figures T/run",
        "python -m experiments.report T/run",
    ]


def test_options_reach_the_commands_that_take_them(commands, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("vgg.pth", "other.pth", "edges.gz")]
    for path in files:
        path.touch()
    lines = commands("--set", "infer.aggregate=sum", "--set", "data.val_split=seen", "--vgg16", files[0],
                     "--fcn-vgg16", files[1], "--edge-model", files[2], "--device", "cpu", "--workers", 3,
                     "--subset-classes", "cat, dog")
    assert lines[:4] == [
        "python -m stages.build_proposals --run T/run --set infer.aggregate=sum --set data.val_split=seen "
        "--edge-model T/edges.gz --workers 3",
        "python -m stages.train --run T/run --stage 1 --vgg16 T/vgg.pth --device cpu",
        "python -m stages.train --run T/run --stage 2 --device cpu",
        "python -m stages.train --run T/run --model fcn8s --vgg16 T/other.pth --device cpu",
    ]
    assert lines[5] == ("python -m stages.infer --run T/run --aggregate sum --ensemble none --split seen --device cpu "
                        "--workers 3")
    assert lines[10] == ("python -m stages.evaluate --run T/run --predictions deconvnet-sum --split seen "
                         "--subset-classes 'cat, dog'")
    assert lines[14:] == ["python -m experiments.reproduce T/run --aggregate sum --subset-classes 'cat, dog'",
                          "python -m experiments.figures T/run --aggregate sum",
                          "python -m experiments.report T/run --aggregate sum --subset-classes 'cat, dog'"]
    both = commands("--vgg16", files[0], "--set", "train.stage2_from=nothing")  # then stage 2 is a start too
    assert [line.partition(" --vgg16 ")[2] for line in both[1:4]] == ["T/vgg.pth"] * 3


def test_a_training_that_has_begun_goes_on(commands, tmp_path: Path) -> None:
    for name in ("stage1", "fcn8s"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "last.pt").touch()
    resumed = [line.endswith(" --resume") for line in commands() if "stages.train" in line]
    assert resumed == [True, False, True]


def test_a_run_that_has_begun_is_of_its_own_recipe(commands, tmp_path: Path) -> None:
    save_recipe(load_recipe("tiny", ["data.val_split=seen"]), tmp_path / "run" / "recipe.yaml")
    assert "--recipe" not in commands()[0] and commands()[4].endswith("--model fcn8s --split seen")
    (tmp_path / "run").rename(tmp_path / "other")
    lines = commands("--from", tmp_path / "other")
    assert lines[0].endswith("--run T/run --from T/other") and lines[4].endswith("--split seen")
    assert commands("--recipe", "tiny")[4].endswith("--split val")


def test_every_stage_knows_the_options_it_is_given(commands, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = commands("--vgg16", tmp_path / "file", "--edge-model", tmp_path / "file", "--device", "cpu", "--workers", 2,
                     "--subset-classes", "cat", "--set", "infer.aggregate=mean", "--from", "other", "--recipe", "paper")
    started = (build_proposals, train, infer, evaluate, reproduce, figures, report)
    modules = {module.__name__: module for module in started}
    for _, _, module, *options in map(shlex.split, lines):
        modules[module].parse().parse_args(options)  # exits on an unknown one
    assert {line.split()[2] for line in lines} == {*modules}


@pytest.mark.parametrize(("options", "message"), [
    (("--vgg16", "none.pth"), "none.pth: no such file"), (("--fcn-vgg16", "none.pth"), "none.pth: no such file"),
    (("--edge-model", "none.gz"), "none.gz: no such file"), (("--workers", "0"), "--workers"),
    (("--subset-classes", "cat,zebra"), "'zebra'"), (("--recipe", "none"), "'none'"),
    (("--set", "solver.lr=fast"), "solver.lr"), (("--voc-root", "none"), "none"),
])
def test_wrong_use_is_told_before_anything_is_started(options: tuple[str, ...], message: str, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture) -> None:
    assert run("--run", tmp_path / "run", *options) == 2
    out, error = capsys.readouterr()
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert "$ python" not in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_its_cost(recipe: Path, tmp_path: Path) -> None:
    comment = recipe.read_text().partition("\nname:")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    text = comment.replace("\\\n#", "").replace("\n#", "\n")
    command, cost = text.removeprefix("#").strip().splitlines()[:2]
    python, _, module, *arguments = shlex.split(command)
    assert (python, module) == ("python", "stages.run")
    assert parse().parse_args(arguments).recipe == recipe.stem and parse().parse_args(arguments).run
    assert any(word in cost for word in (" h", " min", "not run")), cost


@pytest.mark.parametrize(("recipe", "measure"), [("demo", "mean"), ("voc_subset", "mean"), ("voc_box", "subset mean")])
def test_a_recipe_tells_the_recorded_result(recipe: str, measure: str) -> None:
    """Each row's mean IoU, as in experiments/results."""
    comment = (ROOT / f"experiments/recipes/{recipe}.yaml").read_text().partition("\nname:")[0].replace("\n# ", " ")
    lines = json.loads((ROOT / f"experiments/results/{recipe}.json").read_text())["table"]
    means = {line["row"]: line["this_run"] for line in lines if line["class"] == measure}
    assert len(means) == 5
    for row, value in means.items():
        assert re.search(rf"(?<!\w){re.escape(row)} {value:.1f}\b", comment), row


def test_exit_statuses_are_those_of_the_command(capfd: pytest.CaptureFixture) -> None:
    assert run_step(["-c", "print('well')"]) > 0
    for status, kind, message in ((3, UserError, "with status 3; see its message above, and run the same command"),
                                  (2, UsageError, "with status 2; see its message above"),
                                  (130, KeyboardInterrupt, None)):
        with pytest.raises(kind, match=message) as caught:
            run_step(["-c", f"raise SystemExit({status})"])
        assert caught.type is kind
    for number, kind in ((signal.SIGKILL, UserError), (signal.SIGTERM, KeyboardInterrupt)):
        with pytest.raises(kind, match="was killed .SIGKILL." if kind is UserError else None):
            run_step(["-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    out = capfd.readouterr().out.splitlines()
    assert out.index("$ python -c 'print('\"'\"'well'\"'\"')'") < out.index("well") < out.index("(0 s)")


def test_time_left_is_by_the_shares() -> None:
    plan = [Step((), share) for share in (10.0, 30.0, 60.0, 20.0)]
    assert time_left(plan, [0, 1, 2, 3], {}) is None
    assert time_left(plan, [1, 2, 3], {0: 5.0}) == 0.5 * (30 + 60 + 20)  # half a second a share
    assert time_left(plan, [1, 3], {0: 5.0, 2: 135.0}) == 2.0 * (30 + 20)  # 140 s for 70
    assert all(share > 0 for share in SHARES.values())


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.4, 75.2, 600, 7265)] == [
        "0 s", "59 s", "1 min 15 s", "10 min 0 s", "2 h 1 min"]
    assert [about(seconds) for seconds in (59, 60, 400, 7100, 7300, 170_000, 200_000)] == [
        "less than a minute", "about 1 min", "about 7 min", "about 118 min", "about 2 h", "about 47 h", "about 2 days"]


def test_ctrl_c_waits_for_the_command(tmp_path: Path) -> None:
    """What a terminal does: SIGINT to the run and its command at once; the command may then tidy up."""
    child = ("import pathlib, sys, time\n"
             "folder = pathlib.Path(sys.argv[1])\n"
             "try:\n    (folder / 'began').touch()\n    time.sleep(60)\n"
             "except KeyboardInterrupt:\n    time.sleep(0.6)\n    (folder / 'tidied').touch()\n    sys.exit(130)\n")
    parent = ("import sys\nfrom stages.run import parse\nfrom stages.step_runner import run_step\n"
              "from stages.cli import run_command\n"
              f"sys.exit(run_command(parse(), lambda _: run_step(['-c', {child!r}, {str(tmp_path)!r}]), []))")
    said = tmp_path / "said.txt"  # a file: a pipe would be waited for until the command has closed it too
    with said.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, start_new_session=True, stderr=file,
                                   stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130 and (tmp_path / "tidied").exists()
    assert "interrupted; what was finished is kept" in said.read_text()


def test_an_interrupted_step_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout: float | None = None) -> int:
            waits.append(timeout)
            if len(waits) == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_step(["-c", "pass"])
    assert len(waits) > 1


def test_a_command_that_ignores_ctrl_c_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the background of a shell script, whose commands ignore SIGINT."""
    monkeypatch.setattr("stages.step_runner.GRACE", 0.5)
    process = subprocess.Popen([sys.executable, "-c", "import signal, sys, time\n"
                                "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(60)"],
                               stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    _stop(process)
    assert process.returncode == -signal.SIGTERM


def test_a_killed_run_ends_its_command(tmp_path: Path) -> None:
    child = ("import sys, time\nfrom pathlib import Path\nfrom stages.cli import make_parser, run_command\n"
             "def work(_):\n    (Path(sys.argv[1]) / 'began').touch()\n    time.sleep(60)\n"
             "status = run_command(make_parser('test', '', ''), work, [])\n"
             "(Path(sys.argv[1]) / f'ended {status}').touch()\n")
    parent = f"from stages.step_runner import run_step\nrun_step(['-c', {child!r}, {str(tmp_path)!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert sorted(os.listdir(tmp_path)) == ["began", "ended 130"]


@pytest.mark.long
def test_twice_in_a_row_at_the_smallest_size(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "smallest.yaml").write_text(SMALLEST)
    voc = generate(tmp_path / "data", train=8, val=4, seed=0, side=100)
    options = ("--run", tmp_path / "run", "--recipe", tmp_path / "smallest.yaml", "--voc-root", voc, "--device", "cpu")
    assert run(*options) == 0
    first = capfd.readouterr().out
    assert "different tasks" in first and "not run" not in first and "sheet.png" in first
    assert first.count("\n$ python -m ") == 17 and " is done: " not in first
    assert "\nstep 1 of 17\n" in first and first.count(" left\n") == 16
    for name in ("table1.md", "table1.csv", "table1.json", "sheet.png", "figures/training.png", "report.html"):
        assert (tmp_path / "run" / "report" / name).stat().st_size > 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len([path for path in files if path.match("predictions/*/*/*.png")]) == 5 * 4
    table = (tmp_path / "run/report/table1.csv").read_bytes()
    assert run(*options) == 0
    second = capfd.readouterr().out
    assert second.count(" is done: python -m ") == 14 and second.count("\n$ python -m ") == 3
    assert {path for path, changed in files.items() if path.stat().st_mtime_ns != changed} == {
        path for path in files if path.parent.name in ("report", "figures")}
    assert (tmp_path / "run/report/table1.csv").read_bytes() == table
