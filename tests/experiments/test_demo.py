"""The demo: its commands, what it does the second time, when a command fails, and on Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deconvnet.support.errors import UserError
from experiments.demo import commands, demo, duration, run_step
from stages import build_proposals, infer, train

ROOT = Path(__file__).resolve().parents[2]
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


def test_commands_in_order(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    lines = [" ".join(step).replace(str(tmp_path), "T") for step in commands(run, data, "tiny")]
    rows = {"fcn8s": "--model fcn8s", "deconvnet-max": "--aggregate max --ensemble none",
            "deconvnet-max-crf": "--aggregate max --ensemble none --crf",
            "deconvnet-max-fcn": "--aggregate max --ensemble fcn",
            "deconvnet-max-fcn-crf": "--aggregate max --ensemble fcn --crf"}
    assert lines == [
        "-m experiments.synthetic_voc T/data",
        "-m stages.build_proposals --run T/run --recipe tiny --voc-root T/data/VOC2012",
        "-m stages.train --run T/run --stage 1",
        "-m stages.train --run T/run --stage 2",
        "-m stages.train --run T/run --model fcn8s",
        *(f"-m stages.infer --run T/run {options} --split val" for options in rows.values()),
        *(f"-m stages.evaluate --run T/run --predictions {row} --split val" for row in rows),
        "-m experiments.reproduce T/run",
        "-m experiments.figures T/run",
    ]


def test_a_training_that_has_begun_goes_on(tmp_path: Path) -> None:
    for name in ("stage1", "fcn8s"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pt").touch()
    resumed = ["--resume" in step for step in commands(tmp_path, tmp_path / "data", "tiny") if "stages.train" in step]
    assert resumed == [True, False, True]


def test_every_stage_knows_the_options_it_is_given(tmp_path: Path) -> None:
    parsers = {"stages.build_proposals": build_proposals, "stages.train": train, "stages.infer": infer}
    for _, module, *options in commands(tmp_path, tmp_path / "data", "tiny"):
        if module in parsers:
            parsers[module].parse().parse_args(options)  # exits on an unknown one


def test_a_failing_command_ends_the_demo(capfd: pytest.CaptureFixture) -> None:
    run_step(["-c", "print('well')"])
    with pytest.raises(UserError, match=r"`python -c 'raise SystemExit\(3\)'` ended with status 3"):
        run_step(["-c", "raise SystemExit(3)"])
    out = capfd.readouterr().out.splitlines()
    assert out.index("$ python -c 'print('\"'\"'well'\"'\"')'") < out.index("well") < out.index("(0 s)")


def test_ctrl_c_waits_for_the_command(tmp_path: Path) -> None:
    """What a terminal does: SIGINT to the demo and its command at once; the command may then tidy up."""
    child = ("import pathlib, sys, time\n"
             "folder = pathlib.Path(sys.argv[1])\n"
             "try:\n    (folder / 'began').touch()\n    time.sleep(60)\n"
             "except KeyboardInterrupt:\n    time.sleep(0.6)\n    (folder / 'tidied').touch()\n    sys.exit(130)\n")
    parent = ("import sys\nfrom experiments.demo import parse, run_step\nfrom stages.cli import run_command\n"
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


def test_a_killed_demo_ends_its_command(tmp_path: Path) -> None:
    child = ("import sys, time\nfrom pathlib import Path\nfrom stages.cli import make_parser, run_command\n"
             "def work(_):\n    (Path(sys.argv[1]) / 'began').touch()\n    time.sleep(60)\n"
             "status = run_command(make_parser('test', '', ''), work, [])\n"
             "(Path(sys.argv[1]) / f'ended {status}').touch()\n")
    parent = f"from experiments.demo import run_step\nrun_step(['-c', {child!r}, {str(tmp_path)!r}])"
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


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.4, 75.2, 600)] == ["0 s", "59 s", "1 min 15 s", "10 min 0 s"]


@pytest.mark.long
def test_twice_in_a_row_at_the_smallest_size(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    recipe = tmp_path / "smallest.yaml"
    recipe.write_text(SMALLEST)
    size = ("--train", "8", "--val", "4", "--side", "100")
    demo(tmp_path / "run", tmp_path / "data", str(recipe), size)
    first = capfd.readouterr().out
    assert "different tasks" in first and "not run" not in first and "sheet.png" in first
    for name in ("table1.md", "table1.csv", "table1.json", "sheet.png", "curves.png"):
        assert (tmp_path / "run" / "report" / name).stat().st_size > 0
    pngs = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/predictions").rglob("*.png")}
    assert len(pngs) == 5 * 4
    table = (tmp_path / "run/report/table1.csv").read_bytes()
    demo(tmp_path / "run", tmp_path / "data", str(recipe), size)
    assert {path: path.stat().st_mtime_ns for path in pngs} == pngs  # nothing was predicted again
    assert (tmp_path / "run/report/table1.csv").read_bytes() == table
