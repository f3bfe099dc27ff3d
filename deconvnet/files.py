"""Files are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    A reader therefore sees the old file, or the new one, never a part. The temporary name keeps the
    suffix, since some writers (Pillow, OpenCV) choose the format by it. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file (UTF-8) whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes a JSON file whole, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2) + "\n")
