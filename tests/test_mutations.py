"""The lists of mutations have not rotted, and their runner tells killed, survived and broken apart."""

import ast
import shlex
from pathlib import Path

import pytest
from mutations import runner
from mutations.lists import ROOT, Mutation, all_lists, read_list
from mutations.runner import ERROR, KILLED, SURVIVED, Records, Runner

from deconvnet.errors import UserError

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
            defined = {node.name for node in ast.walk(ast.parse((ROOT / name).read_text()))
                       if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert set(functions) <= defined


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one function and one test that knows half of it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("def add(a, b):\n    print('adding')\n    return a + b\n")
    (tree / "test_a.py").write_text("from a import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    return tree


@pytest.mark.parametrize("old, new, tests, status, note", [
    ("a + b", "a - b", "test_a.py", KILLED, ""),
    ("'adding'", "'taking'", "test_a.py", SURVIVED, ""),
    ("def add", "def sub", "test_a.py", ERROR, "pytest ends with 2"),
    ("a + b", "a - b", "test_a.py::test_nothing", ERROR, "the unmutated tests end with 4"),
    ("print('adding')", "import time; time.sleep(99)", "test_a.py", KILLED, "it hangs"),
])
def test_runner(old: str, new: str, tests: str, status: str, note: str, tree: Path, tmp_path: Path,
                monkeypatch: pytest.MonkeyPatch) -> None:
    """Each outcome has its name; the tree is as before; what is known is not run again, errors are."""
    monkeypatch.setattr(runner, "SLACK", 1)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # faster
    before = (tree / "a.py").read_text()
    mutation = Mutation("one", "a.py", old, new, tests)
    first = Runner([tree], Records(tmp_path / "known.json"))
    first.baseline(tests)
    result = first.mutate(mutation, "key")
    assert result["status"] == status and result["note"].startswith(note)
    assert (tree / "a.py").read_text() == before
    assert (Records(tmp_path / "known.json").get("key") is None) == (status == ERROR)
    if status != ERROR:
        (tree / "test_a.py").unlink()
        assert Runner([tree], Records(tmp_path / "known.json")).mutate(mutation, "key")["status"] == status
