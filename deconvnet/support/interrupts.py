"""Ctrl-C, SIGTERM and SIGHUP: they end a command at a point where nothing is lost.

What was ignored when the command started stays ignored: SIGHUP under nohup, SIGINT in the background of a shell script.
"""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPATIENT = 1.0  # seconds after which a second Ctrl-C is intended: `timeout` and shells send a signal twice at once


Handler = Callable[[int, FrameType | None], Any] | int | None  # as signal.signal takes and returns it


def _set_handlers(handler: Handler) -> dict[int, Handler]:
    """Sets a handler for the signals that are not ignored; returns the previous ones."""
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in taken}


@contextmanager
def unseen() -> Iterator[None]:
    """Processes that this thread starts within it never see the signals. (This process does, in another thread.)"""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Within it, signals only set `asked`; at its end, the previous handler gets the first one that came.

    Usually that raises KeyboardInterrupt; within another request it sets that one's `asked`. A message, if given, is
    logged at the first signal; Ctrl-C a second or more after it interrupts at once.
    """

    def __init__(self, message: str = "") -> None:
        self.message, self.asked = message, False
        self._number, self._first = 0, 0.0

    def __enter__(self) -> "StopRequest":
        self._before = _set_handlers(self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.asked:
            handler = self._before[self._number]
            if not callable(handler):
                raise KeyboardInterrupt
            handler(self._number, None)

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt if a signal came: call it where stopping is safe."""
        if self.asked:
            raise KeyboardInterrupt

    def _ask(self, number: int, _: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._number, self._first = True, number, time.monotonic()
            if self.message:
                log.info(self.message)
        elif self.message and number == signal.SIGINT and time.monotonic() - self._first > IMPATIENT:
            raise KeyboardInterrupt


class Interruptible:
    """Within it, the signals raise KeyboardInterrupt, and none is lost.

    Python drops what is raised in a destructor or a library's callback, with a traceback; here it is raised again a
    moment later, at the end of the block at the latest. A library that fails while cleaning up may turn it into another
    error; it stays an interruption. Signals within a second of the first count as the same one. ends: after the block
    signals are ignored, since the process is about to end.
    """

    def __init__(self, ends: bool = False) -> None:
        self.ends, self.asked = ends, False
        self._last, self._over = -math.inf, False
        self._again: threading.Timer | None = None

    def __enter__(self) -> "Interruptible":
        self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        self._before = _set_handlers(self._raise)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._over = True
        if self._again:
            self._again.cancel()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ends else handler)
        if not self.ends:  # else late destructors stay silent too
            sys.unraisablehook = self._hook
        if self.asked and (kind is None or _made_of_an_interruption(error)):
            raise KeyboardInterrupt

    def _raise(self, *_: object) -> None:
        self.asked, now = True, time.monotonic()
        if not self._over and now - self._last > IMPATIENT:
            self._last = now
            raise KeyboardInterrupt

    def _dropped(self, what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            self._hook(what)
            return
        self._last, main = -math.inf, threading.main_thread().ident
        self._again = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGTERM))
        self._again.daemon = True
        self._again.start()


def _made_of_an_interruption(error: BaseException | None) -> bool:
    """Whether an error arose while a KeyboardInterrupt was being handled: a bug's kind, not a full disk or the user's.

    A UserError that tells of such an error (a library's that reads a file) counts as it.
    """
    while isinstance(error, UserError) and isinstance(error.__context__, Exception):
        error = error.__context__
    if error is None or isinstance(error, UserError | OSError | MemoryError | KeyboardInterrupt):
        return False
    while error := error.__cause__ or error.__context__:
        if isinstance(error, KeyboardInterrupt):
            return True
    return False
