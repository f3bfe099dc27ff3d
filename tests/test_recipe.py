"""The recipe: defaults, files, overrides, and what is refused; expected values come from YAML read on its own."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.errors import UsageError
from deconvnet.recipe import (
    RECIPE_FOLDER,
    VOC_CLASSES,
    Recipe,
    load_recipe,
    recipe_difference,
    recipe_keys,
    recipe_to_dict,
    save_recipe,
)

FILES = sorted(RECIPE_FOLDER.glob("*.yaml"))
DEFAULTS = recipe_to_dict(Recipe())


def dotted(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries to one with dotted names."""
    found = {}
    for name, value in values.items():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def another_value(name: str) -> object:
    """A valid value of a key that is not its default; the few keys with rules of their own have it by hand."""
    by_hand = {
        "data.classes": ["background", "cell"],
        "network.input": 192,
        "windows.warp": 300,
        "train.iterations": [7, 8],
        "solver.lr_step": [7, 8],
        "fcn.iterations": [7, 8, 9],
        "train.batch": 128,
        "train.micro_batch": 32,
        "fcn.batch": 40,
        "fcn.micro_batch": 4,
        "seed": 7,
    }
    if name in by_hand:
        return by_hand[name]
    default, allowed = DEFAULTS[name], recipe_keys()[name][1].metadata
    choices = allowed["choices"]
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return f"{default}_2"
    return default + 1 if allowed["most"] is None else default / 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_file_says_what_it_says_and_no_more(path: Path) -> None:
    written = dotted(yaml.safe_load(path.read_text()))
    assert written["name"] == path.stem
    assert recipe_to_dict(load_recipe(path.stem)) == DEFAULTS | written
    assert load_recipe(path) == load_recipe(path.stem)


def test_every_key_has_a_note_and_a_default_within_its_own_limits() -> None:
    for name, (value, item) in recipe_keys().items():
        note, choices, least = (item.metadata[part] for part in ("note", "choices", "least"))
        assert len(note) >= 3, name
        assert not choices or value in choices, name
        assert least is None or value >= least, name
        for choice in choices:  # a key's note explains every value it may take
            assert choice in note or name in ("train.stage2_from", "windows.encoding", "infer.score_type",
                                              "runtime.precision"), (name, choice)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_key_can_be_set_and_alone_changes(name: str, tmp_path: Path) -> None:
    value = another_value(name)
    recipe = load_recipe("paper", [f"{name}={str(value).lower() if isinstance(value, bool) else value}"])
    assert recipe_difference(DEFAULTS, recipe_to_dict(recipe)) == {name: (DEFAULTS[name], value)}
    assert type(recipe_to_dict(recipe)[name]) is type(DEFAULTS[name])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


@settings(max_examples=25, deadline=None)
@given(lr=st.floats(0, 1e3), count=st.integers(1, 10**6), alpha=st.floats(0.1, 0.9),
       text=st.text("abcXYZ_-9", min_size=1))
def test_saved_numbers_come_back_exactly(lr: float, count: int, alpha: float, text: str, tmp_path_factory) -> None:
    recipe = Recipe(name=f"n{text}")
    recipe.solver.lr, recipe.proposals.count, recipe.proposals.alpha = lr, count, alpha
    path = tmp_path_factory.mktemp("recipe") / "saved.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


def test_saved_file_is_plain_yaml_with_every_key(tmp_path: Path) -> None:
    save_recipe(Recipe(), tmp_path / "new" / "recipe.yaml")
    assert dotted(yaml.safe_load((tmp_path / "new" / "recipe.yaml").read_text())) == DEFAULTS


def test_the_last_override_wins_over_file_and_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("solver: {lr: 0.5}\n")
    assert load_recipe(tmp_path / "mine.yml").solver.lr == 0.5
    assert load_recipe(tmp_path / "mine.yml", ["solver.lr=0.25", "solver.lr=1e-3"]).solver.lr == 0.001


def test_an_empty_file_is_the_papers_recipe(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing changed\n")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe()


def refused(overrides: list[str], *words: str, recipe: str | Path = "paper") -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("wrong", "near"), [
    ("solver.lrr=1", "solver.lr"),
    ("solver.momentun=1", "solver.momentum"),
    ("train.iteration=[1,2]", "train.iterations"),
    ("windows.enlargement=1", "windows.enlarge"),
    ("sed=1", "seed"),
    ("crf.normalisation=none", "crf.normalization"),
    ("lr=1", "lr"),
])
def test_unknown_key_names_the_nearest(wrong: str, near: str) -> None:
    refused([wrong], "--set", f"unknown recipe key '{wrong.partition('=')[0]}'", near)


def test_unknown_key_in_a_file_names_file_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("network: {widht: 0.5}\n")
    refused([], str(path), "'network.widht'", "'network.width'", recipe=path)


@pytest.mark.parametrize(("override", "name"), [
    ("solver.lr=fast", "solver.lr"),
    ("train.batch=2.5", "train.batch"),
    ("train.batch=[1]", "train.batch"),
    ("network.batch_norm=perhaps", "network.batch_norm"),
    ("train.iterations=5", "train.iterations"),
    ("train.iterations=[5,x]", "train.iterations"),
    ("solver=3", "solver"),
    ("solver.lr={a: 1}", "solver.lr"),
    ("solver.lr=null", "solver.lr"),
    ("data.classes=null", "data.classes"),
    ("solver.lr", "key=value"),
    ("=3", ""),
    ("solver.lr=${nothing}", "solver.lr"),
    ("solver.lr=[", "solver.lr"),
])
def test_wrong_types_name_the_key(override: str, name: str) -> None:
    refused([override], name)


@pytest.mark.parametrize(("override", "words"), [
    ("windows.shape=round", ("windows.shape", "'round'", "tight, square")),
    ("infer.aggregate=median", ("infer.aggregate", "max, sum, mean")),
    ("windows.enlarge=0.5", ("windows.enlarge", "0.5", "at least 1")),
    ("solver.lr=nan", ("solver.lr", "nan", "finite")),
    ("seed=-1", ("seed", "at least 0")),
    ("train.iterations=[5]", ("train.iterations", "2 numbers")),
    ("fcn.iterations=[5,5]", ("fcn.iterations", "3 numbers")),
    ("train.iterations=[5,0]", ("train.iterations", "above 0")),
    ("network.input=100", ("network.input", "multiple of 32")),
    ("windows.warp=200", ("windows.warp", "network.input")),
    ("train.micro_batch=48", ("train.batch", "micro_batch")),
    ("data.classes=[background]", ("data.classes",)),
    ("data.classes=[background,cat,cat]", ("data.classes", "different")),
    ("data.classes=[background,'']", ("data.classes", "empty name")),
    ("data.train_split=../other", ("data.train_split", "'../other'", "name of a split list")),
    ("solver.momentum=1.5", ("solver.momentum", "at most 0.9999")),
    ("solver.lr_factor=0", ("solver.lr_factor", "at least")),
    ("windows.stage2_overlap=50", ("windows.stage2_overlap", "at most 1")),
    ("proposals.alpha=1", ("proposals.alpha", "at most 0.99")),
    ("proposals.beta=7", ("proposals.beta", "at most 1")),
    ("seed=9223372036854775808", ("seed", "at most 9223372036854775807")),
    ("train.micro_batch=1", ("train.micro_batch", "at least 2")),
])
def test_wrong_values_say_what_is_right(override: str, words: tuple[str, ...]) -> None:
    refused([override], *words)


@pytest.mark.parametrize(("text", "word"), [
    ("solver: {lr: 1\n", "not valid YAML"),
    ("- a\n- b\n", "key: value"),
    ("just words\n", ""),
    ("solver: {lr: 1}\nsolver: {lr: 2}\n", ""),
    ("seed: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ("1: 2\n", "unknown recipe key"),
    ("solver: [1, 2]\n", "solver"),
    ("solver:\n", "solver"),
], ids=range(8))
def test_broken_files_are_named(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    refused([], str(path), word, recipe=path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81name")
    refused([], str(path), recipe=path)


def test_unknown_recipe_lists_the_known_ones(tmp_path: Path) -> None:
    refused([], "'papre'", *(path.stem for path in FILES), recipe="papre")
    refused([], "none.yaml", "no such", recipe=tmp_path / "none.yaml")


def test_difference_names_each_key_that_differs() -> None:
    assert recipe_difference({"a": 1, "b": [1, 2], "c": None}, {"a": 1, "b": [1, 3], "d": 4}) == {
        "b": ([1, 2], [1, 3]), "d": (None, 4)}
    assert recipe_difference(DEFAULTS, DEFAULTS) == {}


def test_recipes_share_no_lists() -> None:
    one, other = Recipe(), Recipe()
    one.data.classes.append("unicorn")
    one.train.iterations[0] = 1
    assert other.data.classes == list(VOC_CLASSES) and len(VOC_CLASSES) == 21
    assert other.train.iterations == [20000, 40000]
    assert dataclasses.asdict(Recipe()) == dataclasses.asdict(other)
