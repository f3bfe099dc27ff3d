"""An installed wheel: it has all that the commands need, and the folder they are called in cannot hide any of it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deconvnet", "proposals", "stages", "crf", "experiments")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the project, without its dependencies and without the network."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    shutil.copy(ROOT / "pyproject.toml", source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
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


def test_commands_of_both_folders_run_where_nothing_hides_them(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()  # no package: Python passes it over
    done = run(installed, tmp_path, "experiments.synthetic_voc", "set", "--train", 1, "--val", 1, "--side", 96)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").is_file()
