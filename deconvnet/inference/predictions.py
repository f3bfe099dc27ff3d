"""Label maps in a folder: which are there, made in which way, and how another is written beside them."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deconvnet.data.palette import label_png_made_of, write_label_png
from deconvnet.evaluation.scoring import SCORE_FILES
from deconvnet.recipe import CRF_LABELS, ENSEMBLE_LABELS, Recipe, shaping, with_added_keys
from deconvnet.schemas import PredictionRecord, read_json
from deconvnet.support.atomic import atomic_write, remove_leftovers, write_json
from deconvnet.support.errors import UsageError, UserError

log = logging.getLogger(__name__)


def prediction_settings(recipe: Recipe, name: str, split: str | None, scores: list[str], crf: bool) -> dict[str, Any]:
    """What tells label maps made in one way from those made in another.

    name: the prediction's, deconvnet-max-fcn-crf say (its key is "row", as in folders made before). split: None for
    files. scores: the names of the score maps that they are made of, one a network.
    """
    return {"row": name, "split": split, "scores": scores,
            **(shaping(recipe, ENSEMBLE_LABELS) if len(scores) == 2 else {}),
            **(shaping(recipe, CRF_LABELS) if crf else {})}


class Prediction:
    """A folder of label maps made in one way; maps made in another way are not mixed in."""

    def __init__(self, folder: Path, settings: dict[str, Any], record: dict[str, Any], replace_others: bool) -> None:
        """settings: what tells one way from another; record: what else is written down beside the maps.

        replace_others: maps that were made in another way give place to the first new one; else they are an error.
        """
        self.folder, self.marker = folder, folder / "settings.json"
        self.record = {"settings": settings, **record}
        found = read_json(self.marker, PredictionRecord).settings if self.marker.exists() else None
        added = {name: value for name, value in with_added_keys({}).items() if name in settings}
        made = {**added, **found.model_dump()} if found else None  # an older one lacks the keys added since
        self.stale = made != settings and (made is not None or any(folder.glob("*.png")))
        if self.stale and not replace_others:
            raise UsageError(f"{folder}: holds label maps that were made with other settings, of other images perhaps: "
                             "give another --out folder, or remove this one")
        if self.stale:
            log.info("%s: was made with other settings; made anew", folder)

    def has(self, image_id: str, made_of: str, overlay: bool, probabilities: bool = False) -> bool:
        """Whether an image's label map is there, made in this way of this content; with what else is wanted."""
        return (not self.stale and self._png(image_id).is_file() and label_png_made_of(self._png(image_id)) == made_of
                and (self._overlay(image_id).is_file() or not overlay)
                and (self._probabilities(image_id).is_file() or not probabilities))

    def remove_leftovers(self, image_ids: Iterable[str]) -> None:
        """Removes the temporary files that a killed command left where files of these images go."""
        for folder in {path.parent for image_id in image_ids for path in
                       (self._png(image_id), self._overlay(image_id), self._probabilities(image_id))}:
            remove_leftovers(folder)

    def begin(self) -> None:
        """Removes maps that were made in another way, and writes down in which way the new ones are made."""
        if self.stale:
            scores = [self.folder / name for name in SCORE_FILES]
            for path in [*self.folder.glob("*.png"), *self.folder.glob("overlays/*.jpg"), *scores, self.marker]:
                path.unlink(missing_ok=True)
            self.stale = False
        if not self.marker.is_file():
            write_json(self.marker, self.record)

    def write(self, image_id: str, made_of: str, labels: np.ndarray) -> None:
        """Writes labels (uint8 H x W), first of all that is wanted of an image; what is there of another content goes.
        """
        self.begin()  # only now, when a new one is at hand
        path = self._png(image_id)
        if not path.is_file() or label_png_made_of(path) != made_of:
            self._overlay(image_id).unlink(missing_ok=True)
            self._probabilities(image_id).unlink(missing_ok=True)
        write_label_png(path, labels, made_of)

    def write_overlay(self, image_id: str, overlay: np.ndarray) -> None:
        """Writes the labels over the image, RGB uint8."""
        with atomic_write(self._overlay(image_id)) as temporary:
            if not cv2.imwrite(str(temporary), overlay[..., ::-1]):
                raise UserError(f"{self._overlay(image_id)}: cannot be written; is the disk full?")

    def write_probabilities(self, image_id: str, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
        """Writes class probabilities (C x H x W), as float16: three digits, which is more than they are good for."""
        with atomic_write(self._probabilities(image_id)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probabilities=probabilities.astype(np.float16), classes=np.array(class_names))

    def _png(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.png"

    def _overlay(self, image_id: str) -> Path:
        return self.folder / "overlays" / f"{image_id}.jpg"

    def _probabilities(self, image_id: str) -> Path:
        return self.folder / "probabilities" / f"{image_id}.npz"
