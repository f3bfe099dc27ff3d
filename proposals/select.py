"""Which windows an image gives to stage 1 and stage 2 (sections 4.2 and 6.1)."""


import numpy as np

from deconvnet.data.row_files import OBJECT, PROPOSAL, WindowRows
from deconvnet.data.voc import VocObject
from deconvnet.data.windows import best_overlap, enlarge
from deconvnet.recipe import Windows


def stage1_rows(objects: list[VocObject], recipe: Windows) -> WindowRows:
    """One window per object: its tight box enlarged."""
    boxes = np.array([item.box for item in objects], np.int32).reshape(-1, 4)
    count = len(objects)
    return WindowRows(
        window=enlarge(boxes, recipe.enlarge, recipe.shape),
        box=boxes,
        source=np.full(count, OBJECT, np.uint8),
        object=np.arange(count, dtype=np.int32),
        class_index=np.array([item.class_index for item in objects], np.uint8),
        overlap=np.ones(count, np.float32),
        score=np.full(count, np.nan, np.float32),
    )


def stage2_rows(objects: list[VocObject], boxes: np.ndarray, scores: np.ndarray, recipe: Windows) -> WindowRows:
    """The best-scored proposals that overlap an object enough, and (recipe) the stage 1 windows.

    boxes: int32 N x 4, scores: float32 N, by decreasing score.
    """
    stage1 = stage1_rows(objects, recipe)
    nothing = WindowRows(*(value[:0] for value in vars(stage1).values()))
    kept = stage1 if recipe.stage2_with_stage1 else nothing
    if not objects or not len(boxes):
        return kept
    nearest, ious = best_overlap(boxes, stage1.box)
    enough = np.flatnonzero(ious >= recipe.stage2_overlap)
    top = recipe.stage2_top
    chosen = enough[:top] if recipe.stage2_order == "overlap_first" else enough[enough < top]
    proposed = WindowRows(
        window=enlarge(boxes[chosen], recipe.enlarge, recipe.shape),
        box=boxes[chosen].astype(np.int32),
        source=np.full(len(chosen), PROPOSAL, np.uint8),
        object=nearest[chosen].astype(np.int32),
        class_index=stage1.class_index[nearest[chosen]],
        overlap=ious[chosen].astype(np.float32),
        score=scores[chosen].astype(np.float32),
    )
    joined = (np.concatenate(pair) for pair in zip(vars(kept).values(), vars(proposed).values(), strict=True))
    return WindowRows(*joined)
