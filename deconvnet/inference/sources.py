"""The images of a split that is to be labelled, and their proposals."""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from deconvnet.data.row_files import Rows, read_rows
from deconvnet.run_contents import check_contents
from deconvnet.run_folder import RunFolder


class Proposer(Protocol):
    """Finds the boxes of images that have none in a file."""

    def boxes(self, image: np.ndarray) -> np.ndarray:
        """The boxes of an image (RGB uint8 H x W x 3), int32 N x 4, best first."""

    def shaped_by(self) -> dict[str, object]:
        """All that decides what boxes are found."""


class Source:
    """A split's images, by their ids."""

    def __init__(self, run: RunFolder, proposer: Proposer, split: str | None = None,
                 folder: Path | None = None) -> None:
        """split: its name; None: the validation split. folder: where the label maps go; None: the run's.

        Raises UsageError for a split that is not there.
        """
        self.run, self.proposer = run, proposer
        self.split = split or run.recipe.data.val_split
        voc = run.voc()
        self.paths = {image_id: voc.image_path(image_id) for image_id in voc.image_ids(self.split)}
        self.folder = folder or run.root / "predictions" / self.split
        hashes = run.contents.hashes([files[:1] for files in voc.files(list(self.paths))])
        self.made_of = dict(zip(self.paths, hashes[:, 0].astype(str), strict=True))

    @cached_property
    def _saved(self) -> Rows | None:
        if not self.run.proposals(self.split).is_file():
            return None
        saved = read_rows(self.run.proposals(self.split), "proposals", self.run.voc().fingerprint(self.split))
        check_contents(self.run, saved)
        return saved

    def shaped_by(self) -> dict[str, object]:
        """What the proposals are made with."""
        return self._saved.attributes["shaped_by"] if self._saved else self.proposer.shaped_by()

    def boxes(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """An image's proposals, best first: from the split's file where stages.build_proposals made one."""
        if not self._saved:
            return self.proposer.boxes(image)
        self._saved.check_size(image_id, image.shape[:2])
        return self._saved.of_image(image_id)["boxes"]
