"""Which steps of a whole run are done: those since which nothing was touched that they, or steps before them, use.

The commands know by the files' contents what is to be made again, and then make no more than that. Here it is only seen
whether there is any reason to ask them: a step is started unless all is as it was when it ended.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deconvnet.data.contents import file_stat
from deconvnet.data.dataset import DATA_SETS
from deconvnet.recipe import Recipe
from deconvnet.run_folder import provenance, recorded_voc_root
from deconvnet.run_sources import find_sources
from deconvnet.schemas import StepRecord, StepsRecord, read_json
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UserError
from stages.steps import Step


@dataclass(frozen=True)
class Seen:
    """What a step's files are like: hashes over their names, sizes and times.

    read: of all it may read, with the versions of the code; empty where the data set's place is not known yet. made: of
    what it makes; empty where there is nothing.
    """

    read: str
    made: str


class Done:
    """RUN/steps.json: what each step's files were like when it ended, and the seconds it took."""

    def __init__(self, run: Path, plan: Sequence[Step], recipe: Recipe, voc_root: Path | None,
                 given: Sequence[Path | None], source: Path | None = None) -> None:
        """voc_root: the data set's folder where it is named; given: other files that the commands were given; source:
        the run that this one is started from, which its folder does not know yet.
        """
        self.source = source.resolve() if source else None
        self.run, self.plan, self.recipe, self.voc_root = run, plan, recipe, voc_root
        self.given = [path for path in given if path]
        self.path = run / "steps.json"
        self.known = self._known()
        self._data = ""

    def look(self, number: int, anew: bool = False) -> Seen:
        """The files of a step as they are. anew: those of the data set too, which else are looked at once."""
        if anew or not self._data:
            self._data = self._look_at_data()
        before = [pattern for step in self.plan[:number] for pattern in step.makes]
        read = _hash([self._data, *self._files(before)]) if self._data else ""
        made = self._files(self.plan[number].makes)
        return Seen(read, _hash(made) if made else "")

    def is_done(self, number: int, seen: Seen) -> bool:
        """Whether a step has ended and nothing was touched since."""
        last = self.known.get(self.plan[number].name)
        return bool(last and seen.read and seen.made and (last.read, last.made) == (seen.read, seen.made))

    def ended(self, number: int, before: Seen, seconds: float) -> None:
        """Keeps how a step that has just ended left its files, unless any that it reads was touched meanwhile."""
        after, name = self.look(number, anew=True), self.plan[number].name
        if not after.read or not after.made or before.read not in ("", after.read):
            return
        last = self.known.get(name)
        whole = seconds if not before.made else last.seconds if last else None  # not of a step's second half
        self.known[name] = StepRecord(read=after.read, made=after.made, seconds=whole)
        write_json(self.path, {"steps": {step: record.model_dump() for step, record in self.known.items()}})

    def seconds(self) -> dict[int, float]:
        """What steps took, by their numbers, where they were run as a whole."""
        known = {number: self.known.get(step.name) for number, step in enumerate(self.plan)}
        return {number: last.seconds for number, last in known.items() if last and last.seconds is not None}

    def _known(self) -> dict[str, StepRecord]:
        try:
            return read_json(self.path, StepsRecord).steps
        except (OSError, UserError):  # then every step is started, and finds what is done itself
            return {}

    def _look_at_data(self) -> str:
        """A hash over the data set's files, the given ones, those of the runs that this one stands on, the versions."""
        root = self.voc_root or recorded_voc_root(self.run) or os.environ.get("DECONVNET_VOC_ROOT")
        if not root:
            return ""
        data = self.recipe.data
        voc = DATA_SETS[data.format](Path(root), data.classes)
        found: list[object] = [provenance()]
        for split in (data.train_split, data.val_split):
            files = voc.files(voc.image_ids(split))
            found += [voc.fingerprint(split), [(path, file_stat(path)) for one in files for path in one]]
        sources = [path for source in find_sources(self.run, self.source) for name in ("proposals", "windows")
                   for path in sorted((source / name).glob("*.h5"))]
        return _hash([*found, *((str(path), file_stat(str(path))) for path in (*self.given, *sources))])

    def _files(self, patterns: Sequence[str]) -> list[object]:
        """Names and stats of the files in the run folder that fit any of the patterns."""
        return [(str(path.relative_to(self.run)), file_stat(str(path)))
                for pattern in patterns for path in sorted(self.run.glob(pattern))]


def _hash(values: Sequence[object]) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()
