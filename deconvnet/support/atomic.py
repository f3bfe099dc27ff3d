"""Files are written completely or not at all."""

import hashlib
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.support.interrupts import StopRequest

if TYPE_CHECKING:
    import h5py

LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary files have longer names


def check_name(name: str, what: str, wanted: str) -> None:
    """Raises ValueError unless `name` is a plain file name: no path, not hidden as temporary files are, not too long.

    what, wanted: for the message, "WHAT is NAME; expected WANTED".
    """
    if not name or name[0] == "." or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{what} is {name[:80]!r}; expected {wanted}: no folder, no leading dot, no suffix")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{what} is {name[:40]!r}..., {len(name.encode())} bytes long; expected {wanted} of at most "
                         f"{LONGEST_NAME}")



def host_code(name: str) -> str:
    """A host's name as 8 characters: those of pods are long, and differ in their ends alone."""
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


HOST = host_code(socket.gethostname())  # in temporary names: machines that share a folder have the same process ids
_TEMPORARY = re.compile(r"\..+?(?:\.([0-9a-f]{8}))?\.(\d+)\.part(\.\w+)?")  # temporary_name's; earlier ones had no host
LONGEST_WRITE = 24 * 3600.0  # seconds: what another machine has not touched for so long is nobody's


def temporary_name(path: Path, process: int) -> str:
    """The name of the file that a process of this machine writes to become `path`."""
    return f".{path.stem}.{HOST}.{process}.part{path.suffix}"


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    So a reader sees the old file or the new one, never a part. The temporary name keeps the suffix, since some writers
    (Pillow, OpenCV) choose the format by it. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path, os.getpid()))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder; those of running processes stay.

    Whether another machine's process is running is not known here: its files go when they are older than a day.
    """
    for left in folder.glob(".*.part*"):
        if not (found := _TEMPORARY.fullmatch(left.name)):
            continue
        gone = not is_running(int(found[2])) if found[1] == HOST else _is_old(left)
        if gone:
            left.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - LONGEST_WRITE
    except FileNotFoundError:  # finished, or removed by its machine
        return False


def is_running(process: int) -> bool:
    """Whether a process with this id is running on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextmanager
def atomic_hdf5(path: Path | str) -> "Iterator[h5py.File]":
    """Yields an HDF5 file to write into; it becomes `path` completely or not at all. Raises OSError for a full disk.

    HDF5 does not survive a failed write: it prints tracebacks for every open object, and then crashes the process. So
    failures are hidden from it, and raised afterwards. Nor does it survive Ctrl-C in one of our functions that it
    calls: that is delayed to the end, or to a StopRequest within.
    """
    import h5py

    with StopRequest(), atomic_write(path) as temporary, _Forgiving(temporary) as disk:
        try:
            with h5py.File(disk, "w", libver=("v110", "v110")) as file:
                yield file
        finally:
            if disk.failure:
                raise disk.failure


class _Forgiving(io.FileIO):
    """A file that stores its first failure in `failure` and ignores all writes after it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while self.failure is None and len(rest):
                rest = rest[super().write(rest):]
        except OSError as error:
            self.failure = error
        return len(memoryview(data).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file (UTF-8), completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes a JSON file, completely or not at all, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2) + "\n")
