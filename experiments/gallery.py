"""A run's images for its report: each with truth, the label maps and scores of the table's rows, and proposals."""

from dataclasses import dataclass
from pathlib import Path

from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.images import read_label_png
from deconvnet.data.row_files import Rows, read_rows
from deconvnet.evaluation.scoring import has_masks
from deconvnet.reporting.gallery import Entry, Gallery, entry, shares
from deconvnet.schemas import ImageScores, ImagesRecord, read_json
from deconvnet.support.errors import UsageError
from deconvnet.support.progress import progress
from experiments.paper_comparison import Comparison

TRUTH = "truth"


@dataclass
class _Sources:
    """Where the entries are read from.

    folders: label maps by title; scores: those of each image, by the same titles, None where stages.evaluate wrote
    none. boxes: how many proposals became windows.
    """

    voc: SegmentationDataset
    truth: bool
    folders: dict[str, Path]
    scores: dict[str, dict[str, ImageScores] | None]
    proposals: Rows | None
    boxes: int

    def entry(self, image_id: str, side: int) -> Entry:
        """An image's entry. side: of its pictures, in pixels."""
        image, truth = self.voc.read_pair(image_id) if self.truth else (self.voc.read_image(image_id), None)
        files = [folder / f"{image_id}.png" for folder in self.folders.values()]
        maps = [read_label_png(path) if path.is_file() else None for path in files]
        best = next((labels for labels in reversed(maps) if labels is not None), None)
        boxes = None
        if self.proposals:
            self.proposals.check_size(image_id, image.shape[:2])
            boxes = self.proposals.of_image(image_id)["boxes"][:self.boxes]
        shown = best if truth is None else truth
        made = entry(image_id, image, maps if truth is None else [truth, *maps], {} if shown is None else shares(shown),
                     side, boxes)
        scores = [(found or {}).get(image_id) for found in self.scores.values()]
        if self.truth:
            scores.insert(0, None)
        made.iou = [_percent(one.mean_iou) if one else None for one in scores]
        made.class_iou = [self._of_classes(one) if one else {} for one in scores]
        return made

    def _of_classes(self, scores: ImageScores) -> dict[int, float]:
        found = {index: _percent(scores.class_iou.get(name)) for index, name in enumerate(self.voc.classes)}
        return {index: value for index, value in found.items() if value is not None}


def read_gallery(run: Path, compared: Comparison, voc: SegmentationDataset, side: int) -> Gallery:
    """Every image of the split. side: of the pictures, in pixels. Raises UserError for a damaged file."""
    split, record = compared.split, compared.record
    image_ids = voc.image_ids(split)
    folders = {result.row.title: run / "predictions" / split / result.row.folder for result in compared.results}
    folders = {title: folder for title, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise UsageError(f"{run / 'predictions' / split}: no predictions yet; `python -m stages.infer --run {run} "
                         f"--split {split}` makes them")
    path = record.folder.proposals(split)
    sources = _Sources(voc, has_masks(voc, image_ids), folders,
                       {title: image_scores(folder) for title, folder in folders.items()},
                       read_rows(path, "proposals", voc.fingerprint(split)) if path.is_file() else None,
                       record.recipe.infer.proposals)
    layers = [TRUTH, *folders] if sources.truth else [*folders]
    gallery = Gallery("Every image", compared.classes, layers, len(layers) - 1,
                      [layers.index(title) for title, found in sources.scores.items() if found],
                      TRUTH if sources.truth else "labelled")
    for image_id in progress(image_ids, desc="report", unit="image", disable=None):
        gallery.entries.append(sources.entry(image_id, side))
    return gallery


def image_scores(folder: Path) -> dict[str, ImageScores] | None:
    """Each image's scores in a folder of label maps, by its id; None where stages.evaluate has not written them."""
    path = folder / "images.json"
    if not path.is_file():
        return None
    return {one.id: one for one in read_json(path, ImagesRecord, "run stages.evaluate again").images}


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)
