"""The command `deconvnet`: `deconvnet infer ...` is `python -m stages.infer ...`; each command is imported alone."""

import argparse
import ast
import importlib
import sys
from pathlib import Path

from stages import end_quietly
from stages.cli import run_command

FOLDER = Path(__file__).resolve().parent
EXAMPLE = "deconvnet infer --run runs/voc --images photo.jpg --overlay --out labelled"


def commands() -> dict[str, str]:
    """The commands' names, and one line on what each does: the modules of this folder that have parse() and main()."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        if {"parse", "main"} <= functions:
            title = (ast.get_docstring(module) or path.stem).splitlines()[0]
            found[path.stem] = title.removeprefix(f"`python -m stages.{path.stem}`: ").rstrip(".")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that is named first; its exit status. Exits with 2 where none of this name exists."""
    given = sys.argv[1:] if arguments is None else arguments
    name = _parser().parse_args(given[:1]).command
    sys.excepthook = end_quietly  # as under `python -m`; run_command takes it away
    module = importlib.import_module(f"stages.{name}")
    parser = module.parse()
    parser.prog = f"deconvnet {name}"
    sys.argv = [parser.prog, *given[1:]]
    return run_command(parser, module.main)


def _parser() -> argparse.ArgumentParser:
    """The command's own arguments: the name of another, which parses the rest."""
    parser = argparse.ArgumentParser(
        prog="deconvnet",
        description="Learning Deconvolution Network for Semantic Segmentation (ICCV 2015), reproduced.\n"
                    "`deconvnet COMMAND --help` shows a command's options.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, what in commands().items():
        subparsers.add_parser(name, help=what, add_help=False)
    return parser
