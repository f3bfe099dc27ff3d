"""What every command shares: its parser's look, logging, and errors that fit on one line.

A command's file imports above what its parser needs; what does the work is imported by the functions that do it. So
--help and a mistyped option are answered in a fraction of a second.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deconvnet.conventions import DEFAULT_RECIPE, DEFAULT_RUN, SYNTHETIC
from deconvnet.support.errors import UsageError, UserError, describe
from deconvnet.support.interrupts import Interruptible

if TYPE_CHECKING:
    from deconvnet.support.engines import Engine

INTERRUPTED = 130  # the shell's convention: 128 + SIGINT
ENDS_WITH = "DECONVNET_ENDS_WITH"  # environment: the process (its id) that started this one and must not be outlived


def make_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example, and which knows --debug."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def run_command(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None],
                arguments: list[str] | None = None) -> int:
    """Parses, runs `command`, turns its errors into one line and an exit status.

    Returns 0; 2 for wrong use (argparse itself exits with 2); 1 for any other failure; 130 when interrupted by Ctrl-C,
    SIGTERM (an ended job, as on a cluster) or SIGHUP (a closed terminal). arguments: None for those of this process,
    which then is to end with the status returned.
    """
    options = parser.parse_args(arguments)
    from tqdm.contrib.logging import logging_redirect_tqdm

    sys.excepthook = sys.__excepthook__  # the command's imports are over
    logging.raiseExceptions = options.debug  # an interruption inside tqdm's lock would print a traceback
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    if not options.debug:
        threading.excepthook = _thread_failed
    if ENDS_WITH in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ.pop(ENDS_WITH)),), daemon=True).start()
    try:
        with Interruptible(ends=arguments is None), logging_redirect_tqdm():
            command(options)
        return 0
    except KeyboardInterrupt as stop:
        _say(f"interrupted; {str(stop) or 'what was finished is kept: run the same command again to continue'}")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads our output any more
        return 1
    except Exception as error:
        if options.debug:
            raise
        _say(f"error: {describe(error)}")
        return error.exit_status if isinstance(error, UserError) else 1


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """A full disk in a thread (TensorBoard's writer) reaches the command too, at its next write, and is told there."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _end_with(parent: int) -> None:
    """Interrupts this process when the one that started it has ended, killed perhaps."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def default_run() -> Path:
    """The run folder where none is named: $DECONVNET_RUN, else runs/default."""
    return Path(os.environ.get("DECONVNET_RUN", DEFAULT_RUN))


def add_run(parser: argparse._ActionsContainer) -> None:
    """--run."""
    parser.add_argument("--run", type=Path, metavar="FOLDER", default=default_run(),
                        help=f"run folder (default: $DECONVNET_RUN, else {DEFAULT_RUN})")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--run, --recipe, --set, --voc-root: the same for every command."""
    group = parser.add_argument_group("run")
    add_run(group)
    group.add_argument("--recipe", metavar="NAME",
                       help="a recipe of experiments/recipes or a YAML file (default: the run's own, else "
                            f"{DEFAULT_RECIPE})")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                       help="change a recipe key; may repeat (`python -m stages.inspect recipe` lists the keys)")
    group.add_argument("--from", type=Path, dest="source", metavar="RUN",
                       help="start the run with another run's recipe (and --set), on that run's proposals and windows, "
                            "which are read in place")
    group.add_argument("--voc-root", type=Path, metavar="FOLDER",
                       help="VOC-layout folder (default: the run's own, else $DECONVNET_VOC_ROOT, else a synthetic set "
                            f"made in {SYNTHETIC})")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """--engine, --address."""
    group = parser.add_argument_group("where the work is done")
    group.add_argument("--engine", choices=("local", "ray"), default="local",
                       help="this machine, or a Ray cluster, which takes `pip install '.[cluster]'` (docs/clusters.md; "
                            "default: local)")
    group.add_argument("--address", metavar="HOST:PORT",
                       help="--engine ray: the cluster's head node or local, one of this machine alone, which ends "
                            "with the command (default: $RAY_ADDRESS, else a cluster that runs on this machine, else "
                            "local)")


@contextmanager
def engine_of(options: argparse.Namespace, workers: int | None = None, device: str = "cpu",
              per_gpu: int = 1) -> Iterator["Engine | None"]:
    """What --engine names, until the end of the block; None for this machine's own. The rest: see ray_engine."""
    if options.engine == "ray":
        from deconvnet.support.ray_engine import connected

        with connected(options.address, workers, device, per_gpu) as engine:
            yield engine
        return
    if options.address:
        raise UsageError("--address is for --engine ray alone")
    yield None
