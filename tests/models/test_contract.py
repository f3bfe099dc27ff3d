"""The contract of NetworkSpec, over every network of the registry: its fields, its weights, its file, one training."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deconvnet.data.synthetic import generate
from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network, save_network
from deconvnet.models.registry import MODULES, NETWORKS, PARTNERS, partner_name, sections_of_others, training_specs
from deconvnet.models.spec import IMAGES, MEASURED, NONE, RUNNING, WINDOWS, NetworkSpec
from deconvnet.models.weights import COUNTER
from deconvnet.recipe import Recipe, recipe_keys, recipe_to_dict
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UserError
from stages import build_proposals, train
from stages.cli import run_command

KEYS = ["network.width=0.03125", "network.input=32", "windows.warp=36", "fcn.width=0.03125", "fcn.canvas=64",
        "segnet.width=0.03125", "segnet.canvas=64", "train.iterations=[2,2]", "fcn.iterations=[2,2,2]",
        "segnet.iterations=2", "train.batch=4", "train.micro_batch=2", "fcn.batch=2", "fcn.micro_batch=1",
        "segnet.batch=4", "segnet.micro_batch=2", "bn_statistics.batches=2", "bn_statistics.batch=2",
        "train.validate_every=1", "train.checkpoint_every=1", "train.workers=0", "proposals.count=50"]
BOTH = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("tiny", KEYS)


def side(spec: NetworkSpec, recipe: Recipe) -> int:
    return recipe.network.input if spec.examples(recipe) == WINDOWS else spec.canvas(recipe)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if not name.endswith(COUNTER)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_names_are_known_without_torch() -> None:
    code = ("import sys\nfrom deconvnet.models.registry import NETWORKS\n"
            "assert list(NETWORKS) and 'torch' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.slow
def test_reading_one_imports_no_compiler(recipe: Recipe, tmp_path: Path) -> None:
    """torch's takes seconds, and some functions import it on the meta device."""
    for name in MODULES:
        save_network(build_network(name, recipe), tmp_path / f"{name}.safetensors", name, recipe, "measured", {})
    code = ("import sys\nfrom pathlib import Path\nfrom deconvnet.models.network_files import load_network\n"
            "from deconvnet.models.weight_files import read_metadata\n"
            "from deconvnet.recipe_files import recipe_from_dict\n"
            "for path in Path(sys.argv[1]).iterdir():\n"
            "    load_network(path, path.stem, recipe_from_dict(read_metadata(path)['recipe'], ''))\n"
            "assert not {'torch._dynamo', 'sympy'} & {*sys.modules}\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@BOTH
def test_a_spec_says_what_is_so(name: str, recipe: Recipe) -> None:
    spec = NETWORKS[name]
    assert spec.name == name and len(NETWORKS) == len(MODULES)
    assert spec.examples(recipe) == WINDOWS or spec.examples(recipe) == IMAGES and spec.canvas(recipe) > 0
    assert {f"{spec.recipe_section}.{key}" for key in spec.describe(recipe)} <= recipe_keys().keys()
    assert f"{spec.recipe_section}." not in sections_of_others(name)
    trainings, known = spec.trainings(recipe), training_specs(recipe)
    assert trainings[-1].network == name
    for training in trainings:
        assert known[training.name].network == training.network in NETWORKS
        assert training.examples in (WINDOWS, IMAGES) and training.bn in (MEASURED, RUNNING, NONE)
        keys = recipe_to_dict(recipe)
        assert training.iterations in (keys[training.iterations_key], *_numbers(keys[training.iterations_key]))
        assert training.batch == keys[f"{training.section}.batch"]
        assert not training.start or training.start.training in known


def _numbers(value: object) -> list:
    return value if isinstance(value, list) else []


def test_what_tells_trainings_apart_is_told_apart(recipe: Recipe) -> None:
    specs = list(training_specs(recipe).values())
    for of in (lambda one: one.stream, lambda one: one.title):
        assert len({of(one) for one in specs}) == len(specs)
    assert {*PARTNERS.values()} <= {*NETWORKS} and "none" not in PARTNERS
    assert [partner_name(name) for name in PARTNERS.values()] == list(PARTNERS)


@BOTH
def test_pictures_become_scores_and_every_weight_learns(name: str, recipe: Recipe) -> None:
    model, length = build_network(name, recipe), side(NETWORKS[name], recipe)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():  # a score layer that starts at zero lets nothing through
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    pictures = 30 * torch.randn(2, 3, length, length, generator=torch.Generator().manual_seed(0))
    scores = model(pictures)
    assert scores.shape == (2, len(recipe.data.classes), length, length) and scores.dtype == torch.float32
    torch.nn.functional.cross_entropy(scores, torch.ones(2, length, length, dtype=torch.int64)).backward()
    for weight_name, weight in model.named_parameters():
        assert not weight.requires_grad or (weight.grad.isfinite().all() and weight.grad.any()), weight_name
    model.eval()
    with torch.no_grad():
        one, both = model(pictures[:1]), model(pictures)
    torch.testing.assert_close(one, both[:1], rtol=1e-4, atol=1e-4)  # a picture's scores are its own


@BOTH
def test_weights_are_drawn_from_the_seed(name: str, recipe: Recipe) -> None:
    other = load_recipe("tiny", [*KEYS, "seed=1"])
    one = state(build_network(name, recipe))
    torch.rand(3)
    assert equal(one, state(build_network(name, recipe))) and not equal(one, state(build_network(name, other)))


@BOTH
def test_its_file_is_its_own(name: str, recipe: Recipe, tmp_path: Path) -> None:
    model = build_network(name, recipe)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    save_network(model, tmp_path / "network.safetensors", name, recipe, "measured", {})
    loaded = load_network(tmp_path / "network.safetensors", name, recipe)
    assert equal(state(model), state(loaded))
    side = NETWORKS[name].side(recipe)
    with torch.no_grad():  # what no file holds is there, too
        picture = torch.zeros(1, 3, side, side)
        torch.testing.assert_close(loaded(picture), model.eval()(picture), rtol=0, atol=0, equal_nan=True)
    key, value = next(iter(NETWORKS[name].describe(recipe).items()))  # its width or the like
    larger = load_recipe("tiny", [*KEYS, f"{NETWORKS[name].recipe_section}.{key}={2 * value}"])
    with pytest.raises(UserError, match=f"{key} = {value}"):
        load_network(tmp_path / "network.safetensors", name, larger)
    for another in set(NETWORKS) - {name}:
        with pytest.raises(UserError, match=name):
            load_network(tmp_path / "network.safetensors", another, recipe)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with windows of both stages."""
    root = tmp_path_factory.mktemp("contract")
    voc = generate(root / "voc", train=4, val=2, seed=0, side=96)
    settings = [word for one in KEYS for word in ("--set", one)]
    assert run_command(build_proposals.parse(), build_proposals.main,
                       ["--run", str(root / "run"), "--recipe", "tiny", "--voc-root", str(voc), *settings]) == 0
    return root / "run"


@pytest.mark.slow
@BOTH
def test_one_training_through_the_command_and_another_that_goes_on(name: str, begun: Path, tmp_path: Path,
                                                                   recipe: Recipe) -> None:
    spec = NETWORKS[name]
    what = [["--stage", str(one.stage)] for one in spec.trainings(recipe)] if spec.by_stage else [["--model", name]]
    run, last = tmp_path / "run", spec.trainings(recipe)[-1].name
    shutil.copytree(begun, run)
    for options in what:
        assert run_command(train.parse(), train.main, ["--run", str(run), *options]) == 0
    whole = load_network(run / last / "network.safetensors", name, recipe)
    assert not equal(state(whole), state(build_network(name, recipe)))
    shutil.rmtree(run / last)
    for options in (["--set", iterations(spec, recipe, 1)], ["--resume", "--set", iterations(spec, recipe, 2)]):
        assert run_command(train.parse(), train.main, ["--run", str(run), *what[-1], *options]) == 0
    assert equal(state(whole), state(load_network(run / last / "network.safetensors", name, recipe)))


def iterations(spec: NetworkSpec, recipe: Recipe, count: int) -> str:
    """key=value by which the last training has `count` iterations, and no other is changed."""
    key = spec.trainings(recipe)[-1].iterations_key
    value = recipe_to_dict(recipe)[key]
    if not isinstance(value, list):
        return f"{key}={count}"
    for place in range(len(value)):
        found = f"{key}={[count if index == place else number for index, number in enumerate(value)]}".replace(" ", "")
        if spec.trainings(load_recipe("tiny", [*KEYS, found]))[-1].iterations == count:
            return found
    raise AssertionError(f"no number of {key} is that of {spec.name}'s last training")
