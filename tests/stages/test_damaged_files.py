"""Files whose content is of the wrong kind: one line that names the file, whatever is wrong in it."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deconvnet import schemas
from deconvnet.data.row_files import Rows, read_rows, write_rows
from deconvnet.data.voc import read_annotation
from deconvnet.evaluation.comp6 import pack_comp6
from deconvnet.models.build import build_network
from deconvnet.models.fcn import load_fcn8s
from deconvnet.models.network_files import load_network, save_network
from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import provenance
from deconvnet.schemas import read_json
from deconvnet.support.errors import UserError
from deconvnet.training.log_file import COLUMNS, read_log
from experiments.records import log_lines
from tests.data.test_row_files import window_part
from tests.row_files import attributes
from tests.training.test_trainer import make_training, small_recipe, windows  # noqa: F401 (a fixture)

DAMAGE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_line(path: Path, read: Callable[[], Any], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory, windows: Rows) -> Path:  # noqa: F811
    """A training of four iterations, step rule, Caffe's momentum: last.pt, log.csv."""
    folder = tmp_path_factory.mktemp("trained")
    make_training(folder, windows, small_recipe(), 4).run()
    return folder


def put(*path: Any, value: Any) -> Callable[[dict], None]:
    """Sets content[path[0]][path[1]]... to a value; None removes it."""
    def change(content: dict) -> None:
        for step in path[:-1]:
            content = content[step]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


OPTIMIZER, RULE = ("descent", "optimizer"), ("descent", "rule")
NOT_MODELS = {"conv1_1.weight": [None, torch.zeros(2), 3, torch.zeros(4, 3, 3, 3, dtype=torch.int64),
                                 torch.full((4, 3, 3, 3), torch.nan), torch.zeros(1).expand(2**40)],
              "bn1_1.running_mean": [None, torch.zeros(5)]}
WRONG = [
    *[(name, put(name, value=value)) for name, values in {
        "recipe": [None, [1], {"seed": torch.zeros(2)}, {3: 1}], "training": [None, 3],
        "iteration": [None, -1, 2.0, "4", 10**9, True],
        "position": [None, -1, 17], "best": [None, 1.5, float("nan"), "high"], "origin": [None, 7],
        "model": [None, [], {3: torch.zeros(2)}], "descent": [None, [], {}],
        "random": [None, 5]}.items() for value in values],
    *[("last.pt: damaged: ", put("random", value=value)) for value in (torch.zeros(3), torch.zeros(5056).byte())],
    *[("conv1_1", put("model", value=value)) for value in ({}, {"x": torch.zeros(2)})],
    *[(name, put("model", name, value=value)) for name, values in NOT_MODELS.items() for value in values],
    ("optimizer", put(*OPTIMIZER, value=[])), ("optimizer", put(*OPTIMIZER, value=None)),
    ("optimizer", put(*OPTIMIZER, "state", value=None)), ("momenta", put(*OPTIMIZER, "state", value={})),
    ("optimizer", put(*OPTIMIZER, "param_groups", value=[])),
    ("momenta", put(*OPTIMIZER, "state", 3, value=None)),
    ("momentum 3", put(*OPTIMIZER, "state", 3, "momentum_buffer", value=torch.zeros(9, 9))),
    ("momentum 3", put(*OPTIMIZER, "state", 3, "momentum_buffer", value="x")),
    ("momentum 3", put(*OPTIMIZER, "state", 3, value=[])),
    ("lr", put(*OPTIMIZER, "param_groups", 0, "lr", value="fast")),
    ("lr", put(*OPTIMIZER, "param_groups", 0, "lr", value=float("nan"))),
    ("lr", put(*OPTIMIZER, "param_groups", 1, "lr", value=None)),
    ("weight_decay", put(*OPTIMIZER, "param_groups", 0, "weight_decay", value=0.5)),
    ("params", put(*OPTIMIZER, "param_groups", 0, "params", value=[0])),
    ("a group", put(*OPTIMIZER, "param_groups", 0, value=3)),
    ("rule", put(*RULE, value=None)), ("last_epoch", put(*RULE, "last_epoch", value=None)),
    ("last_epoch", put(*RULE, "last_epoch", value="x")), ("best", put(*RULE, "best", value=float("nan"))),
    ("patience", put(*RULE, "patience", value=-1)), ("_last_lr", put(*RULE, "_last_lr", value=[1.0])),
]


@pytest.mark.slow
def test_each_wrong_entry_of_a_checkpoint_is_one_line(trained: Path, windows: Rows, tmp_path: Path) -> None:  # noqa: F811
    good = torch.load(trained / "last.pt", weights_only=True)
    training = make_training(tmp_path, windows, small_recipe(), 6)
    for word, change in WRONG:
        content = copy.deepcopy(good)
        change(content)
        torch.save(content, training.last)
        one_line(training.last, training.resume, word)
    torch.save(good, training.last)
    training.resume()
    assert training.iteration == 4


@pytest.mark.parametrize("rule", ["step", "constant", "plateau"])
def test_whole_checkpoints_of_every_rule_and_without_momentum_go_on(rule: str, windows: Rows, tmp_path: Path) -> None:  # noqa: F811
    recipe = small_recipe(f"solver.rate_rule={rule}", "solver.momentum=0", "solver.lr_step=[3,3]")
    make_training(tmp_path, windows, recipe, 4).run()
    again = make_training(tmp_path, windows, recipe, 6)
    again.resume()
    assert again.iteration == 4 and again.sgd.rate == make_rate(rule, recipe.solver.lr)


def make_rate(rule: str, lr: float) -> float:
    return pytest.approx(lr * (0.1 if rule == "step" else 1))


# log.csv


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["x,0.1,1,1,,,,9", "8,0.1", "\0\0\0", "\x89PNG", "8,,1,1,,,,9", "-1,0.1,1,1,,,,9",
                                    "8,0.1,nan,1,,,,9", '"8",0.1,1,1,,,,9', "9" * 30 + ",1,1,1,,,,1"])
def test_a_damaged_log_is_mended_and_does_not_stop_a_training(damage: str, trained: Path, windows: Rows,  # noqa: F811
                                                              tmp_path: Path, caplog) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "log.csv").read_bytes().splitlines(keepends=True)
    lines.insert(2, damage.encode("latin-1") + b"\r\n")
    (tmp_path / "log.csv").write_bytes(b"".join(lines))
    one_line(tmp_path / "log.csv", lambda: log_lines(tmp_path / "log.csv"), "line 3", "--resume")
    again = make_training(tmp_path, windows, small_recipe(), 6)
    again.resume()
    again.run()
    assert "log.csv: damaged: 1 lines are skipped, line 3 first" in caplog.text
    assert [line["iteration"] for line in log_lines(tmp_path / "log.csv")] == ["2", "4", "6"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"iteration,rate\r\n1,2\r\n", b"\xff\xfe\0\0\n" * 9, b"\n\n"])
def test_a_file_that_is_no_log_gives_place_to_one(content: bytes, windows: Rows, tmp_path: Path) -> None:  # noqa: F811
    make_training(tmp_path, windows, small_recipe(), 2).run()
    (tmp_path / "log.csv").write_bytes(content)
    again = make_training(tmp_path, windows, small_recipe(), 4)
    again.resume()
    again.run()
    assert [line["iteration"] for line in log_lines(tmp_path / "log.csv")] == ["4"]


def test_a_cut_last_line_is_left_out_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{','.join(COLUMNS)}\n20,0.1,1,1,,,,9\n40,0.1,1,1,,,,9")
    assert [line["iteration"] for line in read_log(tmp_path / "log.csv")[0]] == ["20"]
    assert read_log(tmp_path / "log.csv")[1] == []


# JSON files

JSON_FILES = [
    (schemas.DataSet, {"voc_root": "/data"}),
    (schemas.RunRecord, {"seed": 0, "from": "/runs/a", **provenance()}),
    (schemas.PredictionRecord, {"settings": {"row": "fcn8s", "split": "val", "scores": ["fcn8s-1"]}, "weights": ["a/b"],
                                "classes": ["background", "cat"], "recipe": {"infer.proposals": 50}}),
    (schemas.Metrics, {"split": "val", "images": 3, "pixel_accuracy": 0.5, "class_iou": {"a": 0.5, "b": None},
                       "confusion": [[1, 2], [3, 4]], "mean_iou": 0.5}),
    (schemas.FileHashes, {"files": {"/data/a.jpg": [[3, 5, 7], "0123456789abcdef"]}}),
    (schemas.PartsRecord, {"images": {"a": ["0123456789abcdef", ""]}}),
    (schemas.TraceRecord, {"starts": [{"model": "DeconvNet"}]}),
]
ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda some: (
    st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3)), max_leaves=6)


@pytest.mark.parametrize(("schema", "key"), [(schemas.DataSet, "voc_root"), (schemas.RunRecord, "from")])
def test_a_path_longer_than_any_is_told_with_the_file_that_names_it(schema: type[schemas.Schema], key: str,
                                                                    tmp_path: Path) -> None:
    for wrong in ("x" * 256, "/" + "ä" * 128, "long/" * 820, ""):
        (tmp_path / "a.json").write_text(json.dumps({key: wrong}))
        with pytest.raises(UserError, match=f"a.json: damaged: .*{key}"):
            read_json(tmp_path / "a.json", schema)
    (tmp_path / "a.json").write_text(json.dumps({key: "/" + "x" * 255}))
    read_json(tmp_path / "a.json", schema)


def test_a_key_that_is_a_line_break_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"files": {"\\n": null}}')
    with pytest.raises(UserError, match="^[^\n]*a.json: damaged: files[^\n]*found None[^\n]*$"):
        read_json(tmp_path / "a.json", schemas.FileHashes)


@pytest.mark.slow
@DAMAGE
@given(data=st.data())
@pytest.mark.parametrize(("schema", "good"), JSON_FILES)
def test_json_files_changed_anyhow(schema: type[schemas.Schema], good: dict, data: st.DataObject,
                                   tmp_path: Path) -> None:
    """A value replaced or taken out, bytes changed: a UserError, or an object whose parts are as it says."""
    path, content = tmp_path / "a.json", copy.deepcopy(good)
    path.write_text(json.dumps(content))
    read_json(path, schema)
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(ANYTHING)
    text = json.dumps(content).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    path.write_bytes(data.draw(st.sampled_from([text, text[:place], text[:place] + b"\xff" + text[place + 1:]])))
    try:
        found = read_json(path, schema)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        schema.model_validate(found.model_dump(by_alias=True))


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"voc_root": 3}', '{"voc_root": ""}', "{}",
                                  "\ufeff{}"])
def test_what_is_no_json_file_of_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    one_line(tmp_path / "a.json", lambda: read_json(tmp_path / "a.json", schemas.DataSet), "damaged")


def test_a_huge_json_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)
    one_line(tmp_path / "a.json", lambda: read_json(tmp_path / "a.json", schemas.DataSet), "bytes")


# Rows: attributes and columns


@DAMAGE
@given(data=st.data())
def test_attributes_and_columns_changed_anyhow(data: st.DataObject, tmp_path: Path) -> None:
    """Rows whose values are in range, or a UserError."""
    import h5py

    path = tmp_path / "a.h5"
    write_rows(path, ["a", "b"], [window_part(2, 0), window_part(3, 1)], attributes("windows"))
    with h5py.File(path, "r+") as file:
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(file.attrs)))
            del file.attrs[name]
            value = data.draw(ANYTHING.filter(lambda one: isinstance(one, int | float | str) and "\0" not in str(one)))
            file.attrs[name] = value if not isinstance(value, int) else value % 2**31
        else:
            name = data.draw(st.sampled_from(sorted(set(file) - {"image_ids"})))
            kind = file[name].dtype
            index = data.draw(st.integers(0, file[name].size - 1))
            values = file[name][:]
            bits = values.reshape(-1).view(f"u{kind.itemsize}")
            bits[index] = data.draw(st.integers(0, 2 ** (8 * kind.itemsize) - 1))
            file[name][:] = values
    try:
        rows = read_rows(path, "windows")
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    columns, sides = rows.columns, rows.sizes[rows.image][:, ::-1]
    assert (columns["box"][:, :2] >= 0).all() and (columns["box"][:, 2:] <= sides).all()
    assert (columns["box"][:, :2] < columns["box"][:, 2:]).all() and (abs(columns["window"]) < 5 * 2**20).all()
    assert (columns["class_index"] < len(rows.attributes["classes"])).all() and (columns["object"] >= 0).all()
    assert (rows.sizes > 0).all() and ((0 <= columns["overlap"]) & (columns["overlap"] <= 1)).all()


# Weights


def test_a_networks_file_stands_alone(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", ["network.width=0.0625", "network.input=32"])
    path = tmp_path / "network.safetensors"
    before = os.umask(0o027)
    try:
        save_network(build_network("deconvnet", recipe), path, "deconvnet", recipe, "measured", {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    metadata = read_safetensors(path)[1]
    assert metadata["class_names"] == recipe.data.classes and metadata["recipe"]["network.width"] == 0.0625
    other = [*recipe.data.classes[:7], "lorry", *recipe.data.classes[8:]]
    renamed = load_recipe("tiny", ["network.width=0.0625", "network.input=32", f"data.classes=[{','.join(other)}]"])
    one_line(path, lambda: load_network(path, "deconvnet", renamed), "class 7 is 'car'", "'lorry'")
    tensors, _ = read_safetensors(path)  # as earlier files of this project: neither names nor digest
    own = {name: value for name, value in metadata.items() if name not in ("class_names", "recipe")}
    save_file(tensors, path, {"deconvnet": json.dumps(own)})
    load_network(path, "deconvnet", renamed)


@pytest.mark.parametrize("metadata", ["[]", "3", '{"kind": 3}', '{"origin": []}', '{"class_names": "cat"}', "{",
                                      '{"class_names": [["a"], "b"]}', '{"class_names": ["a", "a"]}', "[" * 100_000])
def test_metadata_of_the_wrong_kind(metadata: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2)}, path, {"deconvnet": metadata})
    one_line(path, lambda: read_safetensors(path), "metadata")


@pytest.mark.parametrize("state", [
    {"score_fr.bias": torch.zeros(1).expand(2**40)}, {"score_fr.bias": torch.zeros(3, 2)},
    {"score_fr.bias": torch.zeros(21), "conv1_1.weight": torch.zeros(1).expand(2**40)},
    {"score_fr.bias": torch.zeros(21), 3: torch.zeros(2)}, {"score_fr.bias": torch.zeros(21, device="meta")},
    {"score_fr.bias": torch.zeros(21).to_sparse()}, {"score_fr.bias": "x"},
], ids=str)
def test_fcn_weights_that_are_none(state: dict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    one_line(tmp_path / "a.pth", lambda: load_fcn8s(tmp_path / "a.pth"))


# Files of others


def test_an_encoding_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0" encoding="no-such"?><annotation/>')
    one_line(tmp_path / "a.xml", lambda: read_annotation(tmp_path / "a.xml"), "not a VOC annotation file")


def test_ids_too_long_for_the_servers_archive(tmp_path: Path) -> None:
    one_line(tmp_path / "a.tgz", lambda: pack_comp6(None, tmp_path, ["a", "x" * 97], tmp_path / "a.tgz"), "x" * 40)
    assert not list(tmp_path.iterdir())
    assert len("results/VOC2012/Segmentation/comp6_test_cls") <= 155  # tar has that much for folders
