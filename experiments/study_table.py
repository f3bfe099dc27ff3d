"""What a study found: every run's numbers, the table with mean and spread, and the file that holds both."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from deconvnet.data.dataset import DATA_SETS, SegmentationDataset
from deconvnet.evaluation.metrics import or_none
from deconvnet.evaluation.paired import paired_difference
from deconvnet.evaluation.scoring import confusions
from deconvnet.recipe import recipe_to_dict
from deconvnet.schemas import Metrics, read_json
from experiments.records import read_run
from experiments.studies import Study
from experiments.study_runs import StudyRun, chosen_rows
from experiments.table1 import class_mean, percent

RESAMPLES, SEED = 2000, 0  # of the paired bootstrap


def scores_of(run: StudyRun, titles: Sequence[str], split: str) -> dict[str, dict[str, float | None]]:
    """A run's rows, from the metrics.json of each: mean IoU and pixel accuracy, as fractions."""
    found = {}
    for row in chosen_rows(run.recipe, titles):
        metrics = read_json(run.folder / "predictions" / split / row.folder / "metrics.json", Metrics)
        iou = metrics.class_iou
        found[row.title] = {"mean_iou": class_mean(iou, list(iou)), "pixel_accuracy": metrics.pixel_accuracy}
    return found


def run_records(runs: Sequence[StudyRun], titles: Sequence[str], split: str) -> list[dict[str, Any]]:
    """For each run: what was changed, its commit and seed, its whole recipe, its rows; folders by name, not by path."""
    records = []
    for run in runs:
        record = read_run(run.folder)
        records.append({"variant": run.variant.name, "member": run.member, "folder": run.folder.name,
                        "base": run.base.name, "set": list(run.sets), "vgg16": run.variant.vgg16,
                        "seed": record.recipe.seed, "commit": record.made_with.commit,
                        "recipe": recipe_to_dict(record.recipe), "rows": scores_of(run, titles, split)})
    return records


def differences(runs: Sequence[StudyRun], titles: Sequence[str], split: str) -> dict[tuple[str, str, str], Any]:
    """Each run's difference of mean IoU from the first variant's run of the same member, with its paired interval."""
    reference = {run.member: run for run in runs if run.variant == runs[0].variant}
    found = {}
    for title in titles:
        counts = {run.folder: _counts(run, title, split) for run in runs if run.member in reference}
        for run in runs:
            if run.variant != runs[0].variant and run.member in reference:
                one = paired_difference(counts[reference[run.member].folder], counts[run.folder], RESAMPLES, SEED)
                found[run.variant.name, run.member, title] = {"difference": one.value, "low": one.low, "high": one.high}
    return found


def _counts(run: StudyRun, title: str, split: str) -> np.ndarray:
    """Each image's confusion matrix, N x C x C."""
    voc, folder = _data_set(run), chosen_rows(run.recipe, [title])[0].folder
    ids = voc.image_ids(split)
    return np.stack([own.counts for own in confusions(voc, ids, run.folder / "predictions" / split / folder)])


def _data_set(run: StudyRun) -> SegmentationDataset:
    root = read_run(run.folder).voc_root
    assert root is not None  # images of it have been labelled
    return DATA_SETS[run.recipe.data.format](root, run.recipe.data.classes)


def table(records: Sequence[dict[str, Any]], apart: dict[tuple[str, str, str], Any],
          titles: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each variant and row: mean and spread over its members, and its differences from the first variant.

    Fractions. spread: the standard deviation of the members, with one less than their number below; None for one.
    """
    lines = []
    for title in titles:
        for variant in dict.fromkeys(record["variant"] for record in records):
            own = [record for record in records if record["variant"] == variant]
            values = [record["rows"][title]["mean_iou"] for record in own]
            accuracies = [record["rows"][title]["pixel_accuracy"] for record in own]
            lines.append({
                "row": title, "variant": variant, "runs": len(own), "mean_iou": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "pixel_accuracy": or_none(statistics.fmean(accuracies)),
                "differences": [apart[key] for record in own if (key := (variant, record["member"], title)) in apart]})
    return lines


def images_of(run: StudyRun, split: str) -> int:
    """How many images a split has."""
    return len(_data_set(run).image_ids(split))


def to_markdown(name: str, study: Study, found: dict[str, Any]) -> str:
    """The study as a report."""
    text = [f"# Study {name}", "", study.question, "", f"The paper: {study.paper}", "",
            f"{found['images']} images of {found['split']} ({found['data']}); a different task from the paper's.", ""]
    if found["choice"]:
        text += [*_choice(found["choice"]), ""]
    text += [markdown_table(found["table"]), "", _about(found["table"], study.trains), "", "## Runs", ""]
    text.append(tabulate([[run["folder"], " ".join(run["set"]), run["seed"], run["commit"]] for run in found["runs"]],
                         ["run", "set", "seed", "commit"], tablefmt="pipe", disable_numparse=True))
    return "\n".join(text) + "\n"


def markdown_table(lines: Sequence[dict[str, Any]]) -> str:
    """The table, in percent."""
    several = any(line["runs"] > 1 for line in lines)
    header = ["", "variant", "mean IoU", *(["spread"] if several else []), "pixel accuracy", "difference",
              "of each seed" if several else "95 % interval"]
    rows = []
    for line in lines:
        apart = line["differences"]
        mean = percent(statistics.fmean(one["difference"] for one in apart), "+") if apart else ""
        each = (", ".join(percent(one["difference"], "+") for one in apart) if several else
                " to ".join(percent(apart[0][end], "+") for end in ("low", "high")) if apart else "")
        spread = [f"{percent(line['spread'])} of {line['runs']}"] if several else []
        rows.append([line["row"], line["variant"], percent(line["mean_iou"]), *spread,
                     percent(line["pixel_accuracy"]), mean, each])
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _choice(choice: dict[str, Any]) -> list[str]:
    lines = [[name, percent(value)] for name, value in choice["mean_iou"].items()]
    return [f"Chosen by {choice['row']} on {choice['images']} images of the training split {choice['split']}: "
            f"**{choice['chosen']}**.", "",
            tabulate(lines, ["variant", f"mean IoU on {choice['split']}"], tablefmt="pipe", disable_numparse=True)]


def _about(lines: Sequence[dict[str, Any]], trains: bool) -> str:
    if any(line["runs"] > 1 for line in lines):
        over = "seeds" if trains else "the runs whose networks label"
        return (f"Percent. Spread: the standard deviation over {over}, and how many there are. Difference: from the "
                "first variant with the same.")
    left_out = "Each variant was trained once" if trains else "All variants stand on the same networks"
    return (f"Percent. Difference: from the first variant; its interval is that of {RESAMPLES:,} paired bootstrap "
            f"draws of the images. {left_out}: what other trainings would give is not in it.")


def write_record(study: Study, runs: Sequence[StudyRun], split: str) -> dict[str, Any]:
    """All that a study found, but for how a variant was chosen, for the JSON file.

    A recipe key that is the same in all runs is told once, in `recipe`; each run's own recipe has the others.
    """
    records = run_records(runs, study.rows, split)
    apart = differences(runs, study.rows, split)
    for record in records:
        for title, row in record["rows"].items():
            row |= apart.get((record["variant"], record["member"], title), {})
    recipes = [record["recipe"] for record in records]
    same = {key: value for key, value in recipes[0].items() if all(recipe[key] == value for recipe in recipes)}
    for record in records:
        record["recipe"] = {key: value for key, value in record["recipe"].items() if key not in same}
    root = read_run(runs[0].folder).voc_root
    return {"question": study.question, "paper": study.paper, "split": split, "images": images_of(runs[0], split),
            "data": "/".join(Path(str(root)).parts[-2:]), "table": table(records, apart, study.rows),
            "interval": {"level": 0.95, "resamples": RESAMPLES, "seed": SEED}, "recipe": same, "runs": records}
