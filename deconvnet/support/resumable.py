"""Work on many images, one part file each, so that an interrupted command continues where it stopped."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from deconvnet.support.atomic import atomic_write
from deconvnet.support.engines import Engine, LocalEngine, Work
from deconvnet.support.errors import UnknownLabel, UserError
from deconvnet.support.progress import progress

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def make_parts(folder: Path, image_ids: list[str], work: Callable[[str], Arrays], workers: int, on_error: str,
               description: str, engine: Engine | None = None) -> list[str]:
    """Calls `work(image_id)` for each image without a part yet; keeps its arrays in folder/ID.npz, written completely
    or not at all.

    work: picklable, sent to each worker once; raises UserError for an image that cannot be used. on_error: 'stop'
    raises it, naming the image; 'skip' logs it at once and continues. engine: None: `workers` processes of this
    machine. Returns the ids that have a part, in the given order. Raises UserError if none has one, LostWorker if a
    worker was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [image_id for image_id in image_ids if not part_path(folder, image_id).exists()]
    if len(missing) < len(image_ids):
        log.info("%s: %d of %d images are already done", description, len(image_ids) - len(missing), len(image_ids))
    skipped = set()
    with progress(total=len(missing), desc=description, unit="image") as bar:
        for image_id, error in (engine or LocalEngine(workers)).map(_PartWork(work, folder), missing):
            bar.update()
            if error is None:
                continue
            if on_error == "stop":
                hint = "" if isinstance(error, UnknownLabel) else "; --on-error skip skips such images"
                raise UserError(f"{error} (image {image_id}{hint})")
            log.warning("skipped: %s (image %s)", error, image_id)
            skipped.add(image_id)
    if skipped:
        log.warning("%s: %d images skipped", description, len(skipped))
    if len(skipped) == len(image_ids):
        raise UserError(f"{description}: none of the {len(image_ids)} images could be used")
    return [image_id for image_id in image_ids if image_id not in skipped]


def part_path(folder: Path, image_id: str) -> Path:
    """Where an image's part is."""
    return folder / f"{image_id}.npz"


def write_part(folder: Path, image_id: str, arrays: Arrays) -> None:
    """Writes an image's arrays, completely or not at all."""
    with atomic_write(part_path(folder, image_id)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # none is named as savez's option allow_pickle


def read_part(folder: Path, image_id: str) -> Arrays:
    """An image's arrays. Raises UserError if the part is damaged, for example by a crash of the machine."""
    path = part_path(folder, image_id)
    try:
        with np.load(path, allow_pickle=False) as part:
            return dict(part)
    except (ValueError, EOFError, KeyError, BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}); remove it and run the same command again") from None


def remove_parts(folder: Path) -> None:
    """Removes the parts, once the file made from them is complete."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@dataclass(frozen=True)
class _PartWork(Work[str, None]):
    """Makes one image's part."""

    work: Callable[[str], Arrays]
    folder: Path

    def __call__(self, image_id: str) -> None:
        write_part(self.folder, image_id, self.work(image_id))
