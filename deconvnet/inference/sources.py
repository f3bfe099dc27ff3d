"""The images to be labelled, and their proposals: a split of the run's data set, or files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from deconvnet.data.row_files import Rows, read_rows
from deconvnet.run_contents import check_contents
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Proposer(Protocol):
    """Finds the boxes of images that have none in a file."""

    def boxes(self, image: np.ndarray) -> np.ndarray:
        """The boxes of an image (RGB uint8 H x W x 3), int32 N x 4, best first."""

    def shaped_by(self) -> dict[str, object]:
        """All that decides what boxes are found."""


class Source:
    """The images to be labelled, by their ids: a split of the run's data set, or files."""

    def __init__(self, run: RunFolder, proposer: Proposer, split: str | None = None,
                 files: Sequence[Path] | None = None, folder: Path | None = None) -> None:
        """split: its name; None: the validation split. files: images and folders of images, instead of a split.

        folder: where their label maps go; None: the run's. Raises UsageError for a split or file that is not there.
        """
        self.run, self.proposer = run, proposer
        self.split: str | None = None
        if files:
            self.paths = _image_files(files)
            self.folder = run.root / "labelled"
            self.made_of = dict.fromkeys(self.paths, "")  # nothing is kept of these, so nothing is compared
        else:
            self.split = split or run.recipe.data.val_split
            voc = run.voc()
            self.paths = {image_id: voc.image_path(image_id) for image_id in voc.image_ids(self.split)}
            self.folder = run.root / "predictions" / self.split
            hashes = run.contents.hashes([files[:1] for files in voc.files(list(self.paths))])
            self.made_of = dict(zip(self.paths, hashes[:, 0].astype(str), strict=True))
        self.folder = folder or self.folder

    @cached_property
    def _saved(self) -> Rows | None:
        if self.split is None or not self.run.proposals(self.split).is_file():
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


def _image_files(given: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in given:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        inside = [path]
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise UsageError(f"{path}: no images in it (looked for {', '.join(IMAGE_SUFFIXES)})")
        for one in inside:
            if one.stem in files:
                raise UsageError(f"{one}: same name as {files[one.stem]}; both would be written to {one.stem}.png")
            files[one.stem] = one
    return files
