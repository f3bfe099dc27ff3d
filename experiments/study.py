"""`python -m experiments.study NAME`: runs that differ in one choice of the paper, and a table of what came of it."""

import argparse
import sys
from pathlib import Path

from deconvnet.support.atomic import write_json, write_text
from stages.cli import make_parser, run_command


def main(options: argparse.Namespace) -> None:
    """Lists the studies, prints the commands of one, or runs it and writes what it found."""
    from deconvnet.run_folder import provenance
    from deconvnet.support.locks import held
    from experiments.studies import load_study, study_names
    from experiments.study_runs import expand
    from experiments.study_table import to_markdown, write_record
    from experiments.study_work import bases_of, check_options, commands, run_study

    if options.name is None:
        print("\n".join(f"{name}: {load_study(name).question}" for name in study_names()))
        return
    study = load_study(options.name)
    options.to = options.to or Path("runs", "studies", Path(options.name).stem)
    bases = bases_of(study, options)
    runs = expand(study, bases, options)
    check_options(study, runs, bases, options)
    if options.dry_run:
        print("\n".join(commands(study, runs, bases, options)))
        return
    with held(options.to):
        choice, scored = run_study(study, runs, bases, options)
        found = write_record(study, scored, scored[0].recipe.data.val_split)
        found |= {"choice": choice, "scored_with": provenance()}
        text = to_markdown(Path(options.name).stem, study, found)
        write_json(options.to / "study.json", {"study": Path(options.name).stem, **found})
        write_text(options.to / "study.md", text)
    print(f"\n{text}\nwrote {options.to / 'study.md'}, study.json")


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
