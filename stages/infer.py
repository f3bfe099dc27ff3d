"""`python -m stages.infer`: label maps of a split or of any images, by DeconvNet, FCN or both, with or without CRF."""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from crf.dense import CrfParameters
from crf.pool import CrfPool
from deconvnet.data.images import read_rgb
from deconvnet.data.palette import label_png_made_of, voc_palette, write_label_png
from deconvnet.data.row_files import Rows, read_rows
from deconvnet.inference.memory import check_memory
from deconvnet.inference.score_files import check_finite, file_token, read_scores, write_scores
from deconvnet.recipe import (
    CHECKPOINTS,
    CRF_LABELS,
    ENSEMBLE_LABELS,
    NETWORKS,
    PROPOSALS,
    SCORES,
    WINDOW_SCORES,
    WINDOWS,
    shaping,
)
from deconvnet.run_contents import check_contents
from deconvnet.run_folder import RunFolder, open_run, provenance
from deconvnet.schemas import PredictionRecord, read_json
from deconvnet.support.atomic import atomic_write, remove_leftovers, write_json
from deconvnet.support.errors import LostWorker, UsageError, UserError
from deconvnet.support.locks import held
from deconvnet.support.progress import progress
from deconvnet.support.workers import WorkerPool, check_workers, default_workers
from proposals.build import ProposalWork, warn_of_other_edges
from stages.cli import add_run_arguments, make_parser, run_command

log = logging.getLogger(__name__)

# torch is imported where it is used, not above: the CRF's processes import this module, and a rerun of the CRF from
# saved scores needs no network either.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Source:
    """The images to be labelled: a split of the run's data set, or files."""

    def __init__(self, run: RunFolder, options: argparse.Namespace) -> None:
        self.run, self.edge_model = run, options.edge_model
        self.split: str | None = None
        if options.images:
            self.paths = _image_files(options.images)
            self.folder = run.root / "labelled"
            self.made_of = dict.fromkeys(self.paths, "")  # nothing is kept of these, so nothing is compared
        else:
            self.split = options.split or run.recipe.data.val_split
            voc = run.voc()
            self.paths = {image_id: voc.image_path(image_id) for image_id in voc.image_ids(self.split)}
            self.folder = run.root / "predictions" / self.split
            hashes = run.contents.hashes([files[:1] for files in voc.files(list(self.paths))])
            self.made_of = dict(zip(self.paths, hashes[:, 0].astype(str), strict=True))
        self.folder = options.out or self.folder

    @cached_property
    def _saved(self) -> Rows | None:
        if self.split is None or not self.run.proposals(self.split).is_file():
            return None
        saved = read_rows(self.run.proposals(self.split), "proposals", self.run.voc().fingerprint(self.split))
        check_contents(self.run, saved)
        return saved

    @cached_property
    def _work(self) -> ProposalWork:
        work = ProposalWork(None, self.run.recipe, self.edge_model)
        log.info("proposals are made as they are needed, edge detector %s", work.edges)
        warn_of_other_edges(self.run, work.edges)
        return work

    def token(self) -> str:
        """What the proposals are made with."""
        made = self._saved.attributes["shaped_by"] if self._saved else self._work.shaped_by()
        return json.dumps(made, sort_keys=True)

    def boxes(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """An image's proposals, best first: from the split's file where stages.build_proposals made one."""
        if not self._saved:
            return self._work.propose(image)[0]
        self._saved.check_size(image_id, image.shape[:2])
        return self._saved.of_image(image_id)["boxes"]


def _image_files(given: list[Path]) -> dict[str, Path]:
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


class Scorer:
    """One network's score maps of images, from its score files or, where missing, from the network."""

    def __init__(self, run: RunFolder, source: Source, kind: str, weights: Path, device: str) -> None:
        """kind: 'deconvnet' or 'fcn8s'."""
        self.run, self.source, self.kind, self.weights, self.device_name = run, source, kind, weights, device
        if not weights.is_file():
            what = "--model fcn8s" if kind == "fcn8s" else "--stage 1 and --stage 2"
            raise UsageError(f"{weights}: no such weights; `python -m stages.train --run {run.root}` with {what} makes "
                             "them, stages.import_caffe the authors'")
        from deconvnet.models.registry import sections_of_others

        others = sections_of_others(kind)
        settings = [file_token(weights), {name: value for name, value in shaping(run.recipe, SCORES).items()
                                          if not name.startswith(others)}]
        if kind == "deconvnet":
            settings += [source.token(), shaping(run.recipe, WINDOW_SCORES)]
        self.token = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{kind}-{run.recipe.infer.aggregate}" if kind == "deconvnet" else kind
        self.name = f"{name}-{self.token}"

    @property
    def folder(self) -> Path:
        """Where a split's score maps are kept; two commands may write the same ones, each file whole."""
        return self.run.scores(self.source.split or "none", self.name)

    @cached_property
    def _network(self):
        from deconvnet.models.network_files import load_network
        from deconvnet.runtime import choose_device, prepare

        device = choose_device(self.device_name)
        model = load_network(self.weights, self.kind, self.run.recipe)
        return prepare(model, self.run.recipe.runtime, device).eval(), device

    def __call__(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """Scores, float32 C x H x W; a split's are kept, and rounded as infer.score_type says."""
        if self.source.split is None:  # other files of the same name may come; nothing is kept of these
            scores = self._compute(image_id, image)
            check_finite(scores, image_id)
            return scores
        path = self.folder / f"{image_id}.h5"
        made_of, shape = self.source.made_of[image_id], (image.shape[:2], len(self.run.recipe.data.classes))
        scores = read_scores(path, *shape, made_of) if path.is_file() else None
        if scores is None:
            write_scores(path, self._compute(image_id, image), self.run.recipe.infer.score_type, made_of)
            scores = read_scores(path, *shape, made_of)
        return scores

    def _compute(self, image_id: str, image: np.ndarray) -> np.ndarray:
        from deconvnet.inference.scoring import score_image, score_windows, scoring_windows

        model, device = self._network
        if self.kind == "fcn8s":
            return score_image(model, image, self.run.recipe, device).cpu().numpy()
        windows = scoring_windows(self.source.boxes(image_id, image), self.run.recipe)
        if not len(windows):
            log.warning("%s: no proposals: all of it becomes background", image_id)
        return score_windows(model, image, windows, self.run.recipe, device).cpu().numpy()


class Prediction:
    """A folder of label maps made in one way; maps made in another way are not mixed in."""

    def __init__(self, folder: Path, settings: dict, record: dict, replace_others: bool) -> None:
        """settings: what tells one way from another; record: what else is written down beside the maps.

        replace_others: maps that were made in another way give place to the first new one; else they are an error.
        """
        self.folder, self.marker = folder, folder / "settings.json"
        self.record = {"settings": settings, **record}
        found = read_json(self.marker, PredictionRecord).settings if self.marker.exists() else None
        made = found.model_dump() if found else None
        self.stale = made != settings and (made is not None or any(folder.glob("*.png")))
        if self.stale and not replace_others:
            raise UsageError(f"{folder}: holds label maps that were made with other settings, of other images perhaps: "
                             "give another --out folder, or remove this one")
        if self.stale:
            log.info("%s: was made with other settings; made anew", folder)

    def has(self, image_id: str, made_of: str, overlay: bool) -> bool:
        """Whether an image's label map is there, made in this way of this content; with its overlay, if wanted."""
        return (not self.stale and self._png(image_id).is_file() and label_png_made_of(self._png(image_id)) == made_of
                and (self._overlay(image_id).is_file() or not overlay))

    def write(self, image_id: str, made_of: str, labels: np.ndarray, image: np.ndarray | None) -> None:
        """Writes labels (uint8 H x W), and blended with the image, where one is given, as an overlay."""
        if self.stale:  # only now, when a new one is at hand
            for path in [*self.folder.glob("*.png"), *self.folder.glob("overlays/*.jpg"), self.folder / "metrics.json",
                         self.marker]:
                path.unlink(missing_ok=True)
            self.stale = False
        if not self.marker.is_file():
            write_json(self.marker, self.record)
        if image is not None:
            blend = (image // 2 + voc_palette()[labels] // 2)[..., ::-1]
            with atomic_write(self._overlay(image_id)) as temporary:
                if not cv2.imwrite(str(temporary), blend):
                    raise UserError(f"{self._overlay(image_id)}: cannot be written; is the disk full?")
        write_label_png(self._png(image_id), labels, made_of)

    def _png(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.png"

    def _overlay(self, image_id: str) -> Path:
        return self.folder / "overlays" / f"{image_id}.jpg"


def infer(run: RunFolder, source: Source, scorers: list[Scorer], prediction: Prediction,
          options: argparse.Namespace) -> None:
    """Labels every image that has no label map yet."""
    missing = [image_id for image_id in source.paths if source.split is None or
               not prediction.has(image_id, source.made_of[image_id], options.overlay)]
    if len(missing) < len(source.paths):
        log.info("%d of %d label maps are there already", len(source.paths) - len(missing), len(source.paths))
    if not missing:
        return
    for image_id in missing:  # all of them first: one that is too large would end the work in its middle
        check_memory(source.paths[image_id], run.recipe, [scorer.kind for scorer in scorers], options.crf)
    bar = progress(total=len(missing), desc=prediction.folder.name, unit="image")

    def jobs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for image_id in missing:
            image = read_rgb(source.paths[image_id])
            yield image_id, image, _probabilities(run, [scorer(image_id, image) for scorer in scorers])

    with bar:
        for image_id, labels in _labelled(run, jobs(), options):
            image = read_rgb(source.paths[image_id]) if options.overlay else None
            prediction.write(image_id, source.made_of[image_id], labels, image)
            bar.update()


def _probabilities(run: RunFolder, scores: list[np.ndarray]) -> np.ndarray:
    from deconvnet.inference.ensemble import ensemble, softmax

    return ensemble(*scores, run.recipe.infer.ensemble_rule) if len(scores) == 2 else softmax(scores[0])


def _labelled(run: RunFolder, jobs: Iterator[tuple[str, np.ndarray, np.ndarray]],
              options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    if not options.crf:
        for image_id, _, probabilities in jobs:
            labels = probabilities.argmax(0).astype(np.uint8)
            del probabilities  # else they are held while the next image is scored
            yield image_id, labels
        return
    with CrfPool(CrfParameters(**asdict(run.recipe.crf)), options.workers, WorkerPool) as pool:
        try:
            yield from pool.map(jobs)
        except BrokenProcessPool as error:
            raise LostWorker(str(error), "--workers") from None


def main(options: argparse.Namespace) -> None:
    """Scores, ensemble, CRF, PNGs."""
    if options.model == "fcn8s" and (options.ensemble == "fcn" or options.weights):
        raise UsageError("--model fcn8s is FCN alone: its weights are --fcn-weights, and it has no --ensemble")
    check_workers(options.workers, least=1)
    run = open_run(options, keeps=(PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS),
                   needs_images=not options.images)
    if options.aggregate:
        run.recipe = replace(run.recipe, infer=replace(run.recipe.infer, aggregate=options.aggregate))
    source = Source(run, options)
    scorers = []
    if options.model == "deconvnet":
        weights = options.weights or run.network("stage2")
        if not options.weights and not weights.is_file() and run.network("stage1").is_file():
            weights = run.network("stage1")
            log.warning("!!! %s: not there yet, stage 1's network labels instead", run.network("stage2"))
        scorers.append(Scorer(run, source, "deconvnet", weights, options.device))
    if options.model == "fcn8s" or options.ensemble == "fcn":
        scorers.append(Scorer(run, source, "fcn8s", options.fcn_weights or run.network("fcn8s"), options.device))
    row = "fcn8s" if options.model == "fcn8s" else f"deconvnet-{run.recipe.infer.aggregate}"
    row += ("-fcn" if options.ensemble == "fcn" else "") + ("-crf" if options.crf else "")
    settings = {"row": row, "split": source.split, "scores": [scorer.name for scorer in scorers],
                **(shaping(run.recipe, ENSEMBLE_LABELS) if len(scorers) == 2 else {}),
                **(shaping(run.recipe, CRF_LABELS) if options.crf else {})}
    record = {"weights": [str(scorer.weights) for scorer in scorers], "classes": run.recipe.data.classes,
              "recipe": run.values("infer.", "crf.", "runtime."), **provenance()}
    replace_others = source.split is not None and not options.out
    with held(source.folder / row):
        prediction = Prediction(source.folder / row, settings, record, replace_others)
        log.info("%s: %s", row, ", ".join(str(scorer.weights) for scorer in scorers))
        for folder in (prediction.folder, prediction.folder / "overlays", *(scorer.folder for scorer in scorers)):
            remove_leftovers(folder)
        infer(run, source, scorers, prediction, options)
    log.info("%d label maps in %s", len(source.paths), prediction.folder)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("stages.infer", "Labels a split or any images: DeconvNet, FCN or both, with or without CRF.",
                         "python -m stages.infer --run runs/voc --aggregate max --ensemble fcn --crf\n"
                         "  python -m stages.infer --run runs/voc --images photo.jpg holiday/ --overlay --out labelled")
    add_run_arguments(parser)
    parser.add_argument("--model", choices=("deconvnet", "fcn8s"), default="deconvnet", help="fcn8s: FCN alone")
    parser.add_argument("--aggregate", choices=("max", "sum", "mean"), help="(default: the recipe's infer.aggregate)")
    parser.add_argument("--ensemble", choices=("fcn", "none"), default="none", help="with FCN-8s (default: none)")
    parser.add_argument("--crf", action="store_true", help="finish with the dense CRF")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--split", help="a split list's name (default: the recipe's validation split)")
    images.add_argument("--images", type=Path, nargs="+", metavar="FILE_OR_FOLDER", help="label these images instead")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="DeconvNet's (default: the run's stage 2, else stage 1)")
    parser.add_argument("--fcn-weights", type=Path, metavar="FILE",
                        help="FCN-8s's, wkentaro's fcn8s_from_caffe.pth too (default: the run's)")
    parser.add_argument("--edge-model", type=Path, metavar="FILE",
                        help="structured-edge model, where no proposals file is at hand")
    parser.add_argument("--overlay", action="store_true", help="write the labels blended with the image too")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where label maps go, in a folder named after the row, deconvnet-max-crf say (default: in "
                             "the run, predictions/SPLIT, or labelled for --images)")
    parser.add_argument("--workers", type=int, default=default_workers(), help="CRF processes (default: one a core)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
