"""The commands: `python -m stages.NAME --help`. Imported by a program, this package changes nothing of it."""

import signal
import sys
from pathlib import Path
from types import TracebackType


def _leave_out_the_working_folder() -> None:
    """`python -m` puts the working folder first on the path, where a package named crf, say, would hide ours.

    It goes, unless it is where these commands are; what an installed command imports, it finds without it.
    """
    if getattr(sys.flags, "safe_path", False):  # it is not there
        return
    try:
        working, here = Path.cwd().resolve(), Path(__file__).resolve().parents[1]
        if sys.path and Path(sys.path[0]).resolve() == working != here:
            del sys.path[0]
    except OSError:  # the working folder was removed
        return


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook. Ctrl-C while a command still imports its libraries: one line there too, no traceback.

    run_command ends it.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted; nothing was started", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)  # so that the shell sees 130
    sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m` imports this package, to find the command in it
    _leave_out_the_working_folder()
    sys.excepthook = end_quietly
