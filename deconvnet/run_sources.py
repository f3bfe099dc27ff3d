"""The run that another run was started from (--from): its proposals and windows are read in place."""

from pathlib import Path

from deconvnet.recipe import PROPOSALS, WINDOWS, Recipe, recipe_difference, shaping
from deconvnet.recipe_files import load_recipe
from deconvnet.schemas import RunRecord, read_json
from deconvnet.support.errors import UsageError


def find_sources(root: Path, first: Path | None = None) -> list[Path]:
    """The run that `root` was started from, the one that run was started from, and so on; the last may be missing.

    first: the nearest, if run.json does not have it yet. Raises UsageError for a cycle.
    """
    found, at = [root.resolve()], first or _recorded_source(root)
    while at:
        if at in found:
            raise UsageError(f"{root}: --from {at} leads back to {at} itself; expected another run")
        found.append(at)
        at = _recorded_source(at)
    return found[1:]


def _recorded_source(root: Path) -> Path | None:
    path = root / "run.json"
    value = read_json(path, RunRecord).source if path.is_file() else None
    return Path(value) if value else None


def given_source(root: Path, given: Path | None, begun: bool) -> Path | None:
    """--from, resolved. Raises UsageError if the run was started from elsewhere, unless its source is missing (moved).
    """
    recorded = _recorded_source(root)
    if given and begun and given.resolve() != recorded and (not recorded or recorded.is_dir()):
        was = f"from {recorded}" if recorded else "on proposals and windows of its own"
        raise UsageError(f"{root}: this run was started {was}, not from {given}; use another --run folder")
    return given.resolve() if given else None


def require_sources(root: Path, sources: list[Path]) -> None:
    """Raises UsageError for a missing source."""
    for source in sources:
        if not (source / "recipe.yaml").is_file():
            raise UsageError(f"{source}: no such run folder, but {root} reads proposals and windows there: was it "
                             "moved? Give its new place as --from")


def check_source(root: Path, recipe: Recipe, source: Path) -> None:
    """Raises UsageError if a key that shapes proposals or windows has another value in the run that made them."""
    theirs = load_recipe(source / "recipe.yaml", complete=True)
    both = (shaping(one, PROPOSALS, WINDOWS) for one in (theirs, recipe))
    for name, (there, here) in recipe_difference(*both).items():
        raise UsageError(f"{root}: {name} is {here!r} here, but {there!r} in {source}, whose proposals and windows "
                         "were made with it: start without --from to make others")
