"""Proposals and windows of a split, made image by image in several processes, into HDF5 files of the run folder."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deconvnet.data.dataset import SegmentationDataset
from deconvnet.data.row_files import Rows, opened, read_outline, read_rows, write_rows
from deconvnet.data.windows import object_labels, window_labels, window_picture
from deconvnet.recipe import WINDOWS, Recipe, recipe_to_dict, shaping, with_added_keys
from deconvnet.run_contents import changed_images, check_contents, hashes_of
from deconvnet.run_folder import RunFolder
from deconvnet.schemas import PartsRecord, read_json
from deconvnet.support.atomic import remove_leftovers, write_json
from deconvnet.support.engines import Engine
from deconvnet.support.errors import UnknownLabel, UsageError, UserError
from deconvnet.support.resumable import Arrays, make_parts, part_path, read_part, remove_parts, write_part
from proposals.select import stage1_rows, stage2_rows
from proposals.sources import ProposalSource, make_source

log = logging.getLogger(__name__)


MASKS_LOOKED_AT = 100  # per split, before the work starts


@dataclass
class ProposalWork:
    """The proposals of one image; picklable, so that worker processes can do it, each with its own proposal source."""

    voc: SegmentationDataset | None  # None: only propose() is called
    recipe: Recipe
    model: Path | None

    @cached_property
    def source(self) -> ProposalSource:
        """What recipe key proposals.source names."""
        return make_source(self.recipe, self.model)

    @property
    def edges(self) -> str:
        """The edge detector's name, as in logs and files; "none (SOURCE)" for a source without one."""
        return str(self.shaped_by().get("edges", f"none ({self.recipe.proposals.source})"))

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "source"}  # OpenCV's forest stays here

    def __call__(self, image_id: str) -> Arrays:
        assert self.voc is not None  # it has been given images to read
        image = self.voc.read_image(image_id)
        boxes, scores = self.propose(image)
        return {"size": np.array(image.shape[:2], np.int32), "boxes": boxes, "scores": scores}

    def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of an image (RGB uint8) and their scores, best first: see ProposalSource."""
        return self.source(image)

    def shaped_by(self) -> dict[str, object]:
        """Everything that determines which boxes are found."""
        return self.source.shaped_by()


@dataclass
class WindowWork:
    """The windows of one image, with encoded crops on request; picklable."""

    voc: SegmentationDataset
    recipe: Recipe
    stage: int
    materialize: bool
    proposals: Path | None
    spans: dict[str, slice]  # each image's rows in that file: all of them would be too much for every worker

    def __call__(self, image_id: str) -> Arrays:
        keys = self.recipe.windows
        image, mask = self.voc.read_pair(image_id)
        objects = self.voc.objects(image_id, mask, self.recipe.data.least_object_pixels)
        if self.stage == 1:
            rows = stage1_rows(objects, keys)
        else:
            assert self.proposals is not None  # stage 2 has them
            with opened(self.proposals) as file:
                boxes, scores = (file[name][self.spans[image_id]] for name in ("boxes", "scores"))
            rows = stage2_rows(objects, boxes, scores, keys)
        arrays = {"size": np.array(mask.shape, np.int32), **vars(rows)}
        if self.materialize:
            own_only = self.stage == 1 and keys.stage1_labels == "object"
            crops = []
            for window, number in zip(rows.window, rows.object, strict=True):
                labels = object_labels(mask, objects[number]) if own_only else mask
                picture = window_picture(image, window, keys)
                labels = window_labels(labels, window, keys.warp)
                crops.append((_encode(picture, keys.encoding), _encode(labels, "png")))
            columns = zip(*crops, strict=True) if crops else ((), ())
            for name, encoded in zip(("picture", "labels"), columns, strict=True):
                arrays[name] = np.concatenate([np.empty(0, np.uint8), *encoded])
                arrays[f"{name}_length"] = np.array([len(item) for item in encoded], np.int64)
        return arrays


def _encode(array: np.ndarray, kind: str) -> np.ndarray:
    array = array[..., ::-1] if array.ndim == 3 else array  # OpenCV encodes BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if kind == "jpeg" else []
    return cv2.imencode(".jpg" if kind == "jpeg" else ".png", array, options)[1].ravel()


def build_proposals(run: RunFolder, split: str, model: Path | None, workers: int, on_error: str,
                    engine: Engine | None = None) -> None:
    """Writes run/proposals/SPLIT.h5, unless it is complete already. engine: see make_parts."""
    voc = run.voc()
    work = ProposalWork(voc, run.recipe, model)
    attributes = {"format": "proposals", "edges": work.edges, "opencv": cv2.__version__}
    log.info("proposals: %s, edge detector: %s", run.recipe.proposals.source, work.edges)
    warn_of_other_edges(run, work.edges)
    with_parts = partial(make_parts, workers=workers, on_error=on_error, engine=engine)
    _build(run, run.proposals(split), split, work, attributes, work.shaped_by(), with_parts)


def warn_of_other_edges(run: RunFolder, name: str) -> None:
    """Warns if the run's existing proposals come from another edge detector than `name`."""
    folders = [folder / "proposals" for folder in (run.root, *run.sources)]
    for path in [path for folder in folders for path in sorted(folder.glob("[!.]*.h5"))]:  # not a killed one's .part.h5
        made = read_outline(path, "proposals").attributes["edges"]
        if made != name:
            log.warning("!!! %s was made with edges %s, this is %s: other windows than the network was trained on. "
                        "--edge-model gives the structured-edge model.", path, made, name)


def build_windows(run: RunFolder, split: str, stage: int, materialize: bool, workers: int, on_error: str,
                  engine: Engine | None = None) -> None:
    """Writes run/windows/stageN-SPLIT.h5, unless it is complete already. Stage 2 reads the split's proposals.

    engine: see make_parts.
    """
    voc = run.voc()
    proposals = read_rows(run.proposals(split), "proposals", voc.fingerprint(split)) if stage == 2 else None
    path, spans = None, {}
    if proposals:
        path, spans = proposals.path, {image_id: proposals.span(image_id) for image_id in proposals.image_ids}
    work = WindowWork(voc, run.recipe, stage, materialize, path, spans)
    shaped_by = {"stage": stage, "materialize": materialize, **shaping(run.recipe, WINDOWS)}
    del shaped_by["data.classes"]  # they are an attribute of their own
    if proposals:
        shaped_by |= proposals.attributes["shaped_by"]
    attributes = {"format": "windows", "stage": stage}
    ids = proposals.image_ids if proposals else None  # an image skipped there is skipped here
    with_parts = partial(make_parts, workers=workers, on_error=on_error, engine=engine)
    _build(run, run.windows(stage, split), split, work, attributes, shaped_by, with_parts, ids)


def _build(run: RunFolder, path: Path, split: str, work: Callable[[str], Arrays], attributes: dict[str, Any],
           shaped_by: dict[str, Any], with_parts: Callable[..., list[str]], image_ids: list[str] | None = None) -> None:
    voc = run.voc()
    fingerprint = voc.fingerprint(split)
    kind = attributes["format"]
    token = hashlib.sha256(json.dumps([fingerprint, shaped_by], sort_keys=True).encode()).hexdigest()[:12]
    parts = path.parent / f".{path.stem}-{token}.parts"  # parts of other settings are never mixed in
    own = path.is_relative_to(run.root)  # else it belongs to the run that this one was started from: read only
    if own:
        remove_leftovers(path.parent)
    existing = _existing(run, path, kind, fingerprint, shaped_by)
    changed = changed_images(run, existing) if existing else {}
    if existing and not changed:
        log.info("%s: already complete, %d rows", path, existing.first[-1])
        if own and parts.exists():  # it was killed while removing them
            remove_parts(parts)
        return
    if existing and changed and not own:
        check_contents(run, existing)
    ids = image_ids or (existing.image_ids if existing else voc.image_ids(split))
    hashes = dict(zip(ids, hashes_of(run, ids, kind), strict=True))
    _begin_parts(parts, hashes)
    if existing:
        _keep_unchanged(existing, changed, parts)
    ids = with_parts(parts, ids, work, description=f"{kind} {path.stem}")
    attributes |= {"split": split, "fingerprint": fingerprint, "classes": voc.classes, "shaped_by": shaped_by,
                   "recipe": recipe_to_dict(run.recipe)}
    write_rows(path, ids, (read_part(parts, image_id) for image_id in ids), attributes,
               np.array([hashes[image_id] for image_id in ids]))
    remove_parts(parts)
    _tell(path, kind, split, voc.classes)


def _existing(run: RunFolder, path: Path, kind: str, fingerprint: str, shaped_by: dict[str, Any]) -> Rows | None:
    """The existing file. Raises UsageError if it was made with other settings."""
    if not path.exists():
        return None
    existing = read_rows(path, kind, fingerprint)
    made_by, shaped_by = map(with_added_keys, (existing.attributes["shaped_by"], shaped_by))
    made_by.pop("windows.balance", None)  # of earlier versions; it is the training's
    differs = [name for name in {**made_by, **shaped_by} if made_by.get(name) != shaped_by.get(name)]
    if differs:
        advice = ("remove it to make it again, or use another --run folder" if path.is_relative_to(run.root)
                  else "start a run without --from to make others")
        raise UsageError(f"{path}: was made with {differs[0]} = {made_by.get(differs[0])!r}, not "
                         f"{shaped_by.get(differs[0])!r}; {advice}")
    return existing


def _begin_parts(parts: Path, hashes: dict[str, np.ndarray]) -> None:
    """Records what the parts are made from beside them; removes those of images that changed since an earlier build."""
    record = parts / "contents.json"
    before = read_json(record, PartsRecord).images if record.is_file() else {}
    now = {image_id: own.astype(str).tolist() for image_id, own in hashes.items()}
    for image_id, own in now.items():
        if before.get(image_id) != own:
            part_path(parts, image_id).unlink(missing_ok=True)
    write_json(record, {"images": now})


def _keep_unchanged(existing: Rows, changed: dict[str, str], parts: Path) -> None:
    """Splits a file into parts if some of its images have changed, so that the others need not be made again."""
    log.warning("%s: %d of its %d images have changed since it was made, first %s (%s): they are made again",
                existing.path, len(changed), len(existing.image_ids), *next(iter(changed.items())))
    for image_id in existing.image_ids:
        if image_id not in changed and not part_path(parts, image_id).exists():
            write_part(parts, image_id, existing.part(image_id))


def _tell(path: Path, kind: str, split: str, classes: list[str]) -> None:
    """Says what was made. Raises UserError for a file without a row, which is removed."""
    written = read_rows(path, kind)
    if not written.first[-1]:
        path.unlink()
        what = ("no object in its masks; 0 is background, 1, 2, ... are the classes, 255 is void" if kind == "windows"
                else "no proposal in any image")
        raise UserError(f"{path}: would be empty: {split} has {what}")
    log.info("%s: %d images, %d rows, %.1f MB", path, len(written.image_ids), written.first[-1],
             path.stat().st_size / 1e6)
    if kind == "windows":
        counts = np.bincount(written.columns["class_index"], minlength=len(classes))
        named = zip(classes, counts, strict=True)
        log.info("windows by class: %s", ", ".join(f"{name} {count}" for name, count in named if count))


def check_some_masks(voc: SegmentationDataset, image_ids: list[str]) -> None:
    """Raises UnknownLabel if one of some masks has a label that is not in the class list."""
    for image_id in image_ids[::max(1, len(image_ids) // MASKS_LOOKED_AT)]:
        try:
            voc.read_mask(image_id)
        except UnknownLabel:
            raise
        except UserError:  # a damaged file: --on-error decides
            continue
