"""What a training learns from and is validated on: a stage's windows, or whole images."""

import copy
import logging
from collections.abc import Iterator

import numpy as np

from deconvnet.data.examples import ImageCanvases, WindowCrops
from deconvnet.data.row_files import read_rows
from deconvnet.models.registry import NETWORKS
from deconvnet.models.spec import WINDOWS as SEES_WINDOWS
from deconvnet.models.spec import TrainingSpec
from deconvnet.recipe import WINDOWS, shaping, with_added_keys
from deconvnet.run_contents import check_contents, images_made_of, windows_made_of
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UsageError, UserError
from deconvnet.training.sampling import positions
from deconvnet.training.trainer import Examples

log = logging.getLogger(__name__)

# Streams of random numbers: the second of the seeds of whatever is drawn, after the recipe's, so that no two share one.
ORDER, CROP, VALIDATION, MEASURE_ORDER, MEASURE_CROP, START_ORDER = range(6)


def make_examples(run: RunFolder, training: TrainingSpec) -> Examples:
    """A training's examples, of the training split; those it is validated on, a fixed random part of the other's."""
    recipe, data = run.recipe, run.recipe.data
    learned, validated = (training_data(run, training, split, augment)
                          for split, augment in ((data.train_split, True), (data.val_split, False)))
    if not len(learned) or not len(validated):
        raise UserError(f"{_where(run, learned)}: no {training.examples} to train on, or none to validate on; are "
                        "there objects?")

    def order(start: int, stop: int) -> Iterator[tuple[int, int]]:
        return example_order(run, training, learned, ORDER, start, stop)

    chosen = _validation_sample(len(validated), training.validation, recipe.seed)
    log.info("%s: %d training %s, validation on %d of %d", training.title, len(learned), training.examples, len(chosen),
             len(validated))
    if isinstance(learned, WindowCrops):
        assert isinstance(validated, WindowCrops)  # both are of the training's kind
        made_of = windows_made_of(learned.rows, validated.rows)
    else:
        assert isinstance(validated, ImageCanvases)
        made_of = images_made_of(run, learned.image_ids, validated.image_ids)
    return Examples(learned, validated, order, chosen, made_of)


def example_order(run: RunFolder, training: TrainingSpec, learned: WindowCrops | ImageCanvases, stream: int, start: int,
                  stop: int) -> Iterator[tuple[int, int]]:
    """Positions start .. stop - 1 with their windows or images; windows balanced by class as the recipe says [P 6.1].

    stream: ORDER of a training, MEASURE_ORDER of its BN statistics, START_ORDER of those at its start.
    """
    if isinstance(learned, WindowCrops):
        classes, balance = learned.rows.columns["class_index"], run.recipe.windows.balance
    else:
        classes, balance = np.zeros(len(learned), np.int64), "none"
    return positions(classes, balance, (run.recipe.seed, stream, training.stream), start, stop)


def training_data(run: RunFolder, training: TrainingSpec, split: str, augment: bool) -> WindowCrops | ImageCanvases:
    """A split's windows or images as a training sees them. Windows that were materialized need no images."""
    seed = (run.recipe.seed, CROP if augment else VALIDATION, training.stream)
    if training.examples == SEES_WINDOWS:
        return _windows(run, training.stage, split, augment, seed)
    voc = run.voc()
    return ImageCanvases(voc, voc.image_ids(split), NETWORKS[training.network].canvas(run.recipe), augment, seed)


def to_measure_on(run: RunFolder, training: TrainingSpec, learned: WindowCrops | ImageCanvases
                  ) -> WindowCrops | ImageCanvases:
    """The same examples, augmented by draws of their own: what BN statistics are measured on."""
    again = copy.copy(learned)
    again.augment, again.seed = True, (run.recipe.seed, MEASURE_CROP, training.stream)
    return again


def _windows(run: RunFolder, stage: int, split: str, augment: bool, seed: tuple[int, ...]) -> WindowCrops:
    path = run.windows(stage, split)
    if not path.is_file():
        raise UsageError(f"{path}: no windows yet; `python -m stages.build_proposals --run {run.root} --stage {stage}` "
                         "makes them")
    rows = read_rows(path, "windows")
    voc = None
    if not rows.materialized:
        voc = run.voc()
        rows = read_rows(path, "windows", voc.fingerprint(split))
        check_contents(run, rows)
    found = rows.attributes.get("stage"), rows.attributes.get("split")
    if found != (stage, split):
        raise UserError(f"{path}: holds the windows of stage {found[0]}, split {found[1]}; expected stage {stage}, "
                        f"split {split}: was it copied to another name?")
    made = with_added_keys({**rows.attributes["shaped_by"], "data.classes": rows.attributes["classes"]})
    for name, here in shaping(run.recipe, WINDOWS).items():
        if made.get(name) != here:
            raise UserError(f"{path}: was made with {name} = {made.get(name)!r}, the recipe has {here!r}")
    return WindowCrops(rows, voc, run.recipe, augment, seed)


def _where(run: RunFolder, examples: WindowCrops | ImageCanvases) -> str:
    return str(examples.rows.path if isinstance(examples, WindowCrops) else run.voc_root)


def _validation_sample(count: int, wanted: int, seed: int) -> np.ndarray:
    if wanted == 0 or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, VALIDATION]).choice(count, wanted, replace=False))
