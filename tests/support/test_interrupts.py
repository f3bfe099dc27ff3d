"""Ctrl-C, SIGTERM, SIGHUP: at any moment, ignored ones, ones that Python would drop; processes that never see them."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deconvnet.support import interrupts
from deconvnet.support.errors import UserError
from deconvnet.support.interrupts import SIGNALS, Interruptible, StopRequest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """A handler for each, which shows what was restored; afterwards what was there before."""
    before = {number: signal.signal(number, signal.default_int_handler)
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_request_waits_for_the_end(number: int) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), StopRequest("stops soon") as stop:
        assert not stop.asked
        for _ in range(3):  # `timeout` sends its signal twice, a closed terminal SIGHUP, a scheduler what it likes
            for sent in (number, signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(sent)
        done.append(stop.asked)
    assert done == [True]
    assert all(signal.getsignal(one) is signal.default_int_handler for one in SIGNALS)


def test_a_request_within_another_hands_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told = False
    with pytest.raises(KeyboardInterrupt), StopRequest("the outer stops soon") as outer:
        with StopRequest() as inner:
            signal.raise_signal(signal.SIGHUP)
            assert inner.asked and not outer.asked
        told = outer.asked and "the outer stops soon" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            outer.stop_if_asked()
    assert told
    with StopRequest(), StopRequest():
        pass


def test_ctrl_c_again_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), StopRequest("stops soon"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # within a second: the same one
        monkeypatch.setattr(interrupts, "IMPATIENT", 0.0)
        signal.raise_signal(signal.SIGTERM)
        reached.append("SIGTERM waits")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert reached
    with pytest.raises(KeyboardInterrupt), StopRequest():  # without a message it always waits
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_what_was_ignored_stays_ignored() -> None:
    """nohup, and the background of a shell script."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
        with Interruptible(), StopRequest("stops soon") as stop:
            signal.raise_signal(number)
            assert not stop.asked
        assert signal.getsignal(number) is signal.SIG_IGN


def test_an_interruption_in_a_destructor_is_not_dropped(capfd: pytest.CaptureFixture) -> None:
    class Dropping:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    reached = []
    with pytest.raises(KeyboardInterrupt), Interruptible():  # at its end
        Dropping()
        reached.append("end")
    with pytest.raises(KeyboardInterrupt), Interruptible():  # soon
        Dropping()
        time.sleep(20)
        reached.append("after 20 s")
    assert reached == ["end"] and capfd.readouterr().err == ""


def test_an_error_made_of_an_interruption_is_one() -> None:
    def library(error: Exception) -> None:
        try:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                raise error  # OmegaConf did: its key was half made
        finally:
            raise AttributeError("another") if isinstance(error, AttributeError) else error

    with pytest.raises(KeyboardInterrupt), Interruptible():
        library(AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'"))
    with pytest.raises(KeyboardInterrupt), Interruptible():
        try:
            library(AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'"))
        except Exception as error:  # the reader of a recipe took it for the file's fault
            raise UserError(f"recipe.yaml: not valid YAML: {error}") from None
    for told in (UserError("x: cannot be written"), OSError(28, "No space left on device")):
        with pytest.raises(BaseException) as caught, Interruptible():
            library(told)
        assert caught.type is type(told)
    with pytest.raises(BaseException) as caught, Interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise AttributeError  # later, and not because of it
    assert caught.type is AttributeError


def test_at_the_end_of_a_process_signals_are_ignored() -> None:
    hook = sys.unraisablehook
    try:
        with Interruptible(ends=True):
            pass
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in SIGNALS)
    finally:
        sys.unraisablehook = hook


def test_a_signal_sent_twice_does_not_interrupt_the_tidying_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tidied = []
    with pytest.raises(KeyboardInterrupt), Interruptible():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)
            monkeypatch.setattr(interrupts, "IMPATIENT", 0.0)
            signal.raise_signal(signal.SIGTERM)
            tidied.append(False)
    assert tidied == [True]


PARENT = """
import os, sys, time
from deconvnet.support.workers import worker_context

def work(ready):
    ready.put(os.getpid())
    time.sleep(120)

if __name__ == "__main__":
    context = worker_context(sys.argv[1])
    ready = context.Queue()
    processes = [context.Process(target=work, args=(ready,), daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    print(*[ready.get() for _ in processes], flush=True)
    sys.stdin.readline()
    processes[0].terminate()
    processes[0].join()
    print(processes[0].pid, processes[0].exitcode, flush=True)
    if sys.argv[2] == "killed":
        time.sleep(60)
"""


def running(process: int) -> bool:
    """Whether a process is at work; a zombie, whose parent has not asked for its status yet, is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("method", "end"), [("fork", "killed"), ("spawn", "killed"), ("fork", "ends")])
def test_workers_are_the_parents_to_end(method: str, end: str, tmp_path: Path) -> None:
    """No signal reaches them; terminate() does, which pools and loaders count on; they end with their parent."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script, method, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 3
        for worker in workers:
            for number in SIGNALS:
                os.kill(worker, number)
        time.sleep(0.3)
        assert all(map(running, workers))
        parent.stdin.write("\n")
        parent.stdin.flush()
        ended, status = map(int, parent.stdout.readline().split())
        assert ended in workers and status == -signal.SIGKILL
        if end == "killed":
            parent.kill()
        parent.wait(30)
        deadline = time.monotonic() + 30
        while any(map(running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not any(map(running, workers))


HUNG_UP = """
import sys, time
from multiprocessing import resource_sharer
from deconvnet.support.workers import worker_context

def work(ready):
    sys.argv[1] == "other" and sys.excepthook(ValueError, ValueError("a bug"), None)
    ready.put(resource_sharer._resource_sharer.register(lambda connection: None, lambda: None)[0])
    time.sleep(60)

if __name__ == "__main__":
    ready = worker_context("fork").SimpleQueue()
    process = worker_context("fork").Process(target=work, args=(ready,), daemon=True)
    process.start()
    print(ready.get(), flush=True)
    sys.stdin.readline()
    process.terminate()
"""


@pytest.mark.parametrize(("what", "said"), [("hangs up", ""), ("other", "ValueError: a bug\n")])
def test_a_worker_says_nothing_when_its_parent_hangs_up(what: str, said: str, tmp_path: Path) -> None:
    """As an interrupted parent does while a tensor is handed on: here in the middle of the two's greeting."""
    script = tmp_path / "parent.py"
    script.write_text(HUNG_UP)
    with subprocess.Popen([sys.executable, script, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as parent:
        address = parent.stdout.readline().strip()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            select.select([client], [], [], 10)  # the challenge is there, and is never read
        time.sleep(0.3)
        _, errors = parent.communicate("\n", timeout=60)
    assert errors == said


COMMAND = """
import sys, time
seconds = float(sys.argv.pop())
from stages.cli import make_parser, run_command

def work(_):
    print("began", flush=True)
    time.sleep(seconds)

status = run_command(make_parser("test", "", ""), work)
print("over", flush=True)
time.sleep(0 if seconds else 1)
sys.exit(status)
"""


def command(seconds: int, awaited: str, ignored: int | None = None) -> subprocess.Popen:
    """A command that works for so long, once it has printed a line."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               preexec_fn=ignored and (lambda: signal.signal(ignored, signal.SIG_IGN)))
    while process.stdout.readline() != f"{awaited}\n":
        assert process.poll() is None
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_ends_with_one_line_and_130(number: int) -> None:
    with command(60, "began") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted; what was finished is kept: run the same command again to continue\n"


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "awaited", "ignored"), [(0, "over", None), (1, "began", signal.SIGHUP)])
def test_a_command_at_its_end_and_one_under_nohup_go_on(seconds: int, awaited: str, ignored: int | None) -> None:
    with command(seconds, awaited, ignored) as process:
        for number in SIGNALS if ignored is None else [ignored]:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
