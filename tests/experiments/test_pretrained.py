"""Networks packed into the package, and what labels images then; with narrow random networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from deconvnet import Segmenter
from deconvnet.data.synthetic import draw_scene
from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network
from deconvnet.models.weight_files import read_safetensors, write_safetensors
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.errors import UsageError, UserError
from experiments.pretrained import main, parse
from stages import predict
from stages.cli import run_command
from tests.narrow import KINDS, NARROW, Case, randomised


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


def test_stages_predict_labels_with_the_box(case, run, tmp_path, monkeypatch, capsys):
    assert pack(run, tmp_path / "box") == 0
    for module in ("deconvnet.segmenter", "stages.predict"):
        monkeypatch.setattr(f"{module}.PRETRAINED", tmp_path / "box")
    Image.fromarray(case.images[case.first]).save(tmp_path / "photo.png")
    capsys.readouterr()
    arguments = [tmp_path / "photo.png", "--no-crf", "--workers", "1", "--out", tmp_path / "labelled"]
    assert run_command(predict.parse(), predict.main, [str(one) for one in arguments]) == 0
    expected = Segmenter.from_pretrained(crf=False)(tmp_path / "photo.png")
    folder = tmp_path / "labelled" / "deconvnet-max-fcn"
    assert (np.array(Image.open(folder / "photo.png")) == expected.labels).all()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'photo.png'}: ") and f"label maps in {folder}" in last


def test_a_trunk_that_both_networks_have_is_kept_once(case, run, tmp_path):
    """As the trunk of VGG16 that no training moved; biases too, but neither fc6 nor what only one of them has."""
    recipe = load_recipe("paper", [*NARROW, "network.width=0.03125", "fcn.width=0.03125"])
    states = {kind: randomised(build_network(kind, recipe), seed).state_dict() for seed, kind in enumerate(KINDS)}
    trunk = {name: value for name, value in states["fcn8s"].items() if name.startswith("conv")}
    assert len(trunk) == 26
    states["deconvnet"] |= trunk
    save_recipe(recipe, run / "recipe.yaml")
    for kind, folder in KINDS.items():
        case.save(run / folder / "network.safetensors", kind, recipe, states)
    assert pack(run, tmp_path / "alone", "--model", "deconvnet") == 0
    assert pack(run, tmp_path / "box") == 0
    alone, path = (tmp_path / folder / "stage2/network.safetensors" for folder in ("alone", "box"))
    with safe_open(path, framework="pt") as file:
        names = {*file.keys()}
    with safe_open(alone, framework="pt") as file:
        left_out = {*file.keys()} - names
    assert left_out == {*trunk, *(f"{name}.scale" for name, value in trunk.items() if value.ndim == 4)}
    expected, found = (load_network(one, "deconvnet", recipe).state_dict() for one in (alone, path))
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    other = tmp_path / "box/fcn8s/network.safetensors"
    case.save(other, "fcn8s", recipe, {"fcn8s": randomised(build_network("fcn8s", recipe), 9).state_dict()})
    with pytest.raises(UserError, match="stage2/network.safetensors: shares weights with .*fcn8s.*another file now"):
        load_network(path, "deconvnet", recipe)
    other.unlink()
    with pytest.raises(UserError, match="fcn8s/network.safetensors: no such file"):
        load_network(path, "deconvnet", recipe)


def test_the_box_computes_in_fp32_and_with_few_classes_in_the_crf(run, tmp_path):
    """Not every processor computes bf16, in which a run may have been trained, at a fair speed."""
    save_recipe(load_recipe("paper", [*NARROW, "runtime.precision=bf16"]), run / "recipe.yaml")
    assert pack(run, tmp_path / "box") == 0
    made, packed = (load_recipe(folder / "recipe.yaml") for folder in (run, tmp_path / "box"))
    assert (made.crf.least_probability, packed.crf.least_probability) == (0.1, 0.3)
    assert packed.runtime.precision == "fp32"


@pytest.mark.parametrize("file", ["/etc/passwd", "../../x/network.safetensors", "../fcn8s/other.safetensors"])
def test_no_file_but_a_network_beside_is_read(tmp_path, file):
    path = tmp_path / "one/network.safetensors"
    path.parent.mkdir()
    write_safetensors(save_file, {}, path, {"shared": {"file": file, "digest": "", "tensors": ["a"]}})
    with pytest.raises(UserError, match="shared.file"):
        read_safetensors(path)


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


@pytest.mark.slow
def test_the_box_leaves_classes_out_of_the_crf():
    """Those that the networks give less than 0.3 everywhere, unless they come first somewhere; with 0 none is."""
    image, keys = draw_scene(0, "val", 0, 160)[0], ["infer.proposals=5"]
    before = Segmenter.from_pretrained(crf=False, set=keys)(image).probabilities
    winners = set(before.argmax(0).ravel().tolist())
    left_out = [number for number in range(21) if before[number].max() < 0.3 and number not in winners]
    assert 5 < len(left_out) < 20
    found = Segmenter.from_pretrained(set=keys)(image).probabilities
    assert [number for number in range(21) if not found[number].any()] == left_out
    everything = Segmenter.from_pretrained(set=[*keys, "crf.least_probability=0"])(image).probabilities
    assert everything.any((1, 2)).all()
