"""Whether a data set's files are still those that proposals, windows and a training's examples were made from."""

import hashlib

import numpy as np

from deconvnet.data.columns import FILES
from deconvnet.data.row_files import Rows
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UserError

NAMES = ("image", "class mask", "object mask or annotation")


def hashes_of(run: RunFolder, image_ids: list[str], kind: str) -> np.ndarray:
    """The hashes of the files that 'proposals' or 'windows' are made from: M x F of type HASH."""
    return run.contents.hashes([files[: FILES[kind]] for files in run.voc().files(image_ids)])


def changed_images(run: RunFolder, rows: Rows) -> dict[str, str]:
    """The images whose contents changed since the file was made, each with one of its changed files.

    A file that was added or removed since has changed too.
    """
    differs = hashes_of(run, rows.image_ids, rows.attributes["format"]) != rows.hashes
    changed = np.flatnonzero(differs.any(1))
    ids = [rows.image_ids[index] for index in changed]
    places = differs[changed].argmax(1)
    return {image_id: files[place] or f"its {NAMES[place]}, which is missing now" for image_id, files, place in
            zip(ids, run.voc().files(ids), places, strict=True)}


def check_contents(run: RunFolder, rows: Rows) -> None:
    """Raises UserError if a file of proposals or windows was made from other images or masks than the current ones."""
    changed = changed_images(run, rows)
    if changed:
        image_id, what = next(iter(changed.items()))
        raise UserError(f"{rows.path}: {len(changed)} of its {len(rows.image_ids)} images have changed since it was "
                        f"made, first {image_id} ({what}): run `python -m stages.build_proposals` to make those again")


def windows_made_of(*files: Rows) -> str:
    """Identifies the windows in files, and what they were cut from."""
    columns = [array for rows in files for array in (rows.first, rows.hashes, *rows.columns.values())]
    return _told_by([image_id for rows in files for image_id in rows.image_ids], columns)


def images_made_of(run: RunFolder, *splits: list[str]) -> str:
    """Identifies the images of splits, and their class masks."""
    ids = [image_id for split in splits for image_id in split]
    return _told_by(ids, [run.contents.hashes([files[:2] for files in run.voc().files(ids)])])


def _told_by(image_ids: list[str], arrays: list[np.ndarray]) -> str:
    digest = hashlib.blake2b("\n".join(image_ids).encode(), digest_size=8)
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
