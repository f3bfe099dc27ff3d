"""Hashes of files' contents, which show when a file has changed; only files that were touched are hashed again."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deconvnet.schemas import FileHashes, checked
from deconvnet.support.atomic import write_text
from deconvnet.support.errors import UserError
from deconvnet.support.progress import progress

HASH = "S16"  # NumPy's type of a hash: 16 hexadecimal digits; empty for a missing file
BLOCK = 1 << 22

Stat = list[int]  # size in bytes; times of the last change of content, and of anything, in nanoseconds


class Contents:
    """Hashes of files, kept in a JSON file with each file's size and times."""

    def __init__(self, path: Path, others: Sequence[Path] = ()) -> None:
        """path: where they are kept; others: more such files, read only. What is lost or damaged is hashed again."""
        self.path = path
        self.known: dict[str, tuple[Stat, str]] = {}
        for one in (*others, path):
            self.known |= _read(one)

    def hashes(self, files: Sequence[Sequence[str]]) -> np.ndarray:
        """The hashes of M x F files, by absolute path (M x F of type HASH); empty where there is nothing to read."""
        paths = [path for row in files for path in row]
        stats = [file_stat(path) for path in paths]
        touched = [(path, stat) for path, stat in zip(paths, stats, strict=True)
                   if stat and (path not in self.known or self.known[path][0] != stat)]
        if touched:
            self._hash(touched)
        found = [self.known[path][1] if stat else "" for path, stat in zip(paths, stats, strict=True)]
        return np.array(found, HASH).reshape(len(files), -1)

    def _hash(self, touched: list[tuple[str, Stat]]) -> None:
        try:
            for path, stat in progress(touched, desc="contents of files", unit="file", delay=1):
                self.known[path] = stat, hash_file(path)
        finally:  # what was hashed before an interruption is kept
            write_text(self.path, json.dumps({"files": self.known}))


def hash_file(path: Path | str) -> str:
    """BLAKE2b of a file's content, 16 hexadecimal digits; empty for a file that cannot be read."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def file_stat(path: str) -> Stat:
    """A file's size and times, by which one that was touched is told; empty where there is none."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        return []
    # Users cannot set the second time; the first one can be set, as cp -p, rsync and tar do.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns] if found else []


def _read(path: Path) -> dict[str, tuple[Stat, str]]:
    try:
        return checked(FileHashes, path.read_bytes(), path, "").files
    except (OSError, UserError):  # all files are hashed again
        return {}
