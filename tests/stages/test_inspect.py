"""`python -m stages.inspect` against the paper's Table 2, numbers worked by hand, and files made here."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from deconvnet.data.row_files import WindowRows, write_rows
from deconvnet.inference.score_files import write_scores
from deconvnet.models.build import build_network
from deconvnet.models.layer_table import layer_table
from deconvnet.models.network_files import save_network
from deconvnet.recipe import Network, Recipe, recipe_keys, recipe_to_dict, shapes
from deconvnet.recipe_files import load_recipe
from deconvnet.training.checkpoint import save_checkpoint
from stages.cli import run_command
from stages.inspect import main, parse
from tests.checkpoints import content
from tests.row_files import attributes

TABLE2 = Path(__file__).resolve().parents[2] / "experiments" / "table2_architecture.csv"


def inspect(*arguments: object) -> int:
    return run_command(parse(), main, list(map(str, arguments)))


@pytest.fixture
def narrow() -> Recipe:
    return load_recipe("tiny", ["network.width=0.0625", "network.input=32", "data.classes=[background,cat,dog]"])


def test_rows_are_the_papers_table_2() -> None:
    with TABLE2.open(newline="") as file:
        expected = list(csv.DictReader(file))
    rows = layer_table(Network(), 21)
    assert [row.name for row in rows] == [line["layer"] for line in expected]
    for row, line in zip(rows, expected, strict=True):
        for value, name in ((row.kernel, "kernel"), (row.stride, "stride"), (row.pad, "pad")):
            if (row.name, name) != ("output", "pad"):  # the paper's slip: a pad of 1 would make the map 226 x 226
                assert ("" if value is None else str(value)) == line[name], (row.name, name)
        assert (row.height, row.width, row.channels) == tuple(
            int(line[name]) for name in ("out_height", "out_width", "out_channels")), row.name


def test_parameters_and_flops_by_hand() -> None:
    rows = {row.name: row for row in layer_table(Network(), 21)}
    assert sum(row.parameters for row in rows.values()) == 251_805_653
    assert rows["conv1-1"].parameters == 3 * 3 * 3 * 64 + 64 + 2 * 64  # weights, biases, BN's scales and shifts
    assert rows["output"].parameters == 64 * 21 + 21  # no BN behind the last layer
    assert rows["pool1"].parameters == 0 and rows["unpool1"].flops == 0
    # a product and a sum for each weight at each place: of the output (convolution), of the input (deconvolution)
    assert rows["conv2-1"].flops == 2 * (3 * 3 * 64 * 128) * (112 * 112)
    assert rows["fc6"].flops == 2 * (7 * 7 * 512 * 4096) * (1 * 1)
    assert rows["deconv-fc6"].flops == 2 * (7 * 7 * 4096 * 512) * (1 * 1)
    assert rows["deconv2-2"].flops == 2 * (3 * 3 * 128 * 64) * (112 * 112)


@pytest.mark.parametrize("unpooling", ["fixed", "average", "tile", "bilinear"])
def test_variants_have_the_same_rows(unpooling: str) -> None:
    plain, variant = Network(width=1 / 16, input=32), Network(width=1 / 16, input=32, unpooling=unpooling)
    assert layer_table(variant, 3) == layer_table(plain, 3)


def test_without_batch_norm_and_narrow_the_counts_are_the_real_networks() -> None:
    recipe = load_recipe("tiny", ["network.batch_norm=false", "network.width=0.0625", "network.input=32"])
    model = build_network("deconvnet", recipe)
    rows = layer_table(recipe.network, 21)
    assert sum(row.parameters for row in rows) == sum(values.numel() for values in model.parameters())


def test_network_is_printed(capsys: pytest.CaptureFixture) -> None:
    assert inspect("network") == 0
    lines = capsys.readouterr().out.splitlines()
    fc6 = next(line for line in lines if line.startswith("fc6"))
    assert fc6.split() == "fc6 7 1 0 1 x 1 x 4096 102,772,736 205,520,896".split()
    assert next(line for line in lines if line.startswith("total")).split()[1] == "251,805,653"


def test_recipe_shows_every_key_its_value_mark_and_note(capsys: pytest.CaptureFixture) -> None:
    assert inspect("recipe", "--recipe", "tiny", "--set", "solver.momentum=0.8") == 0
    out = capsys.readouterr().out
    for name, (_, item) in recipe_keys().items():
        shaped = ", ".join(shapes()[name]) or "nothing"
        assert f" {name} = " in out and f"{item.metadata['note']}\n      shapes: {shaped}\n" in out
    assert "* solver.momentum = 0.8   (paper: 0.9)" in out and "  solver.weight_decay = 0.0005\n" in out
    assert inspect("recipe") == 0
    assert "\n* " not in capsys.readouterr().out  # the paper's own recipe differs in nothing


def test_checkpoint(tmp_path: Path, narrow: Recipe, capsys: pytest.CaptureFixture) -> None:
    model = build_network("deconvnet", narrow)
    save_checkpoint(tmp_path / "last.pt", narrow, content(iteration=1200, position=38400, best=0.625,
                                                          model=model.state_dict()))
    assert inspect(tmp_path / "last.pt") == 0
    out = capsys.readouterr().out
    assert "checkpoint of stage1 at iteration 1,200 (38,400 examples seen)" in out and "0.6250" in out
    assert "network.width = 0.0625   (paper: 1.0)" in out and "32 x 16 x 3 x 3" in out  # conv4_1: 512, 256 / 16
    assert f"{sum(values.numel() for values in model.parameters()):,} parameters" in out


def test_safetensors(tmp_path: Path, narrow: Recipe, capsys: pytest.CaptureFixture) -> None:
    save_network(build_network("deconvnet", narrow), tmp_path / "network.safetensors", "deconvnet", narrow, "measured",
                 {"training": "stage2"})
    assert inspect(tmp_path / "network.safetensors") == 0
    out = capsys.readouterr().out
    assert 'bn: "measured"' in out and "seg_score_voc.weight" in out and "3 x 4 x 1 x 1" in out


def test_hdf5(tmp_path: Path, narrow: Recipe, capsys: pytest.CaptureFixture) -> None:
    part = {"size": np.array([20, 30], np.int32), "boxes": np.array([[1, 2, 9, 17]], np.int32),
            "scores": np.array([0.25], np.float32)}
    write_rows(tmp_path / "val.h5", ["one"], [part], attributes("proposals", recipe=recipe_to_dict(narrow)))
    assert inspect(tmp_path / "val.h5") == 0
    out = capsys.readouterr().out
    assert "proposals, version 2" in out and "edges: gradient-v1" in out and "network.width = 0.0625" in out
    boxes = next(line for line in out.splitlines() if line.startswith("boxes"))
    assert boxes.split() == "boxes 1 x 4 int32 1 ... 17".split()
    box = np.array([[1, 2, 9, 17]], np.int32)
    rows = WindowRows(box, box, *(np.array([one], kind) for one, kind in zip(
        (0, 0, 12, 1, np.nan), ("uint8", "int32", "uint8", "float32", "float32"), strict=True)))
    write_rows(tmp_path / "val.h5", ["one"], [{"size": np.array([20, 30], np.int32), **vars(rows)}],
               attributes("windows"))
    assert inspect(tmp_path / "val.h5") == 0
    assert "rows by class: dog 1" in capsys.readouterr().out


def test_score_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_scores(tmp_path / "one.h5", np.zeros((3, 20, 30), np.float32), "float16", "0123456789abcdef")
    assert inspect(tmp_path / "one.h5") == 0
    out = capsys.readouterr().out
    assert "one.h5: score maps of an image" in out
    assert out.splitlines()[-1].split() == "scores 3 x 20 x 30 float16".split()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    for name in ("cut.pt", "cut.h5", "cut.safetensors", "text.txt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not all of it")
    cases = [(["nothing.pt"], 2, "no such file"), ([tmp_path], 2, "a folder; expected network"),
             ([tmp_path / "text.txt"], 2, ".safetensors"),
             ([tmp_path / "cut.pt"], 1, "damaged"), ([tmp_path / "other.pt"], 1, "not a checkpoint of this project"),
             ([tmp_path / "cut.h5"], 1, "not an HDF5 file"), ([tmp_path / "cut.safetensors"], 1, "not a whole"),
             (["network", "--recipe", "nosuch"], 2, "nosuch"), ([tmp_path / "cut.pt", "--set", "seed=1"], 2, "--set"),
             (["recipe", "--set", "solver.rate=1"], 2, "solver")]
    for arguments, status, word in cases:
        assert inspect(*arguments) == status, arguments
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith("error: ") and word in err, err
