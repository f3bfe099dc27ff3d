"""The steps of a whole run: which commands, in which order, what each makes, and its share of the time."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deconvnet.evaluation.rows import Row, evaluate_command, infer_command, paper_rows
from deconvnet.evaluation.scoring import SCORE_FILES
from deconvnet.models.registry import NETWORKS, PARTNERS
from deconvnet.models.spec import TrainingSpec
from deconvnet.recipe import Recipe

# Of the time, to guess what is left: seconds of the demo's steps at commit 9f8ebdd, on 2 cores of an x86_64.
SHARES = {
    "build": 19.0, "stage1": 122.0, "stage2": 178.0, "fcn8s": 59.0,
    "FCN-8s": 4.0, "DeconvNet": 6.0, "DeconvNet+CRF": 4.0, "EDeconvNet": 3.0, "EDeconvNet+CRF": 5.0,
    "evaluate": 1.0, "reproduce": 2.0, "figures": 12.0, "report": 3.0,
}
TABLE_AGGREGATE = "max"  # of experiments.reproduce, figures and report where none is named


@dataclass(frozen=True)
class Step:
    """A command of a whole run.

    arguments: of python. share: of the time, in the unit of SHARES. makes: patterns of its files in the run folder;
    none: it is run every time, which takes seconds. begun: the file that tells that it has begun, for a training, which
    then goes on with --resume.
    """

    arguments: tuple[str, ...]
    share: float
    makes: tuple[str, ...] = ()
    begun: Path | None = None

    def trains(self, training: str) -> bool:
        """Whether it is, or contains, a training of this name."""
        return f"{training}/[!.]*" in self.makes

    @property
    def name(self) -> str:
        """The command, the same whether it begins or goes on."""
        return f"python {shlex.join(self.arguments)}"

    def now(self) -> tuple[str, ...]:
        """The arguments of python as things stand."""
        return (*self.arguments, *(["--resume"] if self.begun and self.begun.is_file() else []))


def steps(recipe: Recipe, options: argparse.Namespace) -> list[Step]:
    """The steps in order. recipe: the run's. options: those of stages.run.

    Only the step that makes the run folder names recipe and data set: the folder remembers them.
    """
    run, split, rows = options.run, recipe.data.val_split, paper_rows(recipe.infer.aggregate)
    tables = _given("--aggregate", recipe.infer.aggregate if recipe.infer.aggregate != TABLE_AGGREGATE else None)
    subset = _given("--subset-classes", options.subset_classes)
    return [
        build(options),
        *trainings(recipe, options),
        *(infer(row, split, options) for row in rows),
        *(evaluate(row, split, options) for row in rows),
        Step(("-m", "experiments.reproduce", str(run), *tables, *subset), SHARES["reproduce"]),
        Step(("-m", "experiments.figures", str(run), *tables), SHARES["figures"]),
        Step(("-m", "experiments.report", str(run), *tables, *subset), SHARES["report"]),
    ]


def build(options: argparse.Namespace) -> Step:
    """Proposals and windows; it starts the run."""
    sets = [word for text in options.set for word in ("--set", text)]
    given = {"--from": options.source, "--voc-root": options.voc_root, "--edge-model": options.edge_model,
             "--workers": options.workers}
    return Step(("-m", "stages.build_proposals", "--run", str(options.run), *_given("--recipe", options.recipe), *sets,
                 *(word for name, value in given.items() for word in _given(name, value))),
                SHARES["build"], ("recipe.yaml", "proposals/*.h5", "windows/*.h5"))


def trainings(recipe: Recipe, options: argparse.Namespace) -> Iterator[Step]:
    """Of the networks of the paper's table. A network's first training, alone or with others, may start from VGG16."""
    vgg16 = {kind: getattr(options, f"{partner}_vgg16") or options.vgg16 for partner, kind in PARTNERS.items()}
    for spec in [spec for spec in NETWORKS.values() if spec.paper]:
        own = spec.trainings(recipe)
        start = vgg16.get(spec.name, options.vgg16)
        if spec.by_stage:
            for one in own:
                yield _train(("--stage", str(one.stage)), [one], start, options)
        else:
            yield _train(("--model", spec.name), own, start, options)


def _train(which: tuple[str, ...], trainings: list[TrainingSpec], vgg16: Path | None,
           options: argparse.Namespace) -> Step:
    first, last = trainings[0], trainings[-1].name
    start = _given("--vgg16", vgg16) if first.start is None else ()
    return Step(("-m", "stages.train", "--run", str(options.run), *which, *start, *_given("--device", options.device)),
                SHARES[last], tuple(f"{one.name}/[!.]*" for one in trainings), options.run / last / "last.pt")


def infer(row: Row, split: str, options: argparse.Namespace) -> Step:
    """The label maps of a row."""
    folder = f"predictions/{split}/{row.folder}"
    return Step((*infer_command(row, options.run, split), *_given("--device", options.device),
                 *_given("--workers", options.workers)),
                SHARES[row.title], (f"{folder}/*.png", f"{folder}/settings.json"))


def evaluate(row: Row, split: str, options: argparse.Namespace) -> Step:
    """The scores of a row."""
    subset = _given("--subset-classes", options.subset_classes)
    return Step((*evaluate_command(row, options.run, split), *subset), SHARES["evaluate"], _scores(row, split))


def evaluate_all(rows: Sequence[Row], split: str, options: argparse.Namespace) -> Step:
    """The scores of all rows that were predicted, in one command, where these rows are all of them."""
    return Step(("-m", "stages.evaluate", "--run", str(options.run), "--split", split), SHARES["evaluate"] * len(rows),
                tuple(pattern for row in rows for pattern in _scores(row, split)))


def _scores(row: Row, split: str) -> tuple[str, ...]:
    return tuple(f"predictions/{split}/{row.folder}/{name}" for name in SCORE_FILES)


def _given(option: str, value: object) -> tuple[str, ...]:
    return () if value is None else (option, str(value))
