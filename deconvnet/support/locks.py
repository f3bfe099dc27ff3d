"""One command at a time may write a file or folder; a second one is told who holds it."""

import errno
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UserError

log = logging.getLogger(__name__)

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # errors of file systems without it
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a file or folder, .NAME.lock beside it, released when the process ends, even if killed.

    Raises UserError, which names the holder, if it is taken; wait: waits for it instead. In a read-only folder there is
    no lock: nothing can be damaged there.
    """
    path = Path(path).resolve()
    place = path.with_name(f".{path.name}.lock")
    who = place.with_suffix(".holder")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(place, path, who, wait)
    except OSError as error:
        if error.errno not in READ_ONLY or os.access(place.parent, os.W_OK):
            raise
        yield
        return
    try:
        write_json(who, {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                         "command": " ".join(shlex.join(["python", *sys.orig_argv[1:]]).split())[:300]})
        yield
    finally:
        who.unlink(missing_ok=True)
        if isinstance(lock, FileLock):  # while held; filelock notices when a file it waited for is gone
            place.unlink(missing_ok=True)
        lock.release()


def _acquired(place: Path, path: Path, who: Path, wait: bool) -> BaseFileLock:
    lock: BaseFileLock = FileLock(place, timeout=0, fallback_to_soft=False)
    try:
        return _acquire(lock, path, who, wait)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    log.warning("%s: this file system has no locks: if a command is killed by force there, remove %s", path.parent,
                place)
    if not place.stat().st_size:  # left by the attempt above; a soft lock's file names its holder
        place.unlink()
    return _acquire(SoftFileLock(place, timeout=0), path, who, wait)


def _acquire(lock: BaseFileLock, path: Path, who: Path, wait: bool) -> BaseFileLock:
    try:
        lock.acquire()
    except Timeout:
        holder = _holder(who)
        if not wait:
            raise UserError(f"{path}: in use by {holder}: wait until it ends, or end it, and run again") from None
        log.info("%s: waiting for %s", path, holder)
        lock.acquire(timeout=-1)
    return lock


def _holder(who: Path) -> str:
    """Who holds a lock, in words. (A killed command's workers do not: filelock lets go of it in a forked process.)"""
    try:
        found = json.loads(who.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']} ({found['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command"  # that has only just begun
