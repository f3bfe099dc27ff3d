"""Saved score maps: one HDF5 file an image, so that ensemble and CRF rerun without the network."""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from deconvnet.support.atomic import atomic_hdf5
from deconvnet.support.errors import UserError

MADE_OF = "image"  # the attribute that holds the hash of the image's content


def write_scores(path: Path, scores: np.ndarray, kind: str, made_of: str) -> None:
    """Writes scores (float32 C x H x W) as `kind`, float16 or float32, whole or not at all.

    made_of: the hash of the image's content.
    """
    check_finite(scores, str(path))
    stored = scores.astype(kind)
    if not np.isfinite(stored).all():
        raise UserError(f"{path}: scores that are not finite as float16: set infer.score_type=float32")
    with atomic_hdf5(path) as file:
        file.create_dataset("scores", data=stored, chunks=(1, *stored.shape[1:]), compression="lzf", shuffle=True,
                            fletcher32=True)
        file.attrs[MADE_OF] = np.bytes_(made_of)


def check_finite(scores: np.ndarray, name: str) -> None:
    """Raises UserError for NaN or infinity, of which argmax would make a label without a word."""
    if not np.isfinite(scores).all():
        raise UserError(f"{name}: scores that are not finite: the network is broken; try other weights")


def read_scores(path: Path, size: tuple[int, int], classes: int, made_of: str) -> np.ndarray | None:
    """Scores, float32 C x H x W, of an image of this size (height, width); None where they were made of an image of
    another content, or do not say of which. Raises UserError for a damaged file.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get(MADE_OF) != np.bytes_(made_of):
                return None
            stored = file["scores"]
            if stored.shape != (classes, *size) or stored.dtype not in (np.float16, np.float32):
                raise UserError(f"{path}: scores of shape {stored.shape}, {stored.dtype}; expected {(classes, *size)}, "
                                "classes and the image's height and width: remove it and run again")
            scores = stored[:].astype(np.float32)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a score file, cut short or damaged ({error}): remove it and run again") from None
    if not np.isfinite(scores).all():
        raise UserError(f"{path}: damaged: scores that are not finite: remove it and run again")
    return scores


def file_token(path: Path) -> str:
    """What tells a weights file from another: the start of its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]
