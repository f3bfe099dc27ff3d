"""The recipe: defaults, files, overrides, and what is refused; expected values come from YAML read on its own."""

import dataclasses
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.conventions import VOC_CLASSES
from deconvnet.recipe import VERSION, Recipe, recipe_difference, recipe_keys, recipe_to_dict, with_added_keys
from deconvnet.recipe_files import RECIPE_FOLDER, load_recipe, recipe_from_dict, save_recipe
from deconvnet.recipe_limits import check_values
from deconvnet.support.errors import UsageError

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
        "segnet.batch": 24,
        "segnet.micro_batch": 6,
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
    return default + 1 if allowed["most"] is None or default + 1 <= allowed["most"] else default / 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_file_says_what_it_says_and_no_more(path: Path) -> None:
    written = dotted(yaml.safe_load(path.read_text()))
    assert written["name"] == path.stem
    assert recipe_to_dict(load_recipe(path.stem)) == DEFAULTS | written
    assert load_recipe(path) == load_recipe(path.stem)


def test_every_key_has_a_note_and_a_default_within_its_own_limits() -> None:
    for name, (_, item) in recipe_keys().items():
        note, choices, least, most = (item.metadata[part] for part in ("note", "choices", "least", "most"))
        assert len(note) >= 3, name
        assert not choices or DEFAULTS[name] in choices, name
        assert not numbers_of(name) or None not in (least, most), f"{name} has no upper or no lower end"
        assert all(least <= number <= most for number in numbers_of(name)), name
        for choice in choices:  # a key's note explains every value it may take
            assert choice in note or name in ("train.stage2_from", "windows.encoding", "infer.score_type",
                                              "runtime.precision"), (name, choice)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DEFAULTS if name != "data.format"])  # which has one value so far
def test_every_key_can_be_set_and_alone_changes(name: str, tmp_path: Path) -> None:
    value = another_value(name)
    recipe = load_recipe("paper", [f"{name}={str(value).lower() if isinstance(value, bool) else value}"])
    assert recipe_difference(DEFAULTS, recipe_to_dict(recipe)) == {name: (DEFAULTS[name], value)}
    assert type(recipe_to_dict(recipe)[name]) is type(DEFAULTS[name])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(lr=st.floats(0, 1e3), count=st.integers(1, 200_000), alpha=st.floats(0.1, 0.9),
       text=st.text("abcXYZ_-9", min_size=1))
def test_saved_numbers_come_back_exactly(lr: float, count: int, alpha: float, text: str, tmp_path_factory) -> None:
    recipe = Recipe(name=f"n{text}")
    recipe.solver.lr, recipe.proposals.count, recipe.proposals.alpha = lr, count, alpha
    path = tmp_path_factory.mktemp("recipe") / "saved.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


def test_saved_file_is_plain_yaml_with_every_key(tmp_path: Path) -> None:
    save_recipe(Recipe(), tmp_path / "new" / "recipe.yaml")
    written = yaml.safe_load((tmp_path / "new" / "recipe.yaml").read_text())
    assert written.pop("version") == VERSION
    assert dotted(written) == DEFAULTS


def test_keys_that_were_added_since_a_recipe_was_recorded_are_as_before(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    save_recipe(load_recipe("tiny"), tmp_path / "now.yaml")
    text = (tmp_path / "now.yaml").read_text()
    line = "  validate_crop: centre\n"
    older = [text.replace(line, ""), text.replace(line, "").replace(f"version: {VERSION}\n", "")]
    for content in older:
        (tmp_path / "older.yaml").write_text(content)
        with pytest.raises(UsageError, match=r"1 recipe keys are missing, for example train\.validate_crop"):
            load_recipe(tmp_path / "older.yaml", complete=True)
    grown = recipe_keys()
    value, item = grown["train.validate_crop"]
    added = dataclasses.field(default=value, metadata={**item.metadata, "added": VERSION})
    for module in ("recipe", "recipe_files"):
        monkeypatch.setattr(f"deconvnet.{module}.recipe_keys",
                            lambda *_: {**grown, "train.validate_crop": (value, added)})
    assert load_recipe(tmp_path / "older.yaml", complete=True).train.validate_crop == "centre"  # no version: the first
    (tmp_path / "older.yaml").write_text(older[0])
    with pytest.raises(UsageError, match=r"1 recipe keys are missing"):  # it is of the version that has the key
        load_recipe(tmp_path / "older.yaml", complete=True)
    recorded = {"seed": 3}
    others = {name: value for name, (value, item) in grown.items() if item.metadata["added"] > 1}
    others["crf.least_probability"] = 0.0  # its default is another: see below
    assert {"data.format", "segnet.width", "infer.most_side"} <= others.keys() and "solver.lr" not in others
    assert with_added_keys(recorded) == {"seed": 3, "train.validate_crop": "centre", **others}
    assert with_added_keys({"train.validate_crop": "whole"}) == {"train.validate_crop": "whole", **others}


def test_in_a_run_from_before_the_crf_left_classes_out_all_of_them_take_part(tmp_path: Path) -> None:
    save_recipe(load_recipe("tiny"), tmp_path / "now.yaml")
    text = (tmp_path / "now.yaml").read_text()
    older = text.replace("  least_probability: 0.1\n", "").replace(f"version: {VERSION}\n", "version: 6\n")
    assert older.count("\n") == text.count("\n") - 1
    (tmp_path / "older.yaml").write_text(older)
    before = load_recipe(tmp_path / "older.yaml", complete=True)
    assert before.crf.least_probability == 0 and load_recipe("tiny").crf.least_probability == 0.1
    assert recipe_to_dict(before) == recipe_to_dict(load_recipe("tiny")) | {"crf.least_probability": 0.0}
    recorded = {name: value for name, value in recipe_to_dict(before).items() if name != "crf.least_probability"}
    assert recipe_from_dict(recorded, "a checkpoint") == before
    assert load_recipe(tmp_path / "older.yaml", "crf.least_probability=0.2", complete=True).crf.least_probability == 0.2


@pytest.mark.parametrize("version", ["0", str(VERSION + 1), "x", "1.5", "true", "[1]", "null", "{seed: 1}"])
def test_a_version_that_this_program_does_not_know_is_refused(version: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"version: {version}\nseed: 3\n")
    for complete in (False, True):
        with pytest.raises(UsageError, match=f"mine.yaml: version is .*; expected 1 to {VERSION}"):
            load_recipe(tmp_path / "mine.yaml", complete=complete)


def test_the_last_override_wins_over_file_and_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("solver: {lr: 0.5}\n")
    assert load_recipe(tmp_path / "mine.yml").solver.lr == 0.5
    assert load_recipe(tmp_path / "mine.yml", ["solver.lr=0.25", "solver.lr=1e-3"]).solver.lr == 0.001


def test_an_empty_file_is_the_papers_recipe(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing changed\n")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe()


def numbers_of(name: str) -> list[int | float]:
    """A key's default, as a list of numbers; empty where it is no number."""
    value = DEFAULTS[name]
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) in (int, float)]


def test_no_number_is_taken_beyond_its_limits() -> None:
    for name in filter(numbers_of, DEFAULTS):
        default, (_, item) = DEFAULTS[name], recipe_keys()[name]
        for number in (item.metadata["least"] - 1, item.metadata["most"] + 1, 10**30, -(10**30), math.nan, math.inf):
            value = [*default[:-1], number] if isinstance(default, list) else number
            with pytest.raises(UsageError, match=f"^here: recipe key {name} is ") as caught:
                check_values(recipe_keys() | {name: (value, item)}, "here")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train.batch", "proposals.count", "network.width", "fcn.iterations", "solver.lr"])
@pytest.mark.parametrize("value", [10**30, "1e308", ".nan", "true", "[[1]]", "'1,5'"])
def test_no_nonsense_is_taken_for_a_number(name: str, value: object) -> None:
    refused([f"{name}=[1, 1, {value}]" if isinstance(DEFAULTS[name], list) else f"{name}={value}"], "--set", name)


@pytest.mark.parametrize(("overrides", "words"), [
    (["network.width=16"], ("network.width (16)", "network.input (224)", "weights")),  # 2.6e10 in fc6 alone
    (["network.input=2048", "windows.warp=2048"], ("network.input (2048)", "weights")),
    (["fcn.width=16"], ("fcn.width (16)", "fcn.fc6_kernel (7)", "weights")),
    (["train.batch=2048", "train.micro_batch=2048"], ("train.micro_batch", "2048", "at most 1337")),  # 2**26 / 224**2
    (["bn_statistics.batch=1338"], ("bn_statistics.batch", "at most 1337")),
    (["infer.window_batch=1338"], ("infer.window_batch", "at most 1337")),
    (["fcn.batch=269", "fcn.micro_batch=269"], ("fcn.micro_batch", "at most 268")),  # 2**26 / 500**2
])
def test_sizes_that_are_too_large_together(overrides: list[str], words: tuple[str, ...]) -> None:
    refused(overrides, *words)


@pytest.mark.parametrize("override", [
    "bn_statistics.batch=1337", "network.width=4", "windows.enlarge=10", "proposals.count=200000", "train.workers=256",
    "crf.bilateral_weight=10000", "train.iterations=[1000000000, 1]",
])
def test_what_is_large_but_possible_is_taken(override: str) -> None:
    load_recipe("paper", [override])


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
    (f"solver.lr={'[' * 60_000}", "nested more than"),
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
    ("train.iterations=[5,0]", ("train.iterations", "at least 1")),
    ("network.input=100", ("network.input", "multiple of 32")),
    ("windows.warp=200", ("windows.warp", "network.input")),
    ("train.micro_batch=48", ("train.batch", "micro_batch")),
    ("data.classes=[background]", ("data.classes",)),
    ("data.classes=[background,cat,cat]", ("data.classes", "different")),
    ("data.classes=[background,'']", ("data.classes", "empty name")),
    ("data.train_split=../other", ("data.train_split", "'../other'", "name of a split list")),
    ("data.val_split=..", ("data.val_split", "name of a split list")),
    ("data.val_split=.hidden", ("data.val_split", "no leading dot")),
    (r"data.val_split=a\b", ("data.val_split", "no folder")),
    (f"data.val_split={'x' * 201}", ("data.val_split", "at most 200")),
    (f"data.val_split={'ä' * 101}", ("data.val_split", "202 bytes", "at most 200")),
    ("data.classes=[[a, b], c]", ("data.classes", "plain list")),
    ("data.classes=[a, {b: c}]", ("data.classes", "plain list")),
    ("seed=???", ("seed", "expected a value")),
    ("solver.momentum=1.5", ("solver.momentum", "at most 0.9999")),
    ("solver.lr_factor=0", ("solver.lr_factor", "at least")),
    ("windows.stage2_overlap=50", ("windows.stage2_overlap", "at most 1")),
    ("proposals.alpha=1", ("proposals.alpha", "at most 0.9")),
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
    ("a: &a [x, x]\n" + "".join(f"b{i}: [*a, *a, *a]\n" for i in range(7)), "aliases"),
    ("x" * 65_537, "longer than"),
    ("name: '" + 300 * "x" + "'\n", "name is"),
    ("5\n", "key: value"),
    ("[" * 60_000, "nested more than"),
], ids=range(13))
def test_broken_files_are_named(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    refused([], str(path), word, recipe=path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert load_recipe(tmp_path / "bom.yaml").seed == 7


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
