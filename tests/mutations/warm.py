"""A process that has big libraries imported and forks pytest runs: importing them is most of a quick test's time.

Its arguments name the libraries. It runs in the tree to be tested, and imports nothing of it before the fork. It reads
a JSON line of pytest's arguments and the output's file; it writes the run's process id, then its exit status.
"""

import importlib
import json
import os
import signal
import sys

import pytest


def run(arguments: list[str], output: str) -> None:
    """The forked process: a group of its own, as a process started anew."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, target), (2, target)):
        os.dup2(source, stream)
    sys.argv = ["pytest", *arguments]
    status = 3
    try:
        status = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    """One run at a time, until the input ends."""
    sys.path[0] = os.getcwd()  # as `python -m pytest` has it
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            run(**json.loads(line))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
