"""Progress bars: a moving line on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """tqdm with remaining time; if stderr is not a terminal it prints a line every half minute."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, dynamic_ncols=True, mininterval=0.2, **options)
    return tqdm(items, mininterval=30, file=_Lines(sys.stderr), **options)


class _Lines:
    """Turns tqdm's redrawing by carriage returns into lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes a bar as a line; skips what only moves the cursor or clears a line."""
        if text := text.strip("\r\n "):
            self.stream.write(f"{text}\n")

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """It is not a terminal."""
        return False
