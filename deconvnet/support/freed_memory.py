"""What becomes of memory that this process has freed."""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory(most: int = -1) -> None:
    """Large maps that are freed stay with this process, for the next ones, as they do on a GPU. Linux (glibc) only.

    By itself glibc gives them back, and the kernel clears their pages anew for every layer of every step: a third to a
    half of a training step on CPU, a tenth of a CRF. The price is memory that is not given back: about a third more.
    Of aligned blocks of one size, as torch's are, up to eight are new ones before one is taken again (glibc 2.36,
    measured: 4 to 8; it seems that small remainders between them stay in a thread's cache until that is full).
    most: bytes that are kept at the end of what the process has; -1: all.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)  # no block has pages of its own, which would go when it goes
        library.mallopt(M_TRIM_THRESHOLD, most)
