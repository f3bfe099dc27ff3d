"""An installed wheel: it has all that the commands need, and the folder they are called in cannot hide any of it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest
from PIL import Image

from deconvnet import build_network, load_recipe
from deconvnet.models.network_files import save_network
from deconvnet.recipe_files import save_recipe

pytestmark = pytest.mark.slow  # it builds and installs a wheel
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deconvnet", "proposals", "stages", "crf", "experiments")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the project is installed from: setuptools leaves folders of its own there."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the project, without its dependencies and without the network."""
    target = tmp_path_factory.mktemp("target")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
                           "--target", target, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A working folder with packages of the same names as the project's, each of which fails when it is imported."""
    for name in ("crf", "deconvnet", "experiments", "proposals"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the working folder')\n")
    return tmp_path


def run(installed: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """A command in a folder. -S: without .pth files, by which an editable install would find this checkout."""
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return subprocess.run([sys.executable, "-S", "-m", *map(str, arguments)], cwd=folder, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def test_a_command_and_its_processes_find_their_own_packages(installed: Path, crowded: Path) -> None:
    voc = crowded / "voc"
    for name in ("JPEGImages", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    picture = Image.new("RGB", (96, 80), "navy")
    picture.paste("orange", (20, 15, 70, 60))
    picture.save(voc / "JPEGImages" / "one.png")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("one\n")
    done = run(installed, crowded, "stages.build_proposals", "--run", "run", "--voc-root", voc, "--split", "val",
               "--stage", "none", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert (crowded / "run" / "proposals" / "val.h5").is_file()


def test_it_carries_its_licence(installed: Path) -> None:
    (about,) = distributions(path=[str(installed)])
    assert about.metadata["License-Expression"] == "MIT"
    assert about.metadata.get_all("License-File") == ["LICENSE", "deconvnet/pretrained/NOTICE"]
    (text,) = installed.glob("*.dist-info/licenses/LICENSE")
    assert text.read_text() == (ROOT / "LICENSE").read_text() and text.read_text().startswith("MIT License\n")
    assert (installed / "deconvnet/pretrained/fcn8s/network.safetensors").is_file()  # and the network in the box


def test_commands_of_both_folders_run_where_nothing_hides_them(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()  # no package: Python passes it over
    done = run(installed, tmp_path, "experiments.synthetic_voc", "set", "--train", 1, "--val", 1, "--side", 96)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").is_file()


@pytest.fixture(scope="module")
def environment(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment into which the project's wheel was installed; no checkout is on its path."""
    folder = tmp_path_factory.mktemp("environment")
    offline = ("--no-deps", "--no-index", "--quiet")
    for command in (
        [sys.executable, "-m", "pip", "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, source],
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What it depends on is this environment's: the folder alone, without its .pth files, which know the checkout.
    packages = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True,
                              capture_output=True, check=True).stdout.strip()
    Path(packages, "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python.parent


def called(environment: Path, folder: Path, name: str, *arguments: object) -> subprocess.CompletedProcess:
    """A program of the environment, called in a folder, as a user would: no PYTHONPATH."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([environment / name, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
                          env=variables)


def test_the_wheel_has_the_api_and_all_commands(environment: Path, crowded: Path, tmp_path_factory) -> None:
    """Recipes and tables too; the program `deconvnet` also where packages of the same names are in the folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code = ("import deconvnet, stages, experiments.table1 as table\nfrom deconvnet import Segmenter, load_recipe\n"
            "print(deconvnet.__file__)\nprint(load_recipe('paper').name, load_recipe('released').name)\n"
            "print(len(table.paper_table()))")
    done = called(environment, elsewhere, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    place, recipes, rows = done.stdout.splitlines()
    assert Path(place).is_relative_to(environment.parent) and recipes == "paper released" and int(rows) > 5
    done = called(environment, elsewhere, "python", "-m", "stages.inspect", "recipe", "--recipe", "paper")
    assert done.returncode == 0 and "infer.aggregate = max" in done.stdout
    done = called(environment, crowded, "deconvnet", "infer", "--help")
    assert done.returncode == 0 and "usage: deconvnet infer " in done.stdout, done.stderr
    done = called(environment, crowded, "deconvnet", "--help")
    names = [path.stem for path in (ROOT / "stages").glob("*.py") if "run_command(parse(), main)" in path.read_text()]
    assert done.returncode == 0 and len(names) > 5 and {*names} <= {*done.stdout.split()}


def test_the_program_labels_an_image_with_the_crf_in_processes_of_its_own(environment: Path, crowded: Path) -> None:
    """Those find their packages too, though the folder has others of the same names."""
    recipe = load_recipe("tiny", ["network.width=0.0625", "network.input=32", "proposals.count=20"])
    save_network(build_network("deconvnet", recipe), crowded / "run" / "stage2" / "network.safetensors", "deconvnet",
                 recipe, "measured", {})
    save_recipe(recipe, crowded / "run" / "recipe.yaml")
    Image.new("RGB", (60, 40), "navy").save(crowded / "one.png")
    done = called(environment, crowded, "deconvnet", "infer", "--run", "run", "--images", "one.png", "--crf",
                  "--workers", 1, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (crowded / "run/labelled/deconvnet-max-crf/one.png").is_file()
