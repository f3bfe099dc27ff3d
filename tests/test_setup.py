"""pyproject.toml, constraints.txt, environment.yml, Makefile and README agree; a bare machine is told plainly."""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
RELEASES = ("3.10.0", "3.11.0", "3.11.2", "3.11.5", "3.12.0")  # 3.11.2 is Debian 12's
TOOLS = ("sh", "make", "touch", "rm", "find", "mkdir")  # what the Makefile itself calls, but for Python and g++


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(release: str) -> dict[str, str]:
    """The constraints that hold for a Python, by name; every line must be an exact pin, no name may come twice."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), line
        python = {"python_version": release.rpartition(".")[0], "python_full_version": release}
        if pin.marker is None or pin.marker.evaluate(python):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice for Python {release}"
            found[name] = str(pin.specifier)[2:]
    return found


@pytest.mark.parametrize("python", RELEASES)
def test_every_direct_dependency_is_pinned_within_its_range(project: dict[str, Any], python: str) -> None:
    pinned = pins(python)
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for text in project["dependencies"] + extras:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"{name} has no pin for Python {python} in constraints.txt"
        assert wanted.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is outside {text}"


@pytest.mark.parametrize("python", RELEASES)
def test_what_is_pinned_for_a_python_installs_on_it(python: str) -> None:
    """By the word of the packages that are installed here; a fresh machine would end in a conflict."""
    pinned, seen = pins(python), 0
    for package in distributions():
        if pinned.get(canonicalize_name(package.name)) == package.version and package.metadata["Requires-Python"]:
            assert SpecifierSet(package.metadata["Requires-Python"]).contains(python), package.name
            seen += 1
    assert seen > 50


def test_python_range(project: dict[str, Any]) -> None:
    allowed = SpecifierSet(project["requires-python"])
    versions = [f"3.{minor}" for minor in range(8, 16)]
    assert [version for version in versions if allowed.contains(version)] == list(PYTHONS)
    named = {text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text}
    assert named == set(PYTHONS)
    makefile = (ROOT / "Makefile").read_text()
    assert "(3, 10) <= sys.version_info[:2] <= (3, 12)" in makefile


def test_conda_installs_from_the_same_files(project: dict[str, Any]) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [item for item in environment["dependencies"] if isinstance(item, str)]
    (python,) = (item.partition("=")[2] for item in plain if item.startswith("python="))
    assert SpecifierSet(project["requires-python"]).contains(python)
    assert not {item.partition("=")[0] for item in plain} & pins(python).keys()  # packages come from pip alone
    (from_pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert from_pip == ["-c constraints.txt", "-e .[test]"]
    assert "pip install --disable-pip-version-check -c constraints.txt -e '.[test]'" in (ROOT / "Makefile").read_text()


def test_readme_names_commands_and_prerequisites() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for wanted in ("make demo", "make test", "environment.yml", "python3", "C++ compiler", "3.10", "3.12"):
        assert wanted in readme, f"README.md does not name {wanted}"


@pytest.mark.parametrize("extra", ["cluster", "docs", "export", "heic"])
def test_whoever_can_run_the_tests_can_do_the_rest(project: dict[str, Any], extra: str) -> None:
    extras = project["optional-dependencies"]
    assert set(extras[extra]) <= set(extras["test"])


def test_ci_runs_everything() -> None:
    """But for the tests marked long; plain `pytest` too runs the slow ones, and so the mutations are tried on them."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make check"
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert shlex.split(options)[:2] == ["-m", "not long"]
    rules = dict(re.findall(r"^(test|check): lint\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M))
    assert " -m 'not slow and not long'\n" in rules["test"] and " -m " not in rules["check"].replace("python -m ", "")
    module, given = re.search(r"python -m (experiments\.\w+) (.*)", rules["check"]).groups()
    options = importlib.import_module(module).parse().parse_args(given.split())
    assert options.quick and options.guard


def test_the_quick_tests_reach_every_room_and_every_command() -> None:
    """`make test`: each folder of tests has some that are not marked slow, and each command is started by one."""
    quick = {path: quick_text(path) for path in (ROOT / "tests").rglob("test_*.py")}
    rooms = {path.parent for path in quick}
    assert {path.parent for path, text in quick.items() if "def test_" in text} == rooms
    text = "".join(quick.values())
    for folder in ("stages", "experiments"):
        for path in (ROOT / folder).glob("*.py"):
            if "run_command(parse(), main)" in path.read_text() and path.stem != "window_cost":  # a measurement
                started = rf"{folder}\.{path.stem}\b|{folder} import (\w+, )*{path.stem}\b"
                assert re.search(started, text), f"no quick test starts {folder}.{path.stem}"


def quick_text(path: Path) -> str:
    """A file of tests without the functions that are marked slow; empty if all of it is."""
    text = path.read_text()
    tree = ast.parse(text)
    if "pytestmark = pytest.mark.slow" in text:
        return ""
    kept = [node for node in tree.body if not any("mark.slow" in ast.unparse(one)
                                                  for one in getattr(node, "decorator_list", []))]
    return "\n".join(ast.unparse(node) for node in kept)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the files that `make` needs, beside a folder `bin` that holds the few tools it calls."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if not found:
            pytest.skip(f"no {tool} on this machine")
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Runs make with nothing but `bin` on the path; the status and the lines that are not make's own."""
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder), **variables}
    done = subprocess.run([folder / "bin" / "make", *arguments], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, [line for line in done.stdout.splitlines() if not line.startswith("make:")]


def add_python(folder: Path) -> None:
    script = folder / "bin" / "python3"  # a link would lose the way to this Python's library
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)


def test_without_python(bare: Path) -> None:
    status, lines = make(bare, "test")
    assert status and lines == ["error: python3 not found: install Python 3.10, 3.11 or 3.12, or name one: "
                                "make PYTHON=python3.11"]


def test_with_a_python_that_is_too_old_or_too_new(bare: Path) -> None:
    add_python(bare)
    makefile = bare / "Makefile"  # the range is moved away from this Python, in place of another Python
    makefile.write_text(makefile.read_text().replace("(3, 10) <= sys.version_info[:2] <=", "(3, 90) <= (3, 0) <="))
    status, lines = make(bare, "test")
    assert status and lines == ["error: python3 is not Python 3.10, 3.11 or 3.12: name one that is: "
                                "make PYTHON=python3.11"]


def test_without_a_compiler(bare: Path) -> None:
    add_python(bare)
    status, lines = make(bare, "demo")
    assert status and lines == ["error: no working C++ compiler (g++): install one (Debian, Ubuntu: apt install g++)"]
    assert not (bare / ".venv").exists()


@pytest.mark.slow
def test_when_pip_fails(bare: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++ on this machine")
    add_python(bare)
    status, lines = make(bare, "test", PATH=f"{bare / 'bin'}:{os.environ['PATH']}", PIP_NO_INDEX="1",
                         PIP_CONFIG_FILE=os.devnull)
    assert status and lines[-1].startswith("error: pip could not install the packages (its message is above)")
    assert not (bare / ".venv" / "installed").exists()


def test_nothing_is_installed_twice(bare: Path) -> None:
    (bare / ".venv").mkdir()
    (bare / ".venv" / "installed").touch()
    status, lines = make(bare, "--dry-run", "demo", "test")
    assert not status and not any("pip" in line for line in lines)
    newer = (bare / ".venv" / "installed").stat().st_mtime + 10
    os.utime(bare / "constraints.txt", (newer, newer))
    status, lines = make(bare, "--dry-run", "test")
    assert not status and any("pip install" in line for line in lines)
