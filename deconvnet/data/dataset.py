"""What every part asks of a data set, and the data sets by the name that recipe key data.format has for them.

A new one is a file of its own, an entry of DATA_SETS, and its name among that key's choices. What each must keep to is
tested for every entry: tests/data/test_data_sets.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from deconvnet.data.voc import VocFolder, VocObject


class SegmentationDataset(Protocol):
    """Images, class masks and objects in a folder; picklable, since every worker process reads for itself.

    classes: their names, index 0 is background. Whatever cannot be trusted is a UserError of one line that names the
    file; wrong use (a split that is none) is a UsageError.
    """

    classes: list[str]

    def image_ids(self, split: str) -> list[str]:
        """The ids of a split, in the list's order, each a plain file name, none twice. Raises UserError."""

    def fingerprint(self, split: str) -> str:
        """Another one for other class names, other ids or another order: see fingerprint_of."""

    def image_path(self, image_id: str) -> Path:
        """Where an image is. Raises UserError when it is missing."""

    def files(self, image_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Each image's files, as absolute paths: the picture, the class mask, and what tells its objects apart; "" for
        one that is not there. What was made of them is made again when their contents change.
        """

    def read_image(self, image_id: str) -> np.ndarray:
        """The image, RGB uint8 H x W x 3. Raises UserError."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """The class mask, uint8 H x W, values below the class count or 255 (void). Raises UserError, UnknownLabel for
        a value between.
        """

    def read_pair(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Image and class mask, of one size. Raises UserError."""

    def objects(self, image_id: str, mask: np.ndarray | None = None, least_pixels: int = 1) -> list[VocObject]:
        """An image's objects, in a fixed order: their pixels have their class in the class mask.

        mask: the class mask when it is at hand. Objects of fewer than `least_pixels` pixels are left out.
        """


# Each is made from its folder and the class names; raises UsageError for a folder that is none of its kind.
DATA_SETS: dict[str, Callable[[Path, list[str]], SegmentationDataset]] = {
    "voc": VocFolder,
}
