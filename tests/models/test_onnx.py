"""ONNX files: their scores in onnxruntime are the network's, what they say of it, and which of them are refused."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network, save_network
from deconvnet.models.onnx_export import Comparison, compare, export_onnx
from deconvnet.models.onnx_files import OnnxNetwork, read_about
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.errors import UserError
from tests.narrow import doubles, randomised
from tests.reference_inference import MEAN
from tests.reference_network import forward

pytestmark = pytest.mark.slow  # the exporter takes seconds to import
CLASSES = ["background", "cat", "dog"]
KEYS = ["network.width=0.0625", "network.input=32", "network.deconv_std=0", "fcn.width=0.03125", "fcn.canvas=50",
        "segnet.width=0.0625", "segnet.canvas=70", f"data.classes=[{','.join(CLASSES)}]"]
SIDES = {"deconvnet": 32, "fcn32s": 50, "fcn16s": 50, "fcn8s": 50, "segnet": 70}  # with odd sides within


def recipe_of(*changes: str) -> Recipe:
    return load_recipe("paper", [*KEYS, *changes])


def windows(count: int, side: int, seed: int = 5) -> Tensor:
    """As the networks see them: colours minus the mean; smooth, so that neighbours are alike but never equal."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    fine = nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return fine - torch.from_numpy(MEAN.astype(np.float32))[:, None, None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, nn.Module, Recipe]]:
    """A network's file, the network, and its recipe; each exported once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(kind: str = "deconvnet", *changes: str) -> tuple[Path, nn.Module, Recipe]:
        key = (kind, *changes)
        if key not in made:
            recipe = recipe_of(*changes)
            model = randomised(build_network(kind, recipe), 3)
            path = folder / f"{len(made)}.onnx"
            export_onnx(model, path, kind, recipe, {"weights": "here"})
            made[key] = path, model, recipe
        return made[key]

    return export


@pytest.mark.parametrize("change", [
    *(f"network.unpooling={kind}" for kind in ("switches", "fixed", "average", "tile", "bilinear")),
    "network.batch_norm=false"])
def test_deconvnets_scores_are_torchs(exported: Callable, change: str) -> None:
    path, model, recipe = exported("deconvnet", change)
    same_scores(load_network(path, "deconvnet", recipe), model, 32)


@pytest.mark.parametrize("kind", [kind for kind in SIDES if kind != "deconvnet"])
def test_other_networks_scores_are_torchs(exported: Callable, kind: str) -> None:
    path, model, recipe = exported(kind)
    same_scores(load_network(path, kind, recipe), model, SIDES[kind])


def same_scores(exported: nn.Module, model: nn.Module, side: int) -> None:
    """Of one window and of several, also where their memory is laid out otherwise."""
    for count in (1, 3):
        images = windows(count, side)
        with torch.inference_mode():
            expected, found = model(images), exported(images.contiguous(memory_format=torch.channels_last))
        assert found.shape == (count, 3, side, side) and found.dtype == torch.float32 and expected.std() > 0.01
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_scores_by_numpy(exported: Callable) -> None:
    """Without torch on either side, the switches of several windows among them."""
    path, model, recipe = exported()
    images = windows(2, 32)
    expected = forward(images.double().numpy(), doubles(model.state_dict()), recipe.network.bn_eps, training=False)
    found = OnnxNetwork(path)(images).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_a_file_says(exported: Callable) -> None:
    path, _, recipe = exported("fcn8s")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (images,), (scores,) = model.graph.input, model.graph.output
    sizes = [[one.dim_param or one.dim_value for one in part.type.tensor_type.shape.dim] for part in (images, scores)]
    assert (images.name, scores.name) == ("images", "scores")
    assert sizes == [["batch", 3, 50, 50], ["batch", 3, 50, 50]]
    told = {one.key: one.value for one in model.metadata_props}
    about = json.loads(told["deconvnet"])
    assert about["kind"] == "fcn8s" and about["class_names"] == CLASSES and about["side"] == 50
    assert about["mean_rgb"] == [122.675, 116.669, 104.008] and about["origin"] == {"weights": "here"}
    assert about["recipe"] == recipe_to_dict(recipe) and about == read_about(path)
    assert "RGB in 0 .. 255 minus [122.675, 116.669, 104.008]" in model.doc_string
    content = path.read_bytes()  # whose last 76 are the digest's entry
    assert told["sha256"] == hashlib.sha256(content[:-76]).hexdigest()
    assert b"unpooling.py" not in content and str(Path(__file__).parents[2]).encode() not in content


def test_exporting_changes_nothing_of_the_network(tmp_path: Path) -> None:
    recipe, images = recipe_of(), windows(2, 32)
    model = randomised(build_network("deconvnet", recipe), 3)
    with torch.inference_mode():
        state, before = {name: value.clone() for name, value in model.state_dict().items()}, model(images)
        export_onnx(model, tmp_path / "a.onnx", "deconvnet", recipe, {})
        assert torch.equal(model(images), before) and not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_damage_is_found(exported: Callable, tmp_path: Path) -> None:
    """A bit anywhere, a missing end, more behind it; and files of other programs."""
    content = exported()[0].read_bytes()
    dice, path = random.Random(0), tmp_path / "x.onnx"
    flips = [dice.randrange(8 * len(content)) for _ in range(30)] + [8 * (len(content) - back) for back in (1, 70, 76)]
    damaged = [content[: flip // 8] + bytes([content[flip // 8] ^ 1 << flip % 8]) + content[flip // 8 + 1 :]
               for flip in flips]
    damaged += [content[:-1], content[: len(content) // 2], content[:76], content[:50], b"", content + b"\0",
                content[:-76], content + content]
    for damage in damaged:
        path.write_bytes(damage)
        for read in (OnnxNetwork, read_about):
            with pytest.raises(UserError, match=r"x\.onnx: (damaged|no ONNX file of stages\.export).*export it again"):
                read(path)
    for foreign, words in ((content[:-76], "no ONNX file"), (content + content, "damaged")):
        path.write_bytes(foreign)
        with pytest.raises(UserError, match=words):
            OnnxNetwork(path)
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        OnnxNetwork(tmp_path / "none.onnx")


def test_a_whole_file_that_onnxruntime_cannot_read_or_that_says_nothing(tmp_path: Path, exported: Callable) -> None:
    def sealed(content: bytes) -> Path:
        path = tmp_path / "x.onnx"
        path.write_bytes(content + b"rJ\n\x06sha256\x12@" + hashlib.sha256(content).hexdigest().encode())
        return path

    with pytest.raises(UserError, match=r"x\.onnx: onnxruntime cannot open it \(.+\)"):
        OnnxNetwork(sealed(b"no protobuf"))
    model = onnx.load(exported()[0])
    about = next(one for one in model.metadata_props if one.key == "deconvnet")
    about.value = json.dumps(json.loads(about.value) | {"side": 0})
    with pytest.raises(UserError, match=r"x\.onnx: damaged: side: .*export it again"):
        OnnxNetwork(sealed(model.SerializeToString()))
    del model.metadata_props[:]
    with pytest.raises(UserError, match=r"x\.onnx: damaged: side: .*export it again"):
        OnnxNetwork(sealed(model.SerializeToString()))


@pytest.mark.parametrize(("kind", "changes", "words"), [
    ("deconvnet", ["network.width=0.125"], "width = 0.0625; the recipe has 0.125"),
    ("deconvnet", ["network.input=64", "windows.warp=64"], "input = 32; the recipe has 64"),
    ("deconvnet", ["network.unpooling=fixed"], "unpooling = 'switches'; the recipe has 'fixed'"),
    ("deconvnet", ["data.classes=[background,cat,cow]"], "class 2 is 'dog'; the recipe has 'cow'"),
    ("fcn8s", [], "a network of kind 'deconvnet'; expected one of kind 'fcn8s'"),
])
def test_a_file_of_another_recipe_is_refused(exported: Callable, kind: str, changes: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_network(exported()[0], kind, recipe_of(*changes))


def test_a_file_for_another_canvas_is_refused(exported: Callable) -> None:
    with pytest.raises(UserError, match="exported for images of side 50; the recipe has 96"):
        load_network(exported("fcn8s")[0], "fcn8s", recipe_of("fcn.canvas=96"))


class Drifting(nn.Module):
    """A network that gives other scores each time: what is exported is not what torch says next."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images * torch.tensor([1.0, 0.5, self.calls])[:, None, None]


class Asking(nn.Module):
    """A network whose way depends on what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(("model", "words"), [
    (Drifting(), "not written: onnxruntime's scores are not torch's: largest difference"),
    (Asking(), "torch cannot export this network: "),
])
def test_a_network_that_is_not_exported_leaves_no_file(tmp_path: Path, model: nn.Module, words: str) -> None:
    (tmp_path / "x.onnx").write_text("as it was")
    with pytest.raises(UserError, match=rf"x\.onnx: {words}"):
        export_onnx(model.eval(), tmp_path / "x.onnx", "deconvnet", recipe_of(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"] and (tmp_path / "x.onnx").read_text() == "as it was"


def test_a_network_that_is_too_large_is_refused_before_it_is_exported(tmp_path: Path) -> None:
    with torch.device("meta"):
        wide = nn.Conv2d(3, 2**28, 1, bias=False)  # 3.2 GB
    with pytest.raises(UserError, match=r"weights take 3\.2 GB; an ONNX file holds 2\.1 GB: .*network\.width"):
        export_onnx(wide, tmp_path / "x.onnx", "deconvnet", recipe_of(), {})


def test_what_a_comparison_measures() -> None:
    """By hand: two classes, one score of a few off by 3, which turns its label."""
    class Network(nn.Module):
        def __init__(self, wrong: float) -> None:
            super().__init__()
            self.wrong = wrong

        def forward(self, images: Tensor) -> Tensor:
            scores = torch.zeros(len(images), 2, 4, 4)
            scores[:, 1] = -8.0
            scores[:, 1, 0, 0] = -1.0 + self.wrong
            return scores

    assert compare(Network(0), Network(3), 4) == Comparison(3.0, 0.0, 8.0, 15 / 16)
    assert compare(Network(0), Network(0), 4).agrees and not compare(Network(0), Network(3), 4).agrees
    assert Comparison(0.5, 1e-4, 1.0, 0.98).agrees  # a switch here and there
    assert not Comparison(0.5, 1.1e-4, 1.0, 1.0).agrees and not Comparison(0.5, 0.0, 1.0, 0.979).agrees
    assert str(Comparison(0.5, 1e-6, 12.34, 0.9991)) == (
        "largest difference 0.5, median 1e-06, of scores up to 12.3; 99.91 % of the labels are the same")


@pytest.mark.parametrize(("missing", "named"), [(["onnxruntime"], "onnxruntime"),
                                                (["onnx", "onnxscript"], "onnx and onnxscript")])
def test_without_the_packages_it_says_what_to_install(tmp_path: Path, missing: list[str], named: str) -> None:
    """In a process whose packages are hidden."""
    code = (f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
            "from stages.export import main, parse\nfrom stages.cli import run_command\n"
            "sys.exit(run_command(parse(), main))")
    run = tmp_path / "run"
    recipe = recipe_of()
    save_network(build_network("deconvnet", recipe), run / "stage2" / "network.safetensors", "deconvnet", recipe,
                 "measured", {})
    save_recipe(recipe, run / "recipe.yaml")
    done = subprocess.run([sys.executable, "-c", code, "--to", "onnx", "--run", run, "--model", "deconvnet"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        f"error: ONNX files need {named}, not installed here: pip install -c constraints.txt -e '.[export]'")
    assert not (run / "onnx").exists()
