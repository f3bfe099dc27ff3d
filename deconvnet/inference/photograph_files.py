"""Which files are meant by the photographs and folders that a user names, and what their label maps are called."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deconvnet.data.photographs import SUFFIXES
from deconvnet.support.errors import UsageError


def photograph_files(given: Sequence[Path], recursive: bool, out: Path,
                     leave_out: Callable[[Path, UsageError], None] | None = None) -> dict[str, Path]:
    """The photographs in order, by the names of their label maps.

    A file's name is its own without the suffix; in a folder within a folder it begins with the folders between.
    recursive: folders within folders too. Hidden files, and what is in `out`, where the results go, are passed over; a
    file that is met twice is taken once. leave_out: called with a file whose name another one has; None: that is an
    error. Raises UsageError, for what is not there and for a folder without photographs too.
    """
    files: dict[str, Path] = {}
    met: set[Path] = set()
    for path in given:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        inside = sorted(_inside(path, recursive, out.resolve())) if path.is_dir() else [path]
        if not inside:
            deeper = "" if recursive else "; --recursive looks into its folders too"
            raise UsageError(f"{path}: no images in it (looked for {', '.join(SUFFIXES)}{deeper})")
        for one in inside:
            if one.resolve() in met:
                continue
            met.add(one.resolve())
            name = (one.relative_to(path) if path.is_dir() else Path(one.name)).with_suffix("").as_posix()
            if name not in files:
                files[name] = one
                continue
            error = UsageError(f"{one}: same name as {files[name]}; both would be written to {name}.png")
            if not leave_out:
                raise error
            leave_out(one, error)
    return files


def _inside(folder: Path, recursive: bool, out: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):  # links to folders are not followed: they may lead round in a circle
        for name in names:
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                yield Path(place, name)
        deeper = [one for one in folders if one[0] != "." and Path(place, one).resolve() != out] if recursive else []
        folders[:] = deeper
