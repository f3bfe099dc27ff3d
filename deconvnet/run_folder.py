"""The run folder: everything about a run, and where each stage finds the results of the previous one."""

import argparse
import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from deconvnet.conventions import DEFAULT_RECIPE, SYNTHETIC
from deconvnet.data.contents import Contents
from deconvnet.data.dataset import DATA_SETS, SegmentationDataset
from deconvnet.data.synthetic import generate
from deconvnet.recipe import Recipe, recipe_difference, recipe_to_dict, shaping
from deconvnet.recipe_files import Overrides, load_recipe, override, recorded_version, save_recipe
from deconvnet.run_sources import check_source, find_sources, given_source, require_sources
from deconvnet.schemas import DataSet, RunRecord, read_json
from deconvnet.support.atomic import remove_leftovers, write_json
from deconvnet.support.errors import UsageError
from deconvnet.support.installation import PACKAGES

log = logging.getLogger(__name__)


class RunFolder:
    """Paths inside a run folder, its recipe and its data set."""

    def __init__(self, root: Path, recipe: Recipe, voc_root: Path | None, sources: Sequence[Path] = ()) -> None:
        """voc_root: None for a run that has not needed its data set's folder yet. sources: the runs whose proposals and
        windows this one uses if it has none of its own (--from), nearest first.
        """
        self.root, self.recipe, self.voc_root, self.sources = root, recipe, voc_root, sources
        self.recorded = recipe  # as in recipe.yaml; recipe itself may be changed by a command's --set

    def voc(self) -> SegmentationDataset:
        """The run's data set. Raises UsageError when its folder is unknown or missing."""
        if self.voc_root is None:
            raise UsageError(f"{self.root}: the data set's images are needed: give --voc-root")
        return DATA_SETS[self.recipe.data.format](self.voc_root, self.recipe.data.classes)

    @cached_property
    def contents(self) -> Contents:
        """Hashes of the data set's files."""
        return Contents(self.root / "contents.json", [source / "contents.json" for source in self.sources])

    def values(self, *prefixes: str) -> dict[str, object]:
        """The recipe's values whose dotted names begin with one of the prefixes."""
        return {name: value for name, value in recipe_to_dict(self.recipe).items() if name.startswith(prefixes)}

    def proposals(self, split: str) -> Path:
        """The split's proposals: this run's, or those of the run that it was started from."""
        return self._made(Path("proposals", f"{split}.h5"))

    def windows(self, stage: int, split: str) -> Path:
        """The windows for training or validating a stage: this run's, or those of the run it was started from."""
        return self._made(Path("windows", f"stage{stage}-{split}.h5"))

    def _made(self, name: Path) -> Path:
        places = [folder / name for folder in (self.root, *self.sources)]
        return next((path for path in places if path.is_file()), places[0])

    def training(self, name: str) -> Path:
        """name: of a TrainingSpec, for example stage1 or fcn8s."""
        return self.root / name

    def network(self, name: str) -> Path:
        """A training's final weights, BN statistics included."""
        return self.training(name) / "network.safetensors"

    def scores(self, split: str, name: str) -> Path:
        """A network's score maps of a split."""
        return self.root / "scores" / split / name


def open_run(options: argparse.Namespace, keeps: tuple[str, ...] = (), needs_images: bool = True,
             begins: bool = False) -> RunFolder:
    """Opens the run folder, or makes it, and records its recipe and data set.

    keeps: which of the run's results the command uses or adds to (recipe.THINGS; empty: all, and the recipe as it is).
    A changed key that shapes one of them is a UsageError that names it, since the result was made with the old value;
    the number of iterations may grow when training. needs_images: whether the data set's folder must exist (training
    from materialized windows does not need it). begins: whether the command may start a run without a recipe; others
    then raise UsageError, since the folder's name may be mistyped.
    """
    root: Path = options.run
    saved = root / "recipe.yaml"
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: a file; expected a run folder, or a name for a new one")
    begun = saved.is_file() and any(path.is_dir() and path.name[0] != "." for path in root.iterdir())
    sources = find_sources(root, given_source(root, options.source, begun))
    require_sources(root, sources)
    old = load_recipe(saved, complete=True) if begun else None
    recipe = (_begun_recipe(root, options.recipe, options.set, old, keeps) if old else
              _new_recipe(options, sources, begins))
    for source in sources:
        check_source(root, recipe, source)
    run = RunFolder(root, recipe, _voc_root(options, root, sources, needs_images, recipe), sources)
    run.recorded = old or recipe
    if needs_images:
        run.voc()  # a wrong folder is an error before anything is written
    remove_leftovers(root)
    record = {}
    if (root / "run.json").is_file():
        record = read_json(root / "run.json", RunRecord).model_dump(exclude_unset=True, by_alias=True)
    # It is also missing where only recipe and windows were copied to a training machine.
    wanted = (record or {"seed": recipe.seed, **provenance()}) | ({"from": str(sources[0])} if sources else {})
    if wanted != record:
        write_json(root / "run.json", wanted)
    if not begun:  # nothing has been made with another recipe yet
        save_recipe(recipe, saved)
    if run.voc_root and (not (root / "data.json").is_file() or options.voc_root):
        write_json(root / "data.json", {"voc_root": str(run.voc_root.resolve())})
    log.info("run %s: recipe %s, seed %d, data %s", root, recipe.name, recipe.seed, run.voc_root or "not needed")
    return run


def read_run(root: Path, overrides: Overrides = (), keeps: tuple[str, ...] = ()) -> RunFolder:
    """An existing run's folder, read only: nothing is written, and its data set may be elsewhere.

    overrides: as load_recipe's. keeps: see open_run. Raises UsageError if there is no run.
    """
    if not (root / "recipe.yaml").is_file():
        raise UsageError(f"{root}: not a run folder: it has no recipe.yaml")
    old = load_recipe(root / "recipe.yaml", complete=True)
    run = RunFolder(root, _begun_recipe(root, None, overrides, old, keeps), None, find_sources(root))
    run.recorded = old
    return run


def _begun_recipe(root: Path, name: str | None, overrides: Overrides, old: Recipe, keeps: tuple[str, ...]) -> Recipe:
    """The recipe of a run with results; raises UsageError if a changed key shapes what is kept."""
    if name:
        new = load_recipe(name, overrides, as_of=recorded_version(root / "recipe.yaml"))
    else:
        new = override(old, overrides) if overrides else old
    changed = recipe_difference(recipe_to_dict(old), recipe_to_dict(new))
    free = free_keys(new, keeps)
    fixed = [name for name in changed if name not in free]
    if fixed:
        before, after = changed[fixed[0]]
        raise UsageError(f"{root}: this run's recipe has {fixed[0]} = {before!r}, not {after!r}; use another --run "
                         f"folder for another recipe (--from {root} starts one on this run's proposals and windows)")
    return new


def free_keys(recipe: Recipe, keeps: tuple[str, ...]) -> set[str]:
    """The recipe keys that may change while `keeps` is kept; none if it is empty."""
    if not keeps:
        return set()
    return recipe_to_dict(recipe).keys() - shaping(recipe, *keeps).keys()


def _new_recipe(options: argparse.Namespace, sources: list[Path], begins: bool) -> Recipe:
    """The recipe of a run without results: the one given, else that of --from, else the saved one."""
    saved = options.run / "recipe.yaml"
    if options.recipe:
        return load_recipe(options.recipe, options.set)
    if options.source:
        return load_recipe(sources[0] / "recipe.yaml", options.set, complete=True)
    if saved.is_file():
        return load_recipe(saved, options.set, complete=True)
    if not begins:
        raise UsageError(f"{options.run}: no run here (is --run or $DECONVNET_RUN right?); `python -m "
                         f"stages.build_proposals --run {options.run}` starts one")
    log.info("no --recipe given: %s, which is sized for a CPU; the paper's is --recipe paper", DEFAULT_RECIPE)
    return load_recipe(DEFAULT_RECIPE, options.set)


def provenance() -> dict[str, object]:
    """Commit, versions and machine, for all records."""
    return {
        "commit": git_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def git_commit() -> str:
    """The checkout's commit, with -dirty when files differ from it; 'unknown' outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def recorded_voc_root(root: Path, sources: Sequence[Path] = ()) -> Path | None:
    """The data set's folder as data.json names it, the run's own or that of the nearest source; None without any."""
    records = [folder / "data.json" for folder in (root, *sources)]
    found = next((path for path in records if path.is_file()), None)
    return Path(read_json(found, DataSet).voc_root) if found else None


def _voc_root(options: argparse.Namespace, root: Path, sources: list[Path], needed: bool,
              recipe: Recipe) -> Path | None:
    known = recorded_voc_root(root, sources)
    if options.voc_root:
        given = options.voc_root.resolve()
        same = known in (given, given.parent) or (known and known.parent == given)  # .../VOCdevkit or .../VOC2012 in it
        if known and known.is_dir() and not same:  # if it is gone, it was moved; the split lists are compared
            raise UsageError(f"{root}: this run's data set is {known}, not {options.voc_root}; use another --run "
                             "folder")
        return options.voc_root
    if known or not needed:
        return known
    if "DECONVNET_VOC_ROOT" in os.environ:
        return Path(os.environ["DECONVNET_VOC_ROOT"])
    if sources or any((root / made).is_dir() for made in ("proposals", "windows")):  # of other images than these
        raise UsageError(f"{root}: the data set's images are needed, and their folder is not recorded here: give "
                         "--voc-root")
    made = SYNTHETIC / f"{len(recipe.data.classes) - 1}-classes"
    log.info("no --voc-root given: the synthetic set in %s", made)
    return generate(made, train=600, val=60, seed=0, side=160, class_names=recipe.data.classes)
