"""What holds for every command: its help ends with an example, and that example is one that the command takes."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    f"{file.parent.name}.{file.stem}"
    for folder in ("stages", "experiments")
    for file in (REPOSITORY / folder).glob("*.py")
    if "run_command(parse(), main)" in file.read_text()
)
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
CALL = re.compile(r"python -m ((?:stages|experiments)\.\w+)([^`\n#]*)")


def parser_of(module: str) -> argparse.ArgumentParser:
    return importlib.import_module(module).parse()


def calls(text: str) -> list[tuple[str, str]]:
    """The modules and arguments of all `python -m ...` in a text; a backslash joins lines."""
    return CALL.findall(text.replace("\\\n", " ").replace("\\|", "|"))


def test_all_commands_are_found() -> None:
    started = {f"{file.parent.name}.{file.stem}" for folder in ("stages", "experiments")
               for file in (REPOSITORY / folder).glob("*.py") if "__main__" in file.read_text()}
    assert started == set(COMMANDS) and len(COMMANDS) >= 15


@pytest.mark.parametrize("module", COMMANDS)
def test_help_ends_with_an_example_that_the_command_takes(module: str) -> None:
    shown = parser_of(module).format_help()
    examples = calls(shown.partition("example:\n")[2])
    assert examples and examples[0][0] == module
    for _, arguments in examples:
        parser_of(module).parse_args(shlex.split(arguments))  # exits on an option that it does not know


IMPORTED = """
import importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    if hasattr(module, "parse"):
        module.parse().format_help()
    found = sorted({"torch", "torchvision", "tensorboard", "cv2", "h5py", "matplotlib", "omegaconf", "PIL", "pydantic",
                    "requests", "scipy", "tabulate", "tqdm", "yaml"} & {*sys.modules})
    if found:
        sys.exit(f"{name} --help imports {found[0]}")
"""


def test_help_needs_nothing_large() -> None:
    """torch takes seconds to import, the others tenths. In a process of its own: this one has them already."""
    done = subprocess.run([sys.executable, "-c", IMPORTED, "deconvnet", "stages.console", *COMMANDS], text=True,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module, arguments", sorted({one for page in PAGES for one in calls(page.read_text())}))
def test_every_command_of_readme_and_docs_is_one_that_exists(module: str, arguments: str) -> None:
    assert module in COMMANDS
    given = [word for word in shlex.split(arguments, comments=True) if not word.startswith("$")]
    parser_of(module).parse_args([word for word in given if word != "..."])
