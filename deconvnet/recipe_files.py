"""Reads and writes recipes: the paper's values, changed by a YAML file, then by `--set key=value`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deconvnet.recipe import VERSION, Recipe, recipe_keys, with_added_keys
from deconvnet.recipe_limits import check_text, check_values, short
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UsageError

Overrides = Sequence[str]  # key=value each; one may come as a plain string
RECIPE_FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "recipes"


def load_recipe(name: str | Path, overrides: Overrides = (), complete: bool = False, as_of: int = VERSION) -> Recipe:
    """Reads a recipe: the paper's values, then the file's, then overrides: `key=value`, one or several.

    name: a recipe's name (a file of experiments/recipes) or the path of a YAML file. complete: the file must hold every
    key, as save_recipe writes it, so that a key lost from a run's recipe does not silently become the paper's value.
    (Keys added since its version are not lost: they are as they were before.) as_of: the version of a run that was
    begun; keys added since are as they were before in it, where the file does not name them. Raises UsageError for an
    unknown recipe, an unknown key (naming the nearest), a wrong type or value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml")))
            raise UsageError(f"recipe {str(name)!r}: not one of {known}, and not a .yaml file")
    elif not path.is_file():
        raise UsageError(f"{path}: no such recipe file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        check_text(text)
        loaded = OmegaConf.create(text)
    except OSError:
        raise
    except Exception as error:  # yaml raises its own family of errors
        raise UsageError(f"{path}: not valid YAML: {_first_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UsageError(f"{path}: expected `key: value` lines")
    version = loaded.pop("version", 1 if complete else VERSION)  # one written by hand has none
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UsageError(f"{path}: version is {short(version)}; expected 1 to {VERSION}: is the recipe from a newer "
                         "version of this program?")
    given = _dotted(OmegaConf.to_container(loaded))
    if complete:
        expected = {name for name, (_, item) in recipe_keys().items() if item.metadata["added"] <= version}
        lost = expected - given.keys()
        if lost:
            raise UsageError(f"{path}: {len(lost)} recipe keys are missing, for example {min(lost)}: cut short, or "
                             "from another version of this program; restore them, or use another --run folder")
    for key, value in with_added_keys({}, min(version, as_of)).items():
        if key not in given:
            OmegaConf.update(loaded, key, value)
    recipe = _merge(Recipe(), loaded, str(path))
    return override(recipe, overrides) if overrides else recipe  # a merge takes 20 ms


def recorded_version(path: Path) -> int:
    """The version of a recipe that load_recipe reads as complete."""
    return OmegaConf.to_container(OmegaConf.load(path)).get("version", 1)  # type: ignore[union-attr]


def override(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with some keys changed, `key=value` each, one or several. Raises UsageError, as load_recipe."""
    return _merge(recipe, _parse_overrides(overrides), "--set")


def recipe_from_dict(values: dict[str, Any], source: str) -> Recipe:
    """The recipe stored in a file, by dotted names (recipe_to_dict); keys added since then are as before.

    source: the file, in messages. Raises UsageError for an unknown or missing key, or a wrong value.
    """
    nested = OmegaConf.create()
    for name, value in with_added_keys(values).items():
        OmegaConf.update(nested, name, value)
    lost = sorted(recipe_keys().keys() - _dotted(OmegaConf.to_container(nested)).keys())
    if lost:
        raise UsageError(f"{source}: its recipe has no {lost[0]}: damaged, or from another version of this program; "
                         "give a recipe")
    return _merge(Recipe(), nested, source)


def _parse_overrides(overrides: Overrides) -> Any:
    overrides = [overrides] if isinstance(overrides, str) else overrides
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"--set {override[:100]}: expected key=value, for example --set solver.lr=0.001")
    try:
        for override in overrides:
            check_text(override.partition("=")[2])
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # yaml raises its own family of errors
        raise UsageError(f"--set {short(' '.join(overrides))}: a value is not valid YAML: {_first_line(error)}"
                         ) from None


def _merge(recipe: Recipe, changes: Any, source: str) -> Recipe:
    known = recipe_keys(recipe)
    for name, value in _dotted(OmegaConf.to_container(changes)).items():
        if name not in known:
            near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.0)[0]
            raise UsageError(f"{source}: unknown recipe key {short(name)}; the nearest is {near!r}; `python -m "
                             "stages.inspect recipe` lists all")
        if value == "???":  # OmegaConf's "missing", which would silently leave the key unchanged
            raise UsageError(f"{source}: recipe key {name} is '???'; expected a value")
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(recipe), changes))
    except OmegaConfBaseException as error:
        first = _first_line(error)
        if error.full_key in known and isinstance(known[error.full_key][0], list):
            first = "expected a list, such as [1, 2]"
        raise UsageError(f"{source}: recipe key {error.full_key!r}: {first}") from None
    assert isinstance(merged, Recipe)
    check_values(recipe_keys(merged), source)
    return merged


def _dotted(node: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in node.items():
        values |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _first_line(error: Exception) -> str:
    text, place = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
    line = (text or "no `key: value` lines in it").splitlines()[0][:200]
    return f"{line} (line {place.line + 1})" if place else line


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes every key of a recipe as YAML, and the version of recipes with these keys."""
    with atomic_write(path) as temporary:
        temporary.write_text(f"version: {VERSION}\n{OmegaConf.to_yaml(OmegaConf.structured(recipe))}", encoding="utf-8")
