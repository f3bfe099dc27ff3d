"""One image's proposals, and the windows of both stages with their labels."""

import numpy as np

from deconvnet.data.row_files import PROPOSAL, Rows
from experiments.pictures import Drawn
from experiments.pictures.grid import GridRow, Panel, photograph, picture_grid
from experiments.pictures.shown import ShownRun
from experiments.pictures.style import GREEN, SKY, VERMILION, coloured

MOST = 6  # windows of a stage
DRAWN = 50  # proposals


def draw(shown: ShownRun) -> Drawn:
    """The figure. Raises NotThere without proposals and windows of the split."""
    rows = {stage: shown.window_rows(stage, shown.split) for stage in (1, 2)}
    proposals = shown.proposal_rows()
    image_id = shown.image or most_windows(rows[1])
    image, truth = shown.voc.read_pair(image_id)
    boxes = proposals.of_image(image_id)["boxes"]
    span = {stage: own.span(image_id) for stage, own in rows.items()}
    chosen = {1: list(range(span[1].start, span[1].stop))[:MOST], 2: spread(rows[2], span[2], MOST)}
    lines, occurring = _first_row(shown, image, truth, boxes, rows, span), set(np.unique(truth).tolist())
    numbers: dict[str, object] = {"image": image_id, "proposals": len(boxes)}
    for stage, numbers_of in chosen.items():
        panels, labels = _crops(shown, rows[stage], numbers_of)
        lines += panels
        occurring |= {int(label) for own in labels for label in np.unique(own)}
        numbers[f"stage{stage}"] = {"windows": span[stage].stop - span[stage].start,
                                    "shown": rows[stage].columns["window"][numbers_of].tolist(),
                                    "overlap": rows[stage].columns["overlap"][numbers_of].tolist()}
    rule = "named with --image" if shown.image else f"of {shown.data} the one with most objects (of equals, the first)"
    figure = picture_grid(lines, legend=sorted(occurring), classes=shown.classes, cell=1.35)
    return Drawn(figure, "Proposals, and the windows of both stages",
                 f"Image {image_id} ({rule}). First row: the image with its truth, the {min(DRAWN, len(boxes))} best "
                 f"proposals of {len(boxes)}, the windows of stage 1 (objects' boxes, enlarged) and of stage 2. "
                 "Then windows as they are warped for training, above their labels: in stage 1 the window's own object "
                 f"alone, in stage 2 all classes. Of each stage at most {MOST}; of stage 2 the windows of proposals, "
                 "evenly spaced by falling overlap with their object (IoU below each).", numbers)


def most_windows(rows: Rows) -> str:
    """The image with the most rows; of equals, the first."""
    return rows.image_ids[int(np.diff(rows.first).argmax())]


def spread(rows: Rows, span: slice, count: int) -> list[int]:
    """At most `count` of an image's windows that come from proposals, evenly spaced by falling overlap."""
    numbers = np.arange(span.start, span.stop)
    numbers = numbers[rows.columns["source"][span] == PROPOSAL]
    order = numbers[np.argsort(-rows.columns["overlap"][numbers], kind="stable")]
    places = np.linspace(0, max(0, len(order) - 1), min(count, len(order))).round().astype(int)
    return order[places].tolist()


def _first_row(shown: ShownRun, image: np.ndarray, truth: np.ndarray, boxes: np.ndarray, rows: dict[int, Rows],
               span: dict[int, slice]) -> list[GridRow]:
    windows = {stage: rows[stage].columns["window"][span[stage]] for stage in (1, 2)}
    best = boxes[:DRAWN]
    return [GridRow([
        photograph(image, "image"), Panel(coloured(truth), "truth"),
        photograph(image, f"best {len(best)} proposals", best, [SKY] * len(best)),
        photograph(image, f"stage 1: {len(windows[1])} windows", windows[1], [VERMILION] * len(windows[1])),
        photograph(image, f"stage 2: {len(windows[2])} windows", windows[2], [GREEN] * len(windows[2]))])]


def _crops(shown: ShownRun, rows: Rows, numbers: list[int]) -> tuple[list[GridRow], list[np.ndarray]]:
    from deconvnet.data.examples import WindowCrops

    crops = WindowCrops(rows, shown.voc, shown.recipe, augment=False, seed=(0,))
    pairs = [crops.cut(number) for number in numbers]
    stage, overlap = rows.attributes["stage"], rows.columns["overlap"]
    below = [f"IoU {overlap[number]:.2f}" if stage == 2 else shown.classes[rows.columns["class_index"][number]]
             for number in numbers]
    above = {1: "Stage 1: only the window's own object is labelled", 2: "Stage 2: all classes are labelled"}[stage]
    if not pairs:
        return [], []
    return [GridRow([Panel(picture) for picture, _ in pairs], above=above),
            GridRow([Panel(coloured(labels), text) for (_, labels), text in zip(pairs, below, strict=True)])
            ], [labels for _, labels in pairs]
