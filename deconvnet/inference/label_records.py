"""labels.json beside the label maps of photographs: what was found in each, how surely, and how long it took."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deconvnet.inference.segmentation import Segmentation
from deconvnet.schemas import LabelsRecord, checked
from deconvnet.support.atomic import atomic_write

EVERY = 10.0  # seconds between two writes while images are labelled: the file may hold thousands of them


class LabelRecords:
    """The content of labels.json; what earlier commands wrote is kept.

    Use it as a context manager: the file is written at its end, whatever ends it. Each record is held as the line that
    it is in the file: as objects, those of a hundred thousand photographs would fill half a gigabyte.
    """

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        """Raises UserError for a damaged file."""
        self.path, self.class_names = path, class_names
        known = checked(LabelsRecord, path.read_bytes(), path, "remove it") if path.is_file() else LabelsRecord()
        self._lines = {name: json.dumps(record) for name, record in known.images.items()}
        self.left_out = known.left_out
        self._written = time.monotonic()

    def __enter__(self) -> "LabelRecords":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def has(self, image_id: str) -> bool:
        """Whether an image's record is there."""
        return _text(image_id) in self._lines

    def labelled(self, files: Mapping[str, Path]) -> list[str]:
        """Those of these files, by their ids, that have a record and were not left out."""
        return [image_id for image_id, path in files.items()
                if self.has(image_id) and _text(path.resolve()) not in self.left_out]

    def record(self, image_id: str) -> dict[str, Any]:
        """An image's record."""
        return json.loads(self._lines[_text(image_id)])

    def add(self, image_id: str, record: dict[str, Any]) -> None:
        """An image's record (record_of), in place of an earlier one."""
        self._lines[_text(image_id)] = json.dumps(record)
        self.left_out.pop(record["path"], None)
        if time.monotonic() > self._written + EVERY:
            self._write()

    def forget(self, image_ids: Iterable[str]) -> None:
        """Drops the records of images that are about to be labelled anew: killed in between, they would tell of others.
        """
        known = [name for name in map(_text, image_ids) if self._lines.pop(name, None)]
        if known:
            self._write()

    def leave_out(self, path: Path, reason: str) -> None:
        """Names a file that could not be used."""
        self.left_out[_text(path.resolve())] = _text(reason)

    def _write(self) -> None:
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"classes": {json.dumps(list(self.class_names))},\n"images": {{')
            for number, (name, line) in enumerate(self._lines.items()):
                file.write(f'{"," if number else ""}\n{json.dumps(name)}: {line}')
            file.write(f'\n}},\n"left_out": {json.dumps(self.left_out, indent=2)}}}\n')
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
