"""What README.md cites exists: every test, every file of the tree, every recipe key."""

import ast
import re
from pathlib import Path

import pytest

from deconvnet.recipe import recipe_keys

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", README)))
FUNCTIONS = {path.name: {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                         if isinstance(node, ast.FunctionDef)} for path in (ROOT / "tests").rglob("test_*.py")}

FILE = r"(deconvnet|proposals|crf|stages|experiments)/[\w./]+"
KEY = r"(data|proposals|windows|network|solver|train|bn_statistics|fcn|runtime|infer|crf)\.(?!py|json|csv)\w+(=.*)?"


@pytest.mark.parametrize("cited", [one for one in QUOTED if one.removeprefix("tests/").startswith("test_")])
def test_cited_tests_exist(cited: str) -> None:
    file, _, name = cited.removeprefix("tests/").rpartition("::")
    if name.endswith(".py"):
        assert name in FUNCTIONS
    else:
        assert any(name in FUNCTIONS[one] for one in ([file] if file else FUNCTIONS))


def test_every_line_of_the_faithfulness_table_cites_its_use_too() -> None:
    table = README.partition("## How faithful is it?")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20 and {len(row) for row in rows} == {5}
    for row in rows:
        for proof in row[2:4]:
            assert "test_" in proof or proof.startswith("the same"), row[0]


@pytest.mark.parametrize("cited", [one for one in QUOTED if re.fullmatch(FILE, one)])
def test_cited_files_exist(cited: str) -> None:
    assert (ROOT / cited).exists()


@pytest.mark.parametrize("cited", [one for one in QUOTED if re.fullmatch(KEY, one)])
def test_cited_keys_exist(cited: str) -> None:
    assert cited.partition("=")[0] in recipe_keys()
