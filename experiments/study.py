"""`python -m experiments.study NAME`: runs that differ in one choice of the paper, and a table of what came of it."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconvnet.run_folder import provenance, recorded_voc_root
from deconvnet.run_sources import find_sources
from deconvnet.support.atomic import write_json, write_text
from deconvnet.support.errors import UsageError
from deconvnet.support.locks import held
from deconvnet.support.workers import check_workers
from experiments.studies import Study, load_study, study_names
from experiments.study_runs import (
    StudyRun,
    base_steps,
    check_bases,
    expand,
    network_files,
    run_steps,
    share_scores,
)
from experiments.study_table import images_of, scores_of, to_markdown, write_record
from stages.cli import make_parser, run_command
from stages.done import Done
from stages.step_runner import run_plans
from stages.steps import Step


def main(options: argparse.Namespace) -> None:
    """Lists the studies, prints the commands of one, or runs it and writes what it found."""
    if options.name is None:
        print("\n".join(f"{name}: {load_study(name).question}" for name in study_names()))
        return
    study = load_study(options.name)
    options.to = options.to or Path("runs", "studies", Path(options.name).stem)
    bases = _bases(study, options)
    runs = expand(study, bases, options)
    _check(study, runs, bases, options)
    if options.dry_run:
        print("\n".join(_commands(study, runs, bases, options)))
        return
    with held(options.to):
        choice, scored = _run(study, runs, bases, options)
        found = write_record(study, scored, scored[0].recipe.data.val_split)
        found |= {"choice": choice, "scored_with": provenance()}
        text = to_markdown(Path(options.name).stem, study, found)
        write_json(options.to / "study.json", {"study": Path(options.name).stem, **found})
        write_text(options.to / "study.md", text)
    print(f"\n{text}\nwrote {options.to / 'study.md'}, study.json")


def _bases(study: Study, options: argparse.Namespace) -> list[Path]:
    if options.source:
        return list(options.source)
    if study.trains:
        return [options.to / "base"]
    raise UsageError(f"study {options.name} labels with the networks of a run that is there: name it with --from RUN "
                     "(`python -m stages.run --recipe demo --run runs/demo` makes one)")


def _check(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path], options: argparse.Namespace) -> None:
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


def _run(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path],
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


def _commands(study: Study, runs: Sequence[StudyRun], bases: Sequence[Path],
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


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r}: expected different whole numbers, such as 0,1,2")
    return seeds


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(
        "experiments.study",
        "Runs that differ in one choice of the paper, and a table of what came of it, with mean and spread. Each run\n"
        "is an ordinary run folder; each step is printed as the command that it is; run again, it goes on where it\n"
        "stopped. Without a name it lists the studies (experiments/studies/NAME.yaml).",
        "python -m experiments.study proposals --from runs/demo\n"
        "  python -m experiments.study unpooling --seeds 0,1,2 --to runs/studies/unpooling")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a study's name, or a YAML file")
    parser.add_argument("--from", type=Path, dest="source", nargs="+", metavar="RUN",
                        help="the run on whose proposals and windows the study's runs stand, with whose networks they "
                             "label where the study trains none; for these alone several, of other seeds say (default: "
                             "a study that trains makes one of its own, TO/base)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where its runs go (default: runs/studies/NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="change a recipe key of all its runs; may repeat")
    parser.add_argument("--seeds", type=_seeds, metavar="N,N,...", help="seeds of its trainings (default: the study's)")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER", help="VOC-layout folder, without --from (default: "
                                                                        "a synthetic set)")
    parser.add_argument("--vgg16", type=Path, metavar="FILE", help="VGG16's weights, for the variants that start there")
    parser.add_argument("--workers", type=int, help="processes of the CRF (default: one per core)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
