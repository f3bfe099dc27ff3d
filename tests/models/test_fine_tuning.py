"""A network that starts from another network's file: what is kept, what is drawn anew, what is said."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deconvnet.models.build import build_network
from deconvnet.models.fine_tuning import start_from_network
from deconvnet.models.network_files import save_network
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UserError

KEYS = ["network.width=0.0625", "network.input=32", "fcn.width=0.0625", "fcn.fc6_kernel=3", "fcn.canvas=64"]
THREE, OTHER_THREE = "data.classes=[background,cat,dog]", "data.classes=[background,horse,cow]"
TWO = "data.classes=[background,cell]"


def recipe(*changes: str) -> Recipe:
    return load_recipe("paper", [*KEYS, *changes])


def saved(path: Path, kind: str, of: Recipe) -> dict[str, Tensor]:
    """A network's file with every tensor random; what it holds."""
    model = build_network(kind, of)
    random = torch.Generator().manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=random))
    save_network(model, path, kind, of, "measured", {})
    return {name: value.clone() for name, value in model.state_dict().items() if "tracked" not in name}


def started(path: Path, kind: str, of: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """The network's tensors as drawn, those after the start, and the names that were copied."""
    model = build_network(kind, of)
    drawn = {name: value.clone() for name, value in model.state_dict().items() if "tracked" not in name}
    copied = start_from_network(model, path, kind, of)
    return drawn, {name: model.state_dict()[name] for name in drawn}, copied


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name in one if name not in other or not torch.equal(one[name], other[name])}


def test_with_the_same_classes_everything_is_kept(tmp_path):
    theirs = saved(tmp_path / "n.safetensors", "deconvnet", recipe(THREE))
    _, found, copied = started(tmp_path / "n.safetensors", "deconvnet", recipe(THREE))
    assert not differing(found, theirs) and copied == set(theirs)


@pytest.mark.parametrize("classes", [TWO, OTHER_THREE])
@pytest.mark.parametrize(("kind", "score_layers"), [
    ("deconvnet", {"seg_score_voc"}),
    ("fcn8s", {"score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8"}),
    ("segnet", {"conv1_1_D"}),
])
def test_with_other_classes_only_the_score_layers_are_drawn_anew(tmp_path, caplog, kind, score_layers, classes):
    """Also where there are as many: the third class's scores are not a cow's."""
    theirs = saved(tmp_path / "n.safetensors", kind, recipe(THREE, "segnet.width=0.0625"))
    with caplog.at_level(logging.INFO):
        drawn, found, copied = started(tmp_path / "n.safetensors", kind, recipe(classes, "segnet.width=0.0625"))
    assert {name.split(".")[0] for name in differing(found, theirs)} == score_layers
    anew = {name for name in found if name.split(".")[0] in score_layers}
    assert not any(differing({name: found[name]}, drawn) for name in anew) and copied == set(found) - anew
    said = "n.safetensors: drawn anew: "
    line = next(one for one in caplog.messages if said in one)
    assert set(line.split(said)[1].split(", ")) == score_layers


def test_from_another_kind_of_network_the_common_layers_are_kept(tmp_path, caplog):
    """FCN-8s's trunk, fc7 and fc6 of another kernel; it has no batch normalisation here."""
    theirs = saved(tmp_path / "fcn.safetensors", "fcn8s", recipe(THREE))
    with caplog.at_level(logging.INFO):
        drawn, found, copied = started(tmp_path / "fcn.safetensors", "deconvnet", recipe(THREE))
    trunk = {name for name in theirs if name.startswith("conv") or name.startswith("fc7.")} | {"fc6.bias"}
    assert copied == trunk and not any(differing({name: found[name]}, theirs) for name in trunk)
    rest = {name: found[name] for name in found if name not in trunk}
    assert not differing(rest, drawn)
    assert "drawn anew: bn1_1, bn1_2" in caplog.text and "not used: fc6, score_fr" in caplog.text


def test_a_file_of_another_width_keeps_nothing(tmp_path):
    saved(tmp_path / "n.safetensors", "fcn32s", recipe(THREE, "fcn.width=0.125"))
    with pytest.raises(UserError, match="n.safetensors: none of its tensors fits a DeconvNet of this recipe"):
        started(tmp_path / "n.safetensors", "deconvnet", recipe(THREE))


@pytest.mark.parametrize(("names", "message"), [
    (["conv1_1.weight"], "VGG16, not a whole network: give it with --vgg16"),
    (["other"], "not a network file of this project"),
])
def test_other_files_are_refused(tmp_path, names, message):
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "n.safetensors")
    with pytest.raises(UserError, match=f"n.safetensors: {message}"):
        started(tmp_path / "n.safetensors", "deconvnet", recipe(THREE))


def test_damaged_weights_are_refused_before_anything_is_copied(tmp_path):
    model = build_network("deconvnet", recipe(THREE))
    with torch.no_grad():
        model.get_parameter("fc7.bias")[0] = torch.nan
    save_network(model, tmp_path / "n.safetensors", "deconvnet", recipe(THREE), "measured", {})
    with pytest.raises(UserError, match=r"n.safetensors: fc7.bias holds NaN"):
        started(tmp_path / "n.safetensors", "deconvnet", recipe(THREE))


def test_a_published_fcn8s_is_read(tmp_path):
    """wkentaro's names and BGR input: conv1_1's channels are reversed."""
    one = recipe(THREE, "fcn.fc6_kernel=7")
    model = build_network("fcn8s", one)
    torch.save(model.state_dict(), tmp_path / "fcn8s_from_caffe.pth")
    _, found, copied = started(tmp_path / "fcn8s_from_caffe.pth", "fcn8s", one)
    assert torch.equal(found["conv1_1.weight"], model.get_parameter("conv1_1.weight").flip(1))
    assert copied == set(found)
