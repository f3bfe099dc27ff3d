"""What the project needs from a data set, and the data sets by their names in recipe key data.format.

A new one needs a file of its own, an entry in DATA_SETS, and its name among that key's choices. The requirements are
tested for every entry in tests/data/test_data_sets.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from deconvnet.data.voc import VocFolder, VocObject


class SegmentationDataset(Protocol):
    """Images, class masks and objects in a folder; picklable, since every worker process reads its own images.

    classes: their names, index 0 is background. Anything wrong with a file is a UserError of one line that names it;
    wrong use (an unknown split) is a UsageError.
    """

    classes: list[str]

    def image_ids(self, split: str) -> list[str]:
        """The ids of a split, in the list's order, each a plain file name, without duplicates. Raises UserError."""

    def fingerprint(self, split: str) -> str:
        """Changes with the class names, the ids and their order: see fingerprint_of."""

    def image_path(self, image_id: str) -> Path:
        """Where an image is. Raises UserError when it is missing."""

    def files(self, image_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Each image's files, as absolute paths: the image, the class mask, and the object mask or annotation; "" for a
        missing one. What was made from them is made again when their contents change.
        """

    def read_image(self, image_id: str) -> np.ndarray:
        """The image, RGB uint8 H x W x 3. Raises UserError."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """The class mask, uint8 H x W, values below the class count or 255 (void). Raises UserError, UnknownLabel for
        any other value.
        """

    def read_pair(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Image and class mask, of the same size. Raises UserError."""

    def objects(self, image_id: str, mask: np.ndarray | None = None, least_pixels: int = 1) -> list[VocObject]:
        """An image's objects, in a fixed order: their pixels have their class in the class mask.

        mask: the class mask if already read. Objects of fewer than `least_pixels` pixels are left out.
        """


# Each is constructed from its folder and the class names; raises UsageError for a folder of another layout.
DATA_SETS: dict[str, Callable[[Path, list[str]], SegmentationDataset]] = {
    "voc": VocFolder,
}
