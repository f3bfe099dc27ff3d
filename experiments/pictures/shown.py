"""What the figures read of a run: its images, label maps, scores, networks and proposals, each opened when needed."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from deconvnet.conventions import VOID
from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.images import read_label_png
from deconvnet.data.row_files import Rows, read_rows
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.evaluation.rows import Row, infer_command, table_rows
from deconvnet.evaluation.scoring import ImageScore, score
from deconvnet.inference.networks import ImageScorer, weights_of_run
from deconvnet.inference.saved_scores import SavedScores
from deconvnet.inference.sources import Source
from deconvnet.recipe_files import override
from deconvnet.run_folder import RunFolder
from deconvnet.segmenter import Proposer
from deconvnet.support.errors import UsageError

log = logging.getLogger(__name__)

ENSEMBLE = ("FCN-8s", "DeconvNet", "EDeconvNet")  # the rows that the paper's Figure 7 compares


class NotThere(UsageError):
    """A figure's inputs are not in the run folder; the message says which command makes them."""


class ShownRun:
    """A run whose figures are drawn."""

    def __init__(self, run: RunFolder, split: str | None = None, aggregate: str = "max", image: str | None = None,
                 classes: Sequence[str] = (), curve_images: int = 40) -> None:
        """split: None for the validation split. image: the one that figures of one image show; None: each by its own
        rule. classes: those of the probability maps; empty: by their rule. curve_images: the most that the curve of the
        proposals is measured on.
        """
        self.run, self.split, self.aggregate = run, split or run.recipe.data.val_split, aggregate
        self.image, self.chosen_classes, self.curve_images = image, tuple(classes), curve_images
        self.recipe = override(run.recipe, [f"infer.aggregate={aggregate}"])
        self.classes = run.recipe.data.classes

    @cached_property
    def voc(self) -> SegmentationDataset:
        """The data set."""
        return self.run.voc()

    @cached_property
    def image_ids(self) -> list[str]:
        """Of the split."""
        return self.voc.image_ids(self.split)

    @property
    def data(self) -> str:
        """The images, in a caption's words."""
        return f"the {len(self.image_ids)} images of {self.split}"

    @cached_property
    def rows(self) -> dict[str, Path]:
        """The folders of the table's rows that are whole, by title."""
        folders = {row.title: self.folder(row) for row in table_rows(self.aggregate, self.recipe)}
        return {title: folder for title, folder in folders.items()
                if all((folder / f"{image_id}.png").is_file() for image_id in self.image_ids)}

    def folder(self, row: Row) -> Path:
        """Where a row's label maps are."""
        return self.run.root / "predictions" / self.split / row.folder

    @cached_property
    def measured(self) -> dict[str, tuple[ConfusionMatrix, list[ImageScore]]]:
        """Each whole row's confusion matrix, and its images' own scores in the order of the ids."""
        return {title: score(self.voc, self.image_ids, folder) for title, folder in self.rows.items()}

    def image_iou(self, title: str) -> np.ndarray:
        """Each image's own mean IoU in a row, float64 M; NaN for an image of void alone. Raises NotThere."""
        self.require(title)
        return np.array([one.mean_iou for one in self.measured[title][1]])

    def require(self, *titles: str) -> None:
        """Raises NotThere unless these rows are whole; without any, unless one is."""
        missing = [row for row in table_rows(self.aggregate, self.recipe)
                   if row.title not in self.rows and (row.title in titles or not (titles or self.rows))]
        if missing:
            command = " ".join(infer_command(missing[0], self.run.root, self.split))
            raise NotThere(f"label maps of {missing[0].title} are needed: `python {command}` makes them")

    def labels(self, title: str, image_id: str) -> np.ndarray:
        """A row's labels of an image, uint8 H x W."""
        return read_label_png(self.rows[title] / f"{image_id}.png")

    def iou_of(self, labels: np.ndarray, truth: np.ndarray, name: str) -> float:
        """An image's own mean IoU, over the classes that its truth has; NaN where all is void."""
        confusion = ConfusionMatrix(self.classes)
        confusion.add(labels, truth, name)
        return confusion.image_mean_iou()

    def best_image(self) -> str:
        """The image that --image names; else, of those with objects of several classes (of all, where none has them),
        the one of the highest mean IoU of its own by DeconvNet. Raises NotThere.
        """
        if self.image:
            return self.image
        several = (self.class_pixels[:, 1:] > 0).sum(1) > 1
        iou = np.nan_to_num(self.image_iou("DeconvNet"), nan=-1)
        return self.image_ids[int(np.where(several | ~several.any(), iou, -2).argmax())]

    @property
    def best_image_rule(self) -> str:
        """How best_image chose, in a caption's words."""
        return "named with --image" if self.image else (
            f"among those of {self.data} that show several classes, the one that DeconvNet labels best by mean IoU")

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """How many pixels of each class each image's mask has: int64 M x C."""
        masks = (self.voc.read_mask(image_id) for image_id in self.image_ids)
        return np.stack([np.bincount(mask[mask != VOID], minlength=len(self.classes)) for mask in masks])

    @cached_property
    def _scorers(self) -> dict[str, ImageScorer]:
        return {}

    def scorer(self, kind: str) -> ImageScorer:
        """A network of the run. Raises NotThere if it was not trained."""
        if kind not in self._scorers:
            try:
                weights = weights_of_run(self.run, kind)
            except UsageError as error:
                raise NotThere(str(error)) from None
            self._scorers[kind] = ImageScorer(kind, weights, self.recipe)
        return self._scorers[kind]

    @cached_property
    def source(self) -> Source:
        """The split's images and their proposals."""
        return Source(self.run, Proposer(self.recipe, None, self.run), self.split)

    def scores(self, kind: str, image_id: str) -> np.ndarray:
        """A network's scores of an image, float32 C x H x W, kept in the run folder as stages.infer keeps them."""
        return SavedScores(self.source, self.scorer(kind))(image_id, self.voc.read_image(image_id))

    def window_rows(self, stage: int, split: str) -> Rows:
        """The windows of a stage. Raises NotThere."""
        return self._rows_of(self.run.windows(stage, split), "windows", split)

    def proposal_rows(self) -> Rows:
        """The split's proposals. Raises NotThere."""
        return self._rows_of(self.run.proposals(self.split), "proposals", self.split)

    def _rows_of(self, path: Path, kind: str, split: str) -> Rows:
        if not path.is_file():
            raise NotThere(f"{path} is needed: `python -m stages.build_proposals --run {self.run.root} --split "
                           f"{split}` makes it")
        return read_rows(path, kind, self.voc.fingerprint(split))


def class_iou(labels: np.ndarray, truth: np.ndarray, label: int) -> float:
    """IoU of one class in an image (label maps H x W), void left out; NaN where neither has it."""
    found, true = labels[truth != VOID] == label, truth[truth != VOID] == label
    either = (found | true).sum()
    return float((found & true).sum() / either) if either else float("nan")
