"""From a study to the commands of its runs: each an ordinary run folder, on another run's proposals and windows."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deconvnet.evaluation.rows import Row, table_rows
from deconvnet.models.registry import NETWORKS, PARTNERS
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UsageError
from experiments.studies import Study, Variant
from stages.steps import Step, build, evaluate_all, infer, trainings


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: a variant with one seed, or on one of the runs that were given (its base).

    base: the run whose proposals and windows it reads and, in a study that trains nothing, whose networks. sets: what
    its recipe has otherwise than the base's.
    """

    variant: Variant
    member: str
    folder: Path
    base: Path
    recipe: Recipe
    sets: tuple[str, ...]


def expand(study: Study, bases: Sequence[Path], options: argparse.Namespace) -> list[StudyRun]:
    """The runs of a study, the members of a variant after each other.

    bases: the runs that are built on. A study that trains has a run for each seed, on the first of them; one that does
    not has a run for each base. options: to, set and seeds of the command.
    """
    runs = []
    for variant in study.variants:
        seeds = options.seeds or study.seeds
        members = ([(f"seed{seed}", bases[0], (f"seed={seed}",)) for seed in seeds] if study.trains else
                   [(f"on{number}" if len(bases) > 1 else "", base, ()) for number, base in enumerate(bases)])
        for member, base, own in members:
            sets = (*study.set, *options.set, *variant.set, *own)
            name = f"{variant.name}-{member}" if member else variant.name
            saved = base / "recipe.yaml"
            recipe = load_recipe(saved if saved.is_file() else study.recipe, sets, complete=saved.is_file())
            runs.append(StudyRun(variant, member, options.to / name, base, recipe, sets))
    return runs


def base_steps(study: Study, base: Path, options: argparse.Namespace) -> list[Step]:
    """What makes the run of proposals and windows that the trainings share, where none was given."""
    return [build(_options(options, base, recipe=study.recipe, voc_root=options.voc_root))]


def run_steps(run: StudyRun, study: Study, titles: Sequence[str], split: str | None,
              options: argparse.Namespace) -> list[Step]:
    """The commands of one run: trainings where the study has any, label maps and scores of rows.

    titles: of the rows. split: None for the recipe's validation split. The first command starts the run (--from,
    --set); in a study without trainings each is told its networks, which are the base's.
    """
    split = split or run.recipe.data.val_split
    rows = chosen_rows(run.recipe, titles)
    own = _options(options, run.folder, vgg16=options.vgg16 if run.variant.vgg16 else None)
    plan = [*_trainings(run, rows, own)] if study.trains else []
    labelled = [infer(row, split, own) for row in rows]
    if not study.trains:
        labelled = [replace(step, arguments=(*step.arguments, *_weights(run, row)))
                    for step, row in zip(labelled, rows, strict=True)]
    plan += [*labelled, evaluate_all(rows, split, own)]
    start = ("--from", str(run.base), *(word for text in run.sets for word in ("--set", text)))
    return [replace(plan[0], arguments=(*plan[0].arguments, *start)), *plan[1:]]


def chosen_rows(recipe: Recipe, titles: Sequence[str]) -> list[Row]:
    """The rows of these titles, aggregated as the recipe says."""
    rows = {row.title: row for row in table_rows(recipe.infer.aggregate, recipe)}
    return [rows[title] for title in titles]


def _trainings(run: StudyRun, rows: Sequence[Row], options: argparse.Namespace) -> list[Step]:
    """Those that the rows' networks come from: one-stage training has no stage 1."""
    needed: set[str] = set()
    for kind in {kind for row in rows for kind in row.networks}:
        known = {one.name: one for one in NETWORKS[kind].trainings(run.recipe)}
        name: str | None = list(known)[-1]
        while name:
            needed.add(name)
            start = known[name].start
            name = start.training if start else None
    return [step for step in trainings(run.recipe, options) if any(step.trains(name) for name in needed)]


def network_files(run: StudyRun, titles: Sequence[str]) -> dict[str, Path]:
    """The files of the networks, in the base run, that the rows are labelled with."""
    kinds = dict.fromkeys(kind for row in chosen_rows(run.recipe, titles) for kind in row.networks)
    return {kind: run.base / NETWORKS[kind].trainings(run.recipe)[-1].name / "network.safetensors" for kind in kinds}


def _weights(run: StudyRun, row: Row) -> list[str]:
    options = {kind: f"--{partner}-weights" for partner, kind in PARTNERS.items()}
    return [word for kind, path in network_files(run, [row.title]).items()
            for word in (options.get(kind, "--weights"), str(path))]


def check_bases(bases: Sequence[Path], study: Study, runs: Sequence[StudyRun]) -> None:
    """Raises UsageError for a base that is no run, or lacks a network that the study labels with."""
    for base in bases:
        if not (base / "recipe.yaml").is_file():
            raise UsageError(f"--from {base}: not a run folder: it has no recipe.yaml")
    if not study.trains:
        titles = [*study.rows, *([study.choose.row] if study.choose else [])]
        for path in [path for run in runs for path in network_files(run, titles).values()]:
            if not path.is_file():
                raise UsageError(f"{path}: no such network, with which this study labels; stages.run or stages.train "
                                 "makes it, or give another run with --from")


def share_scores(run: StudyRun, to: Path) -> None:
    """Makes the run keep its score maps in TO/scores with the other runs of the study, beginning with the base's.

    Score maps are told apart by all that they depend on (deconvnet/inference/saved_scores.py), so that other runs read
    no wrong ones. The base's are links: where one has to be made again, the link gives way and the base's file stays.
    """
    shared = to / "scores"
    for path in sorted((run.base / "scores").glob("*/*/[!.]*.h5")):
        link = shared / path.relative_to(run.base / "scores")
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)  # one that leads nowhere any more
            link.symlink_to(path.resolve())
    shared.mkdir(parents=True, exist_ok=True)
    own = run.folder / "scores"
    if not own.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        own.unlink(missing_ok=True)
        own.symlink_to(Path("..", "scores"), target_is_directory=True)


def _options(options: argparse.Namespace, run: Path, **given: object) -> argparse.Namespace:
    """The options of stages.run for one of the study's runs; what is not given is not set."""
    none = dict.fromkeys(("recipe", "source", "voc_root", "edge_model", "subset_classes", "vgg16",
                          *(f"{partner}_vgg16" for partner in PARTNERS)))
    return argparse.Namespace(**(none | {"run": run, "set": [], "device": options.device, "workers": options.workers}
                                 | given))
