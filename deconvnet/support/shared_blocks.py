"""Blocks of bytes that a process and those forked from it write once and then share: in a file without a name."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np

MOST_OF_THE_DISK = 0.5  # of what is free when the blocks are made


class SharedBlocks:
    """Blocks whose lengths are known, each written by whichever process has it first.

    The file is in the folder for temporary files (TMPDIR) and has no name there: it is gone with the last process that
    has it open, killed ones too. The system keeps its pages in memory as long as there is room, once for all processes.
    Two that write the same block at the same time are to write the same bytes. Sent to a process that was not forked,
    it keeps nothing.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, most_bytes: float) -> None:
        """lengths: bytes of each block. most_bytes: the first blocks that fit are kept, the others never are.

        torchrun's ranks on a machine, which have a file each, keep an equal share of that, and of the disk.
        """
        self._ends = np.cumsum(np.asarray(lengths, np.int64))
        self._starts = self._ends - lengths
        self._kept = 0  # how many of the blocks
        if most_bytes:
            most = min(most_bytes, MOST_OF_THE_DISK * shutil.disk_usage(tempfile.gettempdir()).free)
            most /= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            self._kept = int(np.searchsorted(self._ends, most, side="right"))
        if self._kept:
            self._file = tempfile.TemporaryFile(buffering=0)
            self._file.truncate(int(self._ends[self._kept - 1]))
            self._bytes = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            self._there = np.frombuffer(mmap.mmap(-1, self._kept), np.uint8)  # in memory, shared with forked processes

    def __reduce__(self) -> tuple[type, tuple[list[int], int]]:
        return type(self), ([], 0)

    def get(self, number: int) -> np.ndarray | None:
        """A block, uint8, read-only; None if it is not there."""
        if number >= self._kept or not self._there[number]:
            return None
        return self._bytes[self._starts[number] : self._ends[number]]

    def put(self, number: int, *parts: np.ndarray) -> None:
        """Keeps a block, uint8 arrays after each other, if it is one of those kept and the disk is not full."""
        if number >= self._kept:
            return
        content = b"".join(part.tobytes() for part in parts)
        if len(content) != self._ends[number] - self._starts[number]:
            raise ValueError(f"block {number}: {len(content)} bytes")
        try:
            written = os.pwrite(self._file.fileno(), content, int(self._starts[number]))
        except OSError:  # a full disk costs time, no training
            self._kept = 0
            return
        if written == len(content):
            self._there[number] = 1
