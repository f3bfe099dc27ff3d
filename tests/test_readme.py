"""What README.md and docs/ cite exists: every test, every file of the tree, every name in one, every recipe key."""

import ast
import re
from pathlib import Path

import pytest

from deconvnet.recipe import recipe_keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
QUOTED = sorted({quoted for page in PAGES.values() for quoted in re.findall(r"`([^`\n]+)`", page)})
FUNCTIONS = {path.name: {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                         if isinstance(node, ast.FunctionDef)} for path in (ROOT / "tests").rglob("test_*.py")}

FILE = r"(deconvnet|proposals|crf|stages|experiments|tests|docs)/[\w./]*"
KEY = r"(data|proposals|windows|network|solver|train|bn_statistics|fcn|runtime|infer|crf)\.(?!py|json|csv)\w+(=.*)?"
NAMES = sorted({found for page in PAGES.values()
                for found in re.findall(r"`([\w.]+)`,? (?:in|of)\s`(\w[\w/]*\.py)`", page)
                if not re.fullmatch(KEY, found[0])})


def test_there_is_a_readme_of_ten_minutes() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150 and len(PAGES) > 10


@pytest.mark.parametrize("page", PAGES)
def test_what_is_quoted_ends_on_its_line(page: str) -> None:
    """Or else what is cited there would not be found, and not be checked."""
    assert not [line for line in PAGES[page].splitlines() if not line.startswith("    ") and line.count("`") % 2]


@pytest.mark.parametrize("cited", [one for one in QUOTED if one.removeprefix("tests/").startswith("test_")])
def test_cited_tests_exist(cited: str) -> None:
    file, _, name = cited.removeprefix("tests/").rpartition("::")
    if name.endswith(".py"):
        assert name in FUNCTIONS
    else:
        assert any(name in FUNCTIONS[one] for one in ([file] if file else FUNCTIONS))


def test_every_line_of_the_faithfulness_table_cites_its_use_too() -> None:
    table = [line for line in PAGES["docs/faithful.md"].splitlines() if line.startswith("| ")]
    rows = [line.strip("|").split(" | ") for line in table[1:]]
    assert len(rows) >= 20 and {len(row) for row in rows} == {5}
    for row in rows:
        for proof in row[2:4]:
            assert "test_" in proof or proof.startswith("the same"), row[0]


@pytest.mark.parametrize("cited", [one for one in QUOTED if re.fullmatch(FILE, one)])
def test_cited_files_exist(cited: str) -> None:
    assert (ROOT / cited).exists()


@pytest.mark.parametrize("record", sorted((ROOT / "experiments/results").glob("*.json")), ids=lambda path: path.stem)
def test_recorded_results_name_no_folder_of_one_machine(record: Path) -> None:
    """Neither as a value nor within a command."""
    assert not re.findall(r'["\s=]/[^"/\s]+/[^"\s]*', record.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name, file", NAMES)
def test_cited_names_are_in_the_files_named_with_them(name: str, file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for part in name.split("."):
        assert re.search(rf"^\s*(def|class) {part}\b|^{part}\b.* = ", text, re.MULTILINE), part


@pytest.mark.parametrize("cited", [one for one in QUOTED if re.fullmatch(KEY, one)])
def test_cited_keys_exist(cited: str) -> None:
    assert cited.partition("=")[0] in recipe_keys()
