"""Runs tests on mutated copies of the tree, and keeps what was found."""

import hashlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock, Thread

from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UserError

from .lists import ROOT, Mutation

KILLED, SURVIVED, ERROR = "killed", "SURVIVED", "ERROR"
HANGS = "it hangs"
BASELINE_LIMIT = 900  # seconds for the tests of an unmutated tree
LIBRARIES = ("torch", "torchvision", "cv2", "h5py", "scipy.io", "omegaconf", "safetensors.torch", "matplotlib.figure",
             "PIL.Image", "hypothesis", "requests", "tqdm")
TICK = 0.5  # seconds between looks at a run
SLACK, TIMES = 60, 5  # a mutation hangs after SLACK + TIMES x the unmutated tests' seconds


def copy_tree(folder: Path) -> Path:
    """The files git knows or would add, as they are now, in `folder`/tree, with ../shared where there is one."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    tree = folder / "tree"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return tree


class Tree:
    """A copy of the tree, with a process that runs its tests (see warm.py)."""

    def __init__(self, path: Path, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self.path = path
        self._output = path.with_name("output.txt")
        self._lines: queue.Queue[str] = queue.Queue()
        # No bytecode files: a mutation as long as the original, made within the same second, would go unseen.
        environment = os.environ | {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), *libraries]
        self._server = subprocess.Popen(command, cwd=self.path, env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)
        Thread(target=self._listen, args=(self._server.stdout,), daemon=True).start()

    def _listen(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._lines.put(line)
        self._lines.put("")

    def run_tests(self, tests: str, limit: float, stop: Event) -> tuple[int | None, str]:
        """Pytest's exit status (None when it ran past `limit` seconds) and the last line of its output."""
        arguments = ["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
        self._server.stdin.write(json.dumps({"arguments": arguments, "output": str(self._output)}) + "\n")
        self._server.stdin.flush()
        process = int(self._lines.get())
        try:
            status = self._status(process, limit, stop)
        finally:
            try:  # what the tests may have left running, or all of them
                os.killpg(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if status is None:
            self._lines.get()  # the killed run's
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return status, lines[-1] if lines else ""

    def _status(self, process: int, limit: float, stop: Event) -> int | None:
        waited = 0.0
        while waited < limit:
            if stop.is_set():
                raise KeyboardInterrupt
            try:
                return int(self._lines.get(timeout=TICK))
            except queue.Empty:
                waited += 0 if _suspended(process) else TICK
        return None

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


def _suspended(process: int) -> bool:
    """Whether somebody stopped the process (Ctrl-Z, SIGSTOP): it does not hang then."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:  # it has just ended, or no Linux
        return False


class Records:
    """What is already known, by a key that changes with the mutation, the mutated file and the tests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        try:
            self._found: dict[str, dict] = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path} is not a JSON file of mutations' results: delete it or name another") from error

    def get(self, key: str) -> dict | None:
        return self._found.get(key)

    def put(self, key: str, result: dict) -> None:
        """Keeps a result at once, so that an interrupted run goes on."""
        with self._lock:
            self._found[key] = result
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self._found)


def key_of(mutation: Mutation, tree: Path) -> str:
    """A digest of the mutation and of the contents of the mutated file and of its tests."""
    files = [tree / name for name in (mutation.file, *mutation.test_files())]
    contents = [path.read_text() for path in files if path.is_file()]
    parts = (mutation.file, mutation.old, mutation.new, mutation.tests, *contents)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def unmutated_parts(tests: str) -> list[str]:
    """What to run unmutated: each file by itself, so that each runs once; all arguments together with an option."""
    words = shlex.split(tests)
    return [tests] if any(word.startswith("-") for word in words) else words


class Runner:
    """Runs tests in the copies, one process a copy."""

    def __init__(self, trees: list[Tree], records: Records) -> None:
        self.records = records
        self.stop = Event()
        self._trees: queue.Queue[Tree] = queue.Queue()
        for tree in trees:
            self._trees.put(tree)
        self.seconds: dict[str, float] = {}  # of the unmutated tests
        self.broken: dict[str, str] = {}  # what the unmutated tests say that do not pass
        self._baselines = Lock()

    def baseline(self, tests: str) -> None:
        """Sees, once, that the tests pass in the unmutated tree."""
        if tests in self.seconds:
            return
        tree, started = self._trees.get(), time.monotonic()
        try:
            status, said = tree.run_tests(tests, BASELINE_LIMIT, self.stop)
        finally:
            self._trees.put(tree)
        self.seconds[tests] = time.monotonic() - started
        if status != 0:
            self.broken[tests] = f"the unmutated tests end with {status}: {said}"
        print(f"{'pass' if status == 0 else 'FAIL':9}{self.seconds[tests]:6.1f} s  unmutated: {tests}", flush=True)

    def mutate(self, mutation: Mutation, key: str) -> dict:
        """One mutation's result: status, seconds and a note."""
        known = self.records.get(key)
        result = known or self._tried(mutation)
        if result["status"] != ERROR and result["note"] != HANGS:  # it may have been the machine that stood still
            self.records.put(key, result | {"name": mutation.name})
        note = (f": {result['note']}" if result["note"] else "") + (" (known)" if known else "")
        print(f"{result['status']:9}{result['seconds']:6.1f} s  {mutation.area}: {mutation.name}{note}", flush=True)
        return result

    def _tried(self, mutation: Mutation) -> dict:
        parts = unmutated_parts(mutation.tests)
        with self._baselines:
            for part in parts:
                self.baseline(part)
        for part in parts:
            if part in self.broken:
                return {"status": ERROR, "seconds": 0.0, "note": self.broken[part]}
        limit = SLACK + TIMES * sum(self.seconds[part] for part in parts)
        tree, started = self._trees.get(), time.monotonic()
        path = tree.path / mutation.file
        original = path.read_text()
        try:
            path.write_text(mutation.mutated(tree.path))
            status, said = tree.run_tests(mutation.tests, limit, self.stop)
        finally:
            path.write_text(original)
            self._trees.put(tree)
        seconds = round(time.monotonic() - started, 1)
        if status is None:
            return {"status": KILLED, "seconds": seconds, "note": HANGS}
        if status in (0, 1):
            return {"status": KILLED if status else SURVIVED, "seconds": seconds, "note": ""}
        return {"status": ERROR, "seconds": seconds, "note": f"pytest ends with {status}: {said}"}


def run_mutations(mutations: list[Mutation], jobs: int, known: Path) -> list[dict]:
    """Runs the mutations, `jobs` at once; one result each, in order.

    known: the JSON file of earlier results, read and added to.
    """
    records = Records(known)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(jobs) as pool:
        trees = [Tree(copy_tree(Path(folder) / str(number))) for number in range(jobs)]
        runner = Runner(trees, records)
        keys = [key_of(one, trees[0].path) for one in mutations]
        try:
            return list(pool.map(runner.mutate, mutations, keys))
        except BaseException:
            runner.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for tree in trees:
                tree.close()
