"""The run that another run was begun from (--from): its proposals and windows are read where they are."""

from pathlib import Path

from deconvnet.recipe import PROPOSALS, WINDOWS, Recipe, recipe_difference, shaping
from deconvnet.recipe_files import load_recipe
from deconvnet.schemas import RunRecord, read_json
from deconvnet.support.errors import UsageError


def find_sources(root: Path, first: Path | None = None) -> list[Path]:
    """The run that `root` was begun from, the one which that was begun from, and so on; the last may be gone.

    first: the nearest, where run.json does not say so yet. Raises UsageError for runs that lead back to one of them.
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
    """--from, resolved. Raises UsageError where the run has begun otherwise, unless its source is gone (moved)."""
    recorded = _recorded_source(root)
    if given and begun and given.resolve() != recorded and (not recorded or recorded.is_dir()):
        was = f"from {recorded}" if recorded else "on proposals and windows of its own"
        raise UsageError(f"{root}: this run was begun {was}, not from {given}; use another --run folder")
    return given.resolve() if given else None


def require_sources(root: Path, sources: list[Path]) -> None:
    """Raises UsageError for a source that is gone."""
    for source in sources:
        if not (source / "recipe.yaml").is_file():
            raise UsageError(f"{source}: no run folder, but {root} reads proposals and windows there: was it moved? "
                             "--from says where it is now")


def check_source(root: Path, recipe: Recipe, source: Path) -> None:
    """Raises UsageError when a key that shapes proposals or windows has another value in the run that made them."""
    theirs = load_recipe(source / "recipe.yaml", complete=True)
    both = (shaping(one, PROPOSALS, WINDOWS) for one in (theirs, recipe))
    for name, (there, here) in recipe_difference(*both).items():
        raise UsageError(f"{root}: {name} is {here!r} here, but {there!r} in {source}, whose proposals and windows "
                         "were made with it: begin without --from to make others")
