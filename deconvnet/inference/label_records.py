"""labels.json beside the label maps of photographs: what was found in each, how surely, and how long it took."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconvnet.inference.segmentation import Segmentation
from deconvnet.schemas import LabelsRecord, checked
from deconvnet.support.atomic import write_json

EVERY = 10.0  # seconds between two writes while images are labelled: the file may hold thousands of them


class LabelRecords:
    """The content of labels.json; what earlier commands wrote is kept.

    Use it as a context manager: the file is written at its end, whatever ends it.
    """

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        """Raises UserError for a damaged file."""
        self.path, self.class_names = path, class_names
        known = checked(LabelsRecord, path.read_bytes(), path, "remove it") if path.is_file() else LabelsRecord()
        self.images, self.left_out = known.images, known.left_out
        self._written = time.monotonic()

    def __enter__(self) -> "LabelRecords":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def has(self, image_id: str) -> bool:
        """Whether an image's record is there."""
        return _text(image_id) in self.images

    def labelled(self, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """The records of these files by their ids, without those that were left out."""
        return {image_id: self.images[_text(image_id)] for image_id, path in files.items()
                if self.has(image_id) and _text(path.resolve()) not in self.left_out}

    def add(self, image_id: str, record: dict[str, Any]) -> None:
        """An image's record (record_of), in place of an earlier one."""
        self.images[_text(image_id)] = record
        self.left_out.pop(record["path"], None)
        if time.monotonic() > self._written + EVERY:
            self._write()

    def leave_out(self, path: Path, reason: str) -> None:
        """Names a file that could not be used."""
        self.left_out[_text(path.resolve())] = _text(reason)

    def _write(self) -> None:
        content: dict[str, Any] = {"classes": list(self.class_names), "images": self.images, "left_out": self.left_out}
        write_json(self.path, content)
        self._written = time.monotonic()


def record_of(path: Path, result: Segmentation) -> dict[str, Any]:
    """What labels.json holds of a photograph."""
    height, width = result.labels.shape
    rows, columns = result.image.shape[:2]
    return {
        "path": _text(path.resolve()),
        "size": [width, height],
        "labelled_at": [columns, rows],
        "conversions": list(result.conversions),
        "classes": {one.name: {"index": one.index, "pixels": one.pixels, "share": round(one.share, 6),
                               "mean_probability": round(one.mean_probability, 4)} for one in result.found()},
        "seconds": round(result.seconds, 3),
    }


def _text(name: Path | str) -> str:
    """A name that JSON can hold; file names may be no text."""
    return str(name).encode("utf-8", "replace").decode()
