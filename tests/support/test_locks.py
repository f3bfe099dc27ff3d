"""Two commands at once: who comes second is told; killed holders; file systems without locks; every command's lock."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from deconvnet.support.errors import UserError
from deconvnet.support.locks import held

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import os, sys, time
from pathlib import Path
from deconvnet.support.locks import held

with held(Path(sys.argv[1])):
    there, tell = os.pipe()
    worker = os.fork()
    if not worker:  # slower to end than its parent
        os.write(tell, b"x")
        time.sleep(20)
        os._exit(0)
    os.read(there, 1)  # it runs, so it has let go of the lock that it was born with
    print("held", worker, flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen:
    """Another process that holds the lock until it reads a line."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    word, worker = process.stdout.readline().split()
    assert word == "held"
    process.worker = int(worker)
    return process


def test_the_second_is_told_who_holds_it_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run" / "stage1"
    with holder(path) as first:
        began = time.monotonic()
        with pytest.raises(UserError) as told, held(path):
            raise AssertionError
        line = str(told.value)
        assert time.monotonic() - began < 2 and "\n" not in line
        for word in (str(path), f"process {first.pid} on {os.uname().nodename} since 20", "python -c"):
            assert word in line
        with held(path.with_name("fcn8s")):  # another stage of the run
            assert sorted(os.listdir(path.parent)) == [".fcn8s.holder", ".fcn8s.lock", ".stage1.holder", ".stage1.lock"]
        first.stdin.write("\n")
        first.stdin.flush()
        first.wait(30)
    assert os.listdir(path.parent) == []
    for _ in range(2):
        with held(path):
            assert len(os.listdir(path.parent)) == 2
    assert os.listdir(path.parent) == []


def test_a_killed_command_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "stage1") as first:
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        with held(tmp_path / "stage1"):
            os.kill(first.worker, signal.SIGKILL)  # is still there, and does not hold it
    assert os.listdir(tmp_path) == []


def test_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with holder(tmp_path / "set") as first:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5); print()"], stdout=first.stdin)
        began = time.monotonic()
        with held(tmp_path / "set", wait=True):
            assert time.monotonic() - began > 0.3
    assert f"waiting for process {first.pid}" in caplog.text


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     caplog: pytest.LogCaptureFixture) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock._unix.fcntl.flock", refuses)
    with held(tmp_path / "stage1"):
        assert "this file system has no locks" in caplog.text and str(tmp_path / ".stage1.lock") in caplog.text
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), held(tmp_path / "stage1"):
            raise AssertionError
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuses)
    with pytest.raises(PermissionError), held(tmp_path / "stage1"):  # another user's lock file, say
        raise AssertionError
    monkeypatch.setattr(os, "access", lambda *_: False)
    with held(tmp_path / "stage1"):
        pass
