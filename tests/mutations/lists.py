"""The hand-made mutations: one YAML list an area, beside this file.

    - name: stage 2 does not load stage 1's weights
      file: stages/train.py
      old: 'model.load_state_dict(content["model"])'   # occurs exactly once in the file
      new: 'pass'
      tests: tests/stages/test_train_wiring.py                # pytest's arguments; killed when pytest fails
      survives: why no test can tell                   # only where that is so
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from deconvnet.support.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).resolve().parent
REQUIRED, OPTIONAL = ("name", "file", "old", "new", "tests"), ("survives",)


@dataclass(frozen=True)
class Mutation:
    """One change to one file, and the tests that must notice it."""

    name: str
    file: str  # from the repository's root
    old: str
    new: str
    tests: str
    survives: str = ""  # why it cannot be killed
    area: str = ""  # the list's name

    def test_files(self) -> list[str]:
        """The files among pytest's arguments, without `::name`."""
        return [word.split("::")[0] for word in shlex.split(self.tests) if word.split("::")[0].endswith(".py")]

    def mutated(self, root: Path = ROOT) -> str:
        """The file's text with the mutation. Raises UserError when `old` does not occur exactly once."""
        path = root / self.file
        if not path.is_file():
            raise UserError(f"{self.file} does not exist")
        text = path.read_text()
        if text.count(self.old) != 1:
            raise UserError(f"`old` occurs {text.count(self.old)} times in {self.file}, expected once")
        return text.replace(self.old, self.new)


def read_list(path: Path) -> list[Mutation]:
    """The mutations of one YAML file. Raises UserError for anything but a list of entries with the keys above."""
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list of mutations")
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            raise UserError(f"{where}: expected text under each of {', '.join(REQUIRED)}; quote numbers and yes/no")
        missing, unknown = set(REQUIRED) - set(entry), set(entry) - {*REQUIRED, *OPTIONAL}
        if missing or unknown:
            raise UserError(f"{where}: lacks {sorted(missing)}, has unknown {sorted(unknown)}")
        found.append(Mutation(**entry, area=path.stem))
    return found


def all_lists() -> list[Path]:
    """Every list there is."""
    return sorted(LISTS.glob("*.yaml"))
