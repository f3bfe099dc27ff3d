"""Ctrl-C and SIGTERM that wait for what is at work."""

import logging
import signal

log = logging.getLogger(__name__)


class StopRequest:
    """Within it, Ctrl-C and SIGTERM only set `asked`; at its end, KeyboardInterrupt is raised if they came.

    With a message, that is logged when the first comes, and a second one does not wait.
    """

    def __init__(self, message: str = "") -> None:
        self.message, self.asked = message, False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt if one was asked for: a good place to stop."""
        if self.asked:
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        if self.asked and self.message:
            raise KeyboardInterrupt
        if self.message and not self.asked:
            log.info(self.message)
        self.asked = True
