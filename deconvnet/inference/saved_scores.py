"""One network's score maps of the images to be labelled: kept in files, so that ensemble and CRF rerun without it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deconvnet.inference.networks import ImageScorer
from deconvnet.inference.score_files import file_token, read_scores, write_scores
from deconvnet.inference.sources import Source
from deconvnet.models.registry import sections_of_others
from deconvnet.recipe import SCORES, WINDOW_SCORES, shaping


def scores_name(scorer: ImageScorer, shaped_by: Callable[[], dict[str, object]]) -> str:
    """What tells a network's score maps from those of other weights, recipes or proposals.

    shaped_by: what the proposals are made with, asked for where the network sees windows.
    """
    recipe, others = scorer.recipe, sections_of_others(scorer.kind)
    settings = [file_token(scorer.weights), {name: value for name, value in shaping(recipe, SCORES).items()
                                             if not name.startswith(others)}]
    if scorer.sees_windows:
        settings += [json.dumps(shaped_by(), sort_keys=True), shaping(recipe, WINDOW_SCORES)]
    token = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"{scorer.name}-{token}"


class SavedScores:
    """One network's score maps, from their files or, where missing, from the network."""

    def __init__(self, source: Source, scorer: ImageScorer) -> None:
        self.source, self.scorer = source, scorer
        self.name = scores_name(scorer, source.shaped_by)

    @property
    def folder(self) -> Path:
        """Where a split's score maps are kept; two commands may write the same ones, each file whole."""
        return self.source.run.scores(self.source.split, self.name)

    def __call__(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """Scores, float32 C x H x W; they are kept, and rounded as infer.score_type says."""
        recipe, path = self.scorer.recipe, self.folder / f"{image_id}.h5"
        made_of, shape = self.source.made_of[image_id], (image.shape[:2], len(recipe.data.classes))
        kept = read_scores(path, *shape, made_of) if path.is_file() else None
        if kept is None:
            write_scores(path, self._compute(image_id, image), recipe.infer.score_type, made_of)
            kept = read_scores(path, *shape, made_of)
            assert kept is not None  # it was written just now
        return kept

    def _compute(self, image_id: str, image: np.ndarray) -> np.ndarray:
        return self.scorer(image_id, image, lambda: self.source.boxes(image_id, image))
