"""A run's rows beside the paper's Table 1, and what the run used: the data of the table and of the report."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.row_files import read_outline
from deconvnet.data.voc import check_split
from deconvnet.evaluation.metrics import chosen_classes
from deconvnet.evaluation.rows import Row, table_rows
from deconvnet.models.registry import NETWORKS
from deconvnet.models.spec import IMAGES
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.run_folder import RunFolder
from deconvnet.schemas import PredictionRecord, read_json
from deconvnet.support.errors import UsageError
from experiments.records import Record, log_lines, read_run
from experiments.table1 import Result, class_mean, paper_table, read_result, read_server_result

PAPER = "paper (VOC 2012 test)"
DIFFERENT_TASKS = "The paper's column and this run's are different tasks"
HOW_DIFFERENT = (
    "the paper's is the VOC 2012 test server's result of networks that start from ImageNet weights and train on VOC "
    "2012 + SBD; this run's is what \"What this run used\" says. Their difference is for orientation; it does not "
    "measure how well the paper was reproduced."
)


@dataclass
class Comparison:
    """What is compared.

    description: what the run used, heading -> text. lines: see compare. subset: classes with a mean of their own.
    """

    record: Record
    split: str
    classes: list[str]
    subset: list[str]
    results: list[Result]
    description: dict[str, str]
    lines: list[dict[str, Any]]

    @property
    def with_paper(self) -> bool:
        """Whether the classes are VOC's 21, of which alone the paper has numbers."""
        return self.classes == VOC_CLASSES

    @property
    def background_only(self) -> float | None:
        """The mean IoU, percent, of label maps of nothing but background; None where nothing was scored here."""
        return next((result.background_only for result in self.results if result.background_only), None)


def read_comparison(options: argparse.Namespace) -> Comparison:
    """What RUN, --split and the options of add_table_arguments ask for. Raises UsageError, UserError."""
    record = read_run(options.run)
    classes, split = record.recipe.data.classes, options.split or record.recipe.data.val_split
    check_split(split)
    subset = chosen_classes(options.subset_classes, classes)
    predicted = options.run / "predictions" / split
    if options.split and not predicted.is_dir() and not options.server_result:  # a report of nothing, in place of one
        raise UsageError(f"{predicted}: no predictions of this split; `python -m stages.infer --run {options.run} "
                         f"--split {split}` makes them")
    rows = [row for row in table_rows(options.aggregate, record.recipe)
            if row.paper or (predicted / row.folder).is_dir() or (options.run / row.folder.partition("-")[0]).is_dir()]
    server = dict(_server_file(text, [row.folder for row in rows]) for text in options.server_result)
    if server and classes != VOC_CLASSES:
        raise UsageError("--server-result: the run's classes are not VOC's 21")
    results = [read_server_result(row, server[row.folder]) if row.folder in server
               else read_result(row, options.run, split, classes) for row in rows]
    description = describe_run(options.run, record)
    description |= otherwise(options.run / "predictions" / split, [result.row for result in results if result.iou],
                             record.recipe)
    lines = compare(results, classes, subset)
    return Comparison(record, split, classes, subset, results, description, lines)


def _server_file(text: str, known: list[str]) -> tuple[str, Path]:
    row, _, path = text.partition("=")
    if row not in known or not path:
        raise UsageError(f"--server-result {text}: expected ROW=FILE with ROW one of {', '.join(known)}")
    return row, Path(path)


def describe_run(run: Path, record: Record) -> dict[str, str]:
    """What data and schedule a run used: heading -> text. Whatever is not there yet is said to be."""
    recipe = record.recipe
    data, network, infer = recipe.data, recipe.network, recipe.infer
    lines = {
        "Recipe": f"{recipe.name}, seed {recipe.seed}",
        "Data": f"{_images(record.voc_root)}, trained on {data.train_split}, validated on {data.val_split}, "
                f"{len(data.classes)} classes",
        "Proposals": f"{recipe.proposals.count} per image, edges: "
                     f"{_edges(record.folder, data.val_split, data.train_split)}",
    }
    for stage in (1, 2):
        path = record.folder.windows(stage, data.train_split)
        lines[f"Windows, stage {stage}"] = _windows(path, recipe.windows.balance)
    lines["Network"] = (f"DeconvNet of width {network.width:g}, windows of {network.input} x {network.input}, "
                        f"unpooling: {network.unpooling}, batch normalisation: {'yes' if network.batch_norm else 'no'}")
    for spec in [spec for spec in NETWORKS.values() if spec.in_table]:
        about = spec.describe(recipe) | ({"canvas": spec.canvas(recipe)} if spec.examples(recipe) == IMAGES else {})
        for training in spec.trainings(recipe):
            if not (spec.paper or (run / training.name).is_dir()):
                continue
            text = _training(run / training.name, training.iterations, training.batch, training.examples)
            own = "" if spec.by_stage else f"{', '.join(f'{name} {value}' for name, value in about.items())}; "
            lines[f"Training, {training.title if spec.by_stage else training.name}"] = own + text
    lines["Inference"] = (f"{infer.proposals} windows per image, outside a window: {infer.outside}, ensemble: "
                          f"{infer.ensemble_rule}, CRF kernels: {recipe.crf.normalization} normalisation")
    made_with = record.made_with
    packages = ", ".join(f"{name} {number}" for name, number in made_with.packages.items())
    lines["Made with"] = (f"commit {made_with.commit}, Python {made_with.python}, "
                          f"{packages}; {made_with.machine}")
    return lines


def otherwise(predictions: Path, rows: list[Row], recipe: Recipe) -> dict[str, str]:
    """Where rows were made otherwise than this run's recipe and networks say: heading -> text, empty where none was.

    Keys that stages.infer was given another value of (--set); other weights than the run's own last ones; rows that
    stand on different score maps of a network.
    """
    own, changed = recipe_to_dict(recipe), []
    scores: dict[str, dict[str, list[str]]] = {}  # network: name of its score maps: titles of rows
    for row in rows:
        path = predictions / row.folder / "settings.json"
        made = read_json(path, PredictionRecord) if path.is_file() else PredictionRecord()
        texts = [f"{name} = {value!r}" for name, value in made.recipe.items()
                 if name != "infer.aggregate" and value != own.get(name)]
        usual = [Path(spec.trainings(recipe)[-1].name, "network.safetensors").parts for spec in NETWORKS.values()]
        used = [Path(path).parts[-2:] for path in made.weights]
        texts += [f"weights {Path(*parts)}" for parts in used if parts not in usual]
        changed += [f"{row.title}: {', '.join(texts)}"] if texts else []
        for name in made.settings.scores if made.settings else []:
            scores.setdefault(name.partition("-")[0], {}).setdefault(name, []).append(row.title)
    mixed = ["; ".join(f"{', '.join(titles)} on {name}" for name, titles in kinds.items())
             for kinds in scores.values() if len(kinds) > 1]
    found = {"Otherwise than the recipe": "; ".join(changed), "**Rows of different networks or settings**, by their "
             "score maps (run stages.infer and stages.evaluate again for the older ones)": "; ".join(mixed)}
    return {heading: text for heading, text in found.items() if text}


def _images(voc_root: Path | None) -> str:
    if voc_root is None:
        return "folder not recorded"
    synthetic = any((folder / "synthetic.json").is_file() for folder in (voc_root, voc_root / "VOC2012"))
    return f"{'generated (synthetic) images, ' if synthetic else ''}{'/'.join(voc_root.parts[-2:])}"


def _edges(run: RunFolder, *splits: str) -> str:
    for split in splits:
        path = run.proposals(split)
        if path.is_file():
            return read_outline(path, "proposals").attributes["edges"]
    return "no proposals in this run folder"


def _windows(path: Path, balance: str) -> str:
    if not path.is_file():
        return "none in this run folder"
    rows = read_outline(path, "windows")
    return f"{rows.first[-1]:,} from {len(rows.image_ids):,} images, balanced: {balance}"


def _training(folder: Path, planned: int, batch: int, unit: str) -> str:
    path = folder / "log.csv"
    if not path.is_file():
        return "not trained in this run folder"
    lines = log_lines(path)
    if not lines:
        return f"0 of {planned:,} iterations"
    last = lines[-1]
    text = (f"{int(last['iteration']):,} of {planned:,} iterations of {batch} {unit}, learning rate "
            f"{float(lines[0]['rate']):g} to {float(last['rate']):g}, loss {float(last['loss']):.3f}")
    validated = [line for line in lines if line["validation_accuracy"]]
    if validated:
        text += (f"; validation pixel accuracy {100 * float(validated[-1]['validation_accuracy']):.1f}, "
                 f"mean IoU {100 * float(validated[-1]['validation_mean_iou']):.1f} ({unit}, not the table's measure)")
    return text


def compare(results: list[Result], classes: list[str], subset: list[str]) -> list[dict[str, Any]]:
    """For each row and class, 'mean' and, with a subset, 'subset mean': paper, this run, difference (percent, or None).

    The paper's values are None where the classes are not VOC's.
    """
    paper = paper_table() if classes == VOC_CLASSES else None
    lines = []
    for result in results:
        theirs = paper[result.row.paper] if paper and result.row.paper else None
        groups = {name: [name] for name in classes} | {"mean": classes} | ({"subset mean": subset} if subset else {})
        for name, members in groups.items():
            if theirs is None:
                expected = None
            else:
                expected = theirs["mean"] if name == "mean" else class_mean(theirs, members)
            reached = class_mean(result.iou, members) if result.iou else None
            difference = None if expected is None or reached is None else reached - expected
            lines.append({"row": result.row.title, "class": name, "paper_voc2012_test": expected, "this_run": reached,
                          "this_run_on": result.source, "difference": difference})
    return lines
