"""The lists of mutations have not rotted, and their runner tells killed, survived and broken apart."""

import ast
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from deconvnet.support.errors import UserError
from tests.mutations import runner
from tests.mutations.covering import covering_tests
from tests.mutations.lists import ROOT, Mutation, all_lists, read_list
from tests.mutations.runner import ERROR, HANGS, KILLED, SURVIVED, Records, Runner, Tree
from tests.mutations.sweep import mutations_of

MUTATIONS = [mutation for path in all_lists() for mutation in read_list(path)]


def test_names_are_unique() -> None:
    names = [(mutation.area, mutation.name) for mutation in MUTATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.area}: {one.name}")
def test_every_mutation_applies(mutation: Mutation) -> None:
    """The text is there once, the mutated file still compiles, the tests named exist."""
    text = mutation.mutated()
    assert text != (ROOT / mutation.file).read_text()
    if mutation.file.endswith(".py"):
        compile(text, mutation.file, "exec")
    assert mutation.test_files()
    for word in shlex.split(mutation.tests):
        name, *functions = word.split("[")[0].split("::")
        if name.endswith(".py"):
            assert set(functions) <= defined_in(name)


@cache
def defined_in(name: str) -> set[str]:
    """The functions and classes of a file."""
    return {node.name for node in ast.walk(ast.parse((ROOT / name).read_text()))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_module_has_tests_that_cover_it() -> None:
    for package in ("deconvnet", "proposals", "crf", "stages"):
        for path in (ROOT / package).glob("*.py"):
            assert covering_tests(str(path.relative_to(ROOT)))


@pytest.mark.parametrize("old, new", [
    ("x < 1", "(x <= 1)"), ("x + 1", "(x - 1)"), ("x + 1", "x + (2)"), ("True", "False"), ("f(x, y)", "(f(y, x))"),
    ("g(k=1)", "(g())"), ("if a:", "if (not (a)):"), ("x.y = 2", "pass"), ("-z", "(z)"), ("a and b", "(a or b)"),
])
def test_automatic_mutations(old: str, new: str) -> None:
    """Each is there once, applies and compiles; annotations, docstrings, f-strings, help and logs are left alone."""
    text = ('def t(x: "int | None" = None) -> int | None:\n    """One + one."""\n    log.info("a", 1)\n'
            "    if a:\n        x.y = 2\n    v = [x < 1, (x + 1), True, f(x, y), g(k=1), -z, a and b]\n"
            "    return parse(f'{1 + 1}', help=str(3))\n")
    found = list(mutations_of("deconvnet/data/palette.py", text))
    mutated = {text.replace(one.old, one.new) for one in found}
    assert len(mutated) == len(found) and all(text.count(one.old) == 1 for one in found)
    assert text.replace(old, new) in mutated
    assert all("int | None" in one and "One + one" in one and '("a", 1)' in one and "str(3)" in one and "{1 + 1}" in one
               for one in mutated)
    for one in mutated:
        compile(one, "a.py", "exec")


@pytest.mark.parametrize("text, said", [
    ("name: a", "expected a list"), ("- [", "while parsing"), ("- name: a", "lacks"),
    ("- {name: 1, file: a, old: b, new: c, tests: d}", "expected text"),
    ("- {name: a, file: a, old: b, new: c, tests: d, extra: e}", r"unknown \['extra'\]"),
])
def test_a_wrong_list_is_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_list(path)


@pytest.mark.parametrize("old", ["three", "1"])
def test_a_text_that_is_not_there_once_is_told(old: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\ntwo = 1\n")
    with pytest.raises(UserError, match="expected once"):
        Mutation("a", "a.py", old, "2", "test_a.py").mutated(tmp_path)


ADDING = "def add(a, b):\n    print('adding')\n    return a + b\n"
TEST = "from a import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"  # knows half of it


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """An empty tree, and its warm process with no libraries to import."""
    path = tmp_path_factory.mktemp("mutated") / "tree"
    path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # faster
        tree = Tree(path, ())
    yield tree
    tree.close()


@pytest.mark.parametrize("old, new, tests, status, note", [
    ("a + b", "a - b", "test_a.py", KILLED, ""),
    ("'adding'", "'taking'", "test_a.py", SURVIVED, ""),
    ("def add", "def sub", "test_a.py", ERROR, "pytest ends with 2"),
    ("a + b", "a - b", "test_a.py::test_nothing", ERROR, "the unmutated tests end with 4"),
    ("print('adding')", "import time; time.sleep(99)", "test_a.py", KILLED, HANGS),
])
def test_runner(old: str, new: str, tests: str, status: str, note: str, tree: Tree, tmp_path: Path,
                monkeypatch: pytest.MonkeyPatch) -> None:
    """Each outcome has its name; the tree is as before; what is known is not run again; errors and what hangs are."""
    monkeypatch.setattr(runner, "SLACK", 1)
    (tree.path / "a.py").write_text(ADDING)
    (tree.path / "test_a.py").write_text(TEST)
    mutation = Mutation("one", "a.py", old, new, tests)
    first = Runner([tree], Records(tmp_path / "known.json"))
    result = first.mutate(mutation, "key")
    assert result["status"] == status and result["note"].startswith(note)
    assert (tree.path / "a.py").read_text() == ADDING
    kept = status != ERROR and note != HANGS
    assert (Records(tmp_path / "known.json").get("key") is not None) == kept
    if kept:
        (tree.path / "test_a.py").unlink()
        assert Runner([tree], Records(tmp_path / "known.json")).mutate(mutation, "key")["status"] == status
