"""Ctrl-C, SIGTERM and SIGHUP: they end a command at a place where nothing is lost.

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
IMPATIENT = 1.0  # seconds after which another Ctrl-C is meant: `timeout` and shells send a signal twice at once


Handler = Callable[[int, FrameType | None], Any] | int | None  # as signal.signal takes and returns it


def _set_handlers(handler: Handler) -> dict[int, Handler]:
    """Gives the signals that are not ignored a handler; returns those they had."""
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in taken}


@contextmanager
def unseen() -> Iterator[None]:
    """Processes that this thread starts within it never see the signals. (This process does: by another thread.)"""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Within it, the signals only set `asked`; at its end, whoever was to answer before it gets the first that came.

    As a rule that raises KeyboardInterrupt; within another request it sets that one's `asked`. With a message, that is
    logged when the first comes, and Ctrl-C a second or more after it does not wait.
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
        """Raises KeyboardInterrupt if one was asked for: a good place to stop."""
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
    moment later, at the end of the block at the latest. A library that tidies up what was left half done may fail
    and make another error of it; it stays an interruption. Signals within a second of the first are taken for the
    same one. ends: behind the block the signals are ignored, since nothing is left but the end of the process.
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
        if not self.ends:  # else late destructors are quiet too
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
    """Whether an error arose while a KeyboardInterrupt was on its way: a bug's kind, not a full disk or the user's."""
    if error is None or isinstance(error, UserError | OSError | MemoryError | KeyboardInterrupt):
        return False
    while error := error.__cause__ or error.__context__:
        if isinstance(error, KeyboardInterrupt):
            return True
    return False
