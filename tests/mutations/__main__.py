"""`python -m tests.mutations`: breaks the code on purpose, one line at a time, and sees whether the tests notice.

Each mutation is made in a copy of the tree in a temporary folder; the tests it names must pass there before it and fail
after it. What was found is kept in a JSON file, and a rerun repeats only what changed: mutation, mutated file or tests
(delete the JSON file to repeat all).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from deconvnet.support.errors import UserError
from stages.cli import make_parser, run_command

from .lists import LISTS, ROOT, Mutation, all_lists, read_list
from .runner import ERROR, KILLED, SURVIVED, run_mutations


def applicable(mutations: list[Mutation]) -> tuple[list[Mutation], list[str]]:
    """The mutations that apply, and a line for each that no longer does."""
    good, lines = [], []
    for mutation in mutations:
        try:
            mutation.mutated()
            good.append(mutation)
        except UserError as error:
            lines.append(f"{mutation.area}: {mutation.name}: {error}")
    return good, lines


def changed_since(base: str) -> set[str]:
    """The files that differ from `base` in the working tree."""
    ran = subprocess.run(["git", "diff", "--name-only", base], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        raise UserError(f"--changed {base}: {ran.stderr.strip()}")
    return set(ran.stdout.split("\n"))


def chosen(options: argparse.Namespace) -> list[Mutation]:
    """The mutations that the arguments ask for."""
    found = [one for path in options.lists or all_lists() for one in read_list(path) if options.only in one.name]
    if options.changed:
        changed = changed_since(options.changed)
        found = [one for one in found if changed & {one.file, *one.test_files()}]
    return found


def report(mutations: list[Mutation], results: list[dict], stale: list[str]) -> None:
    """Prints score, survivors and what does not apply. Raises UserError unless every survivor is explained."""
    lines: dict[str, list[str]] = {"survived, explained": [], "survived": [], "not run": [], "killed": []}
    for one, result in zip(mutations, results, strict=True):
        title = f"{one.area}: {one.name}"
        if result["status"] == SURVIVED:
            lines["survived, explained" if one.survives else "survived"].append(f"{title}: {one.survives}".rstrip(": "))
        elif result["status"] == ERROR:
            lines["not run"].append(f"{title}: {result['note']}")
        elif one.survives:
            lines["killed"].append(f"{title}: `survives: {one.survives}` is untrue")
    lines["does not apply"] = stale
    for kind, found in lines.items():
        for line in found:
            print(f"{kind}: {line}")
    statuses = [result["status"] for result in results]
    killed, ran = statuses.count(KILLED), len(statuses) - statuses.count(ERROR)
    explained = lines.pop("survived, explained")
    print(f"{killed} of {ran} killed ({100 * killed / max(ran, 1):.1f} %), {len(explained)} survivors explained")
    if any(lines.values()):
        raise UserError(f"{len(lines['survived'])} survived, {len(lines['not run'])} could not be run, {len(stale)} do "
                        f"not apply, {len(lines['killed'])} are said to survive and do not: see above")


def main(options: argparse.Namespace) -> None:
    """Chooses, runs, reports."""
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected 1 or more")
    mutations, stale = applicable(chosen(options))
    report(mutations, run_mutations(mutations, options.jobs, options.json), stale)


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("tests.mutations", "Breaks the code on purpose and sees whether the tests notice.",
                         "python -m tests.mutations tests/mutations/core.yaml --only palette")
    parser.add_argument("lists", nargs="*", type=Path, metavar="FILE.yaml",
                        help=f"lists of mutations (default: all in {LISTS.relative_to(ROOT)})")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutations with this in their name")
    parser.add_argument("--changed", nargs="?", const="HEAD~1", metavar="BASE",
                        help="only where the file or its tests differ from this commit (alone: HEAD~1)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (default: 1)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "mutations.json", metavar="FILE",
                        help="what is known from earlier runs, kept (default: build/mutations.json)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
