"""Progress bars: a line that moves on a terminal, a line now and then in a log file."""

import sys
from typing import Any

from tqdm import tqdm


def progress(*arguments: Any, **options: Any) -> tqdm:
    """tqdm with remaining time; where stderr is no terminal it prints every half minute."""
    return tqdm(*arguments, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, **options)
