"""The command `deconvnet`: `deconvnet infer ...` is `python -m stages.infer ...`; each command is imported alone."""

import ast
import importlib
import sys
from pathlib import Path

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
    """Runs the command that is named first; its exit status, 2 for one that there is not."""
    given = sys.argv[1:] if arguments is None else arguments
    known = commands()
    if not given or given[0] in ("-h", "--help"):
        print(_help(known))
        return 0 if given else 2
    name = given[0]
    if name not in known:
        print(f"error: deconvnet {name}: no such command; expected one of {', '.join(known)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"stages.{name}")
    parser = module.parse()
    parser.prog = f"deconvnet {name}"
    sys.argv = [parser.prog, *given[1:]]
    return run_command(parser, module.main)


def _help(known: dict[str, str]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {what}" for name, what in known.items()]
    return "\n".join(["usage: deconvnet COMMAND [OPTIONS]", "", "Learning Deconvolution Network for Semantic "
                      "Segmentation (Noh, Hong, Han, ICCV 2015), reproduced.", "", "commands:", *lines, "",
                      "`deconvnet COMMAND --help` shows its options.", "", "example:", f"  {EXAMPLE}"])
