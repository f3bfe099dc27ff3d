"""The commands: `python -m stages.NAME --help`."""

import signal
import sys
from types import TracebackType


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command still imports its libraries, which takes seconds: one line there too, no traceback.

    run_command ends it.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted; nothing was begun", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)  # so that the shell sees 130
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _quietly
