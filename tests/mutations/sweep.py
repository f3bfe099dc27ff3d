"""`python -m tests.mutations.sweep`: a seeded sample of automatic mutations, each run against its module's tests.

Our own, over `ast`, since neither well-kept tool fits: mutmut and cosmic-ray know no sample and no tests per module;
cosmic-ray deletes no statement and swaps no arguments; mutmut forks a process that has torch's threads, and sees
nothing of the commands that the tests start as processes.
"""

import argparse
import ast
import copy
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from deconvnet.support.errors import UserError
from stages.cli import make_parser, run_command

from .__main__ import report
from .covering import covering_tests
from .lists import ROOT, Mutation
from .runner import run_mutations

PACKAGES = ("deconvnet", "proposals", "crf", "stages")
OPERATORS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And,
}
SAID = ("log", "logging", "print", "progress")  # what is only said to the user
# What is said too, and what guards against programming errors or another system's files alone.
ARID_KEYWORDS = ("help", "metavar", "description", "desc", "epilog", "unit", "strict", "newline", "encoding")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """What can be mutated: all but annotations, f-strings (they have no place of their own) and what is only said."""
    yield tree
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr) or _only_said(child):
                continue
            if name not in ("annotation", "returns", "decorator_list"):
                yield from nodes(child)


def _only_said(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in ARID_KEYWORDS
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True  # a docstring
    return isinstance(node.value, ast.Call) and ast.unparse(node.value.func).split(".")[0].lower() in SAID


def mutants(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The mutations of one node: what was done, and the new text."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", _changed(node, ops=[OPERATORS[type(node.ops[0])]()])
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        yield "operator", _changed(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "operator left out", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "bool", str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "constant + 1", f"({node.value + 1})"
        yield "constant - 1", f"({node.value - 1})"
    elif isinstance(node, ast.If | ast.IfExp) and "__name__" not in ast.unparse(node.test):
        yield "condition", f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Break | ast.Continue) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or (
            isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)):
        yield "deleted", "pass"


def _calls(node: ast.Call) -> Iterator[tuple[str, str]]:
    if len(node.args) > 1 and not any(isinstance(one, ast.Starred) for one in node.args[:2]):
        yield "arguments swapped", _changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    for keyword in node.keywords:
        if keyword.arg not in (None, *ARID_KEYWORDS):
            kept = [one for one in node.keywords if one is not keyword]
            yield f"without {keyword.arg}", _changed(node, keywords=kept)


def _changed(node: ast.AST, **fields: object) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


def mutations_of(file: str, text: str) -> Iterator[Mutation]:
    """Every automatic mutation of a file, as an entry of a list would be: `old` is grown to lines that occur once."""
    lines, tests = text.encode().splitlines(keepends=True), covering_tests(file)
    for node in nodes(ast.parse(text)):
        place = node.test if isinstance(node, ast.If | ast.IfExp) else node
        for kind, new in mutants(node):
            first, last = place.lineno - 1, place.end_lineno - 1
            before, after = lines[first][:place.col_offset], lines[last][place.end_col_offset:]
            above = first
            while text.count(b"".join(lines[above:last + 1]).decode()) > 1:
                above -= 1
            old = b"".join(lines[above:last + 1])
            mutated = b"".join(lines[above:first]) + before + new.encode() + after
            found = ast.get_source_segment(text, place) or ""
            name = f"{file}:{place.lineno} {kind}: {' '.join(found.split())[:60]} -> {new[:60]}"
            yield Mutation(name, file, old.decode(), mutated.decode(), tests, area="sweep")


def main(options: argparse.Namespace) -> None:
    """Draws, runs, reports."""
    if options.count < 1 or options.jobs < 1:
        raise UserError("--count and --jobs: expected 1 or more")
    files = sorted(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))
    every = [one for path in files for one in mutations_of(str(path.relative_to(ROOT)), path.read_text())]
    drawn = random.Random(options.seed).sample(every, min(options.count, len(every)))
    print(f"{len(drawn)} of {len(every)} automatic mutations, seed {options.seed}", flush=True)
    report(drawn, run_mutations(drawn, options.jobs, options.json), [])


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("tests.mutations.sweep", "Runs a random sample of automatic mutations.",
                         "python -m tests.mutations.sweep --seed 1 --count 20")
    parser.add_argument("--count", type=int, default=150, help="how many mutations (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (default: 1)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "sweep.json", metavar="FILE",
                        help="what is known from earlier runs, kept (default: build/sweep.json)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
