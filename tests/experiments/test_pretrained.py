"""Networks packed into the package, and what labels images then; with narrow random networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deconvnet import Segmenter
from deconvnet.models.network_files import load_network
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UsageError
from experiments.pretrained import main, parse
from stages.cli import run_command
from tests.narrow import KINDS, NARROW, Case


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture
def run(case, tmp_path) -> Path:
    root = case.run(tmp_path / "run", load_recipe("paper", NARROW))
    (root / "run.json").write_text('{"commit": "abc", "from": "elsewhere"}')
    return root


def pack(run: Path, to: Path, *arguments: object) -> int:
    return run_command(parse(), main, [str(one) for one in (run, "--to", to, *arguments)])


def test_packed_networks_label_as_the_run_does(case, run, tmp_path, monkeypatch):
    """But for weights rounded to a byte: each within half a step, and nearly the same probabilities."""
    assert pack(run, tmp_path / "box") == 0
    assert json.loads((tmp_path / "box/run.json").read_text()) == {"commit": "abc"}  # no folder of this machine
    recipe = load_recipe("paper", NARROW)
    for kind, folder in KINDS.items():
        files = [root / folder / "network.safetensors" for root in (run, tmp_path / "box")]
        whole, packed = (load_network(path, kind, recipe).state_dict() for path in files)
        assert files[1].stat().st_size < 0.45 * files[0].stat().st_size  # narrow: BN and names are a good part
        for name, value in whole.items():
            if value.ndim == 4:
                assert (packed[name] - value).abs().max() <= value.abs().max() / 254 * 1.001
            else:
                assert torch.equal(packed[name], value)
    monkeypatch.setattr("deconvnet.segmenter.PRETRAINED", tmp_path / "box")
    image = case.images[case.first]
    found = Segmenter.from_pretrained(crf=False)(image)
    expected = Segmenter.from_run(run, ensemble="fcn")(image)
    assert found.class_names == ("background", "circle", "square", "star")
    assert np.abs(found.probabilities - expected.probabilities).mean() < 0.02
    assert Segmenter.from_pretrained().name == "deconvnet-max-fcn-crf"


@pytest.mark.parametrize(("kind", "name"), [("deconvnet", "deconvnet-max"), ("fcn8s", "fcn8s")])
def test_one_network_alone(run, tmp_path, monkeypatch, kind, name):
    assert pack(run, tmp_path / "box", "--model", kind) == 0
    monkeypatch.setattr("deconvnet.segmenter.PRETRAINED", tmp_path / "box")
    assert Segmenter.from_pretrained(crf=False).name == name


def test_a_package_without_networks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("deconvnet.segmenter.PRETRAINED", tmp_path / "none")
    with pytest.raises(UsageError, match="comes without networks"):
        Segmenter.from_pretrained()


def test_another_folder_is_not_written_into(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert pack(run, tmp_path / "mine") == 2
    assert "mine: a folder of something else" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())
