"""Progress bars: a line that moves on a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """tqdm with remaining time; where stderr is no terminal it prints a line every half minute."""
    if sys.stderr.isatty():
        return tqdm(items, dynamic_ncols=True, mininterval=0.2, **options)
    return tqdm(items, mininterval=30, file=_Lines(sys.stderr), **options)


class _Lines:
    """Makes lines of what tqdm draws over itself by carriage returns."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes a bar as a line; leaves out what only moves the cursor or blanks a line."""
        if text := text.strip("\r\n "):
            self.stream.write(f"{text}\n")

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """It is none."""
        return False
