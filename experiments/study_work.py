"""How a study's runs are made: its plans of commands, one of its variants chosen where it says so, what is scored."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconvnet.run_folder import recorded_voc_root
from deconvnet.run_sources import find_sources
from deconvnet.support.errors import UsageError
from deconvnet.support.workers import check_workers
from experiments.studies import Study
from experiments.study_runs import StudyRun, base_steps, check_bases, network_files, run_steps, share_scores
from experiments.study_table import images_of, scores_of
from stages.done import Done
from stages.step_runner import run_plans
from stages.steps import Step


def bases_of(study: Study, options: argparse.Namespace) -> list[Path]:
    """The runs on which the study's runs stand. Raises UsageError where one has to be named."""
    if options.source:
        return list(options.source)
    if study.trains:
        return [options.to / "base"]
    raise UsageError(f"study {options.name} labels with the networks of a run that is there: name it with --from RUN "
                     "(`python -m stages.run --recipe demo --run runs/demo` makes one)")


def check_options(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path],
                  options: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go with the study."""
    if options.workers is not None:
        check_workers(options.workers, least=1)
    if options.source:
        check_bases(bases, study, runs)
    if study.trains and len(bases) > 1:
        raise UsageError(f"--from: study {options.name} trains networks, so that one run is enough: several seeds are "
                         "given with --seeds")
    if options.seeds and not study.trains:
        raise UsageError(f"--seeds: study {options.name} trains nothing; give runs of several seeds with --from")
    if any(run.variant.vgg16 for run in runs) and not (options.vgg16 and options.vgg16.is_file()):
        raise UsageError(f"--vgg16 {options.vgg16}: no such file; a variant of this study starts from VGG16's weights")


def run_study(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path],
              options: argparse.Namespace) -> tuple[dict[str, Any] | None, Sequence[StudyRun]]:
    """Runs the commands; how a variant was chosen, and the runs that were scored for the table."""
    if not study.trains:
        for run in runs:
            share_scores(run, options.to)
    if not study.choose:
        run_plans(_plans(study, runs, bases, study.rows, None, options))
        return None, runs
    split, row = study.choose.split, study.choose.row
    run_plans(_plans(study, runs, bases, [row], split, options))
    reached = {name: _mean(runs, name, row, split) for name in dict.fromkeys(run.variant.name for run in runs)}
    chosen = max(reached, key=lambda name: reached[name])
    scored = [run for run in runs if run.variant.name in (runs[0].variant.name, chosen)]
    print(f"\nchosen on {split}: {chosen}", flush=True)
    run_plans(_plans(study, scored, bases, study.rows, None, options))
    return {"split": split, "images": images_of(runs[0], split), "row": row, "mean_iou": reached,
            "chosen": chosen}, scored


def _mean(runs: Sequence[StudyRun], variant: str, row: str, split: str) -> float:
    values = [scores_of(run, [row], split)[row]["mean_iou"] or 0.0 for run in runs if run.variant.name == variant]
    return sum(values) / len(values)


def _plans(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path], titles: Sequence[str], split: str | None,
           options: argparse.Namespace) -> list[Done]:
    """Each run's steps with what is known of them; before them those of a base that the study makes itself."""
    plans = []
    if not options.source:
        plans.append(Done(bases[0], base_steps(study, bases[0], options), runs[0].recipe, options.voc_root, []))
    for run in runs:
        plan = run_steps(run, study, titles, split, options)
        given = [*([options.vgg16] if run.variant.vgg16 else []),
                 *([] if study.trains else network_files(run, titles).values())]
        root = recorded_voc_root(run.base, find_sources(run.base)) if options.source else None
        plans.append(Done(run.folder, plan, run.recipe, root, given, run.base))
    return plans


def commands(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path],
             options: argparse.Namespace) -> list[str]:
    """What --dry-run prints."""
    lines = [] if options.source else [_shown(step) for step in base_steps(study, bases[0], options)]
    if not study.choose:
        return lines + [_shown(step) for run in runs for step in run_steps(run, study, study.rows, None, options)]
    choose = study.choose
    lines += [_shown(step) for run in runs for step in run_steps(run, study, [choose.row], choose.split, options)]
    lines.append(f"# then for {runs[0].variant.name}, and for the variant with the highest mean IoU of {choose.row} on "
                 f"{choose.split}, here called CHOSEN:")
    chosen = [replace(run, folder=options.to / "CHOSEN", sets=()) for run in runs[1:2]]
    return lines + [_shown(step) for run in (runs[0], *chosen)
                    for step in run_steps(run, study, study.rows, None, options)]


def _shown(step: Step) -> str:
    return f"python {shlex.join(step.now())}"
