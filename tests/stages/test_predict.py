"""stages.predict and the network that comes with the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet import Segmenter
from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.voc import VocFolder
from deconvnet.models.network_files import load_network
from deconvnet.models.weight_files import read_safetensors
from deconvnet.recipe_files import recipe_from_dict
from deconvnet.segmenter import PACKED, PRETRAINED
from stages.cli import run_command
from stages.predict import main, parse

ROOT = Path(__file__).resolve().parents[2]


def predict(*arguments: object) -> int:
    return run_command(parse(), main, [str(one) for one in arguments])


def test_the_box_holds_whole_networks_of_at_most_40_megabytes():
    files = [PRETRAINED / folder / "network.safetensors" for folder in PACKED.values()]
    files = [path for path in files if path.is_file()]
    assert files and sum(path.stat().st_size for path in files) <= 40e6
    for path in files:
        _, metadata = read_safetensors(path)
        recipe = recipe_from_dict(metadata["recipe"], str(path))
        assert metadata["class_names"] == recipe.data.classes == VOC_CLASSES
        load_network(path, metadata["kind"], recipe)  # every tensor is there, finite and of its shape
    assert "Simonyan" in (PRETRAINED / "NOTICE").read_text()


@pytest.mark.slow
def test_the_network_knows_animals(voc_subset):
    """Of every 20th photograph of val, ten windows each: most pixels of animals and persons are labelled as that."""
    voc, segmenter = VocFolder(voc_subset, VOC_CLASSES), Segmenter.from_pretrained(False, set=["infer.proposals=10"])
    shown = [VOC_CLASSES.index(name) for name in ("cat", "cow", "dog", "horse", "person", "sheep")]
    right = counted = 0
    for image_id in voc.image_ids("val")[::20]:
        truth, found = voc.read_mask(image_id), segmenter(voc.image_path(image_id)).labels
        seen = np.isin(truth, shown)
        right, counted = right + (found == truth)[seen].sum(), counted + seen.sum()
    assert right / counted > 0.5


@pytest.mark.slow
def test_photographs_in_results_out(tmp_path, capsys):
    """As a process, on a phone's photograph (turned by its EXIF mark, large) and a grey one."""
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (90, 150, 3), np.uint8)).resize((1500, 900)).save(
        tmp_path / "in/phone.jpg", exif=exif)
    Image.fromarray(np.full((60, 80), 128, np.uint8)).save(tmp_path / "in/grey.png")
    done = subprocess.run([sys.executable, "-m", "stages.predict", "in", "--workers", "1"], cwd=tmp_path, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "labelled").iterdir()
    assert Image.open(folder / "phone.png").size == (900, 1500) and Image.open(folder / "grey.png").size == (80, 60)
    assert {path.stem for path in (folder / "overlays").iterdir()} == {"phone", "grey"}
    images = json.loads((folder / "labels.json").read_text())["images"]
    for line, name in zip(done.stdout.splitlines(), ("grey.png", "phone.jpg"), strict=False):
        assert line.startswith(f"in/{name}: ")
        labels = np.array(Image.open(folder / f"{Path(name).stem}.png"))
        for one in images[Path(name).stem]["classes"]:
            assert (labels == VOC_CLASSES.index(one)).any()
            assert one == "background" or one in line


def test_wrong_use(tmp_path, monkeypatch, capsys):
    assert predict(tmp_path / "none.jpg") == 2
    assert "none.jpg: no such file or folder" in capsys.readouterr().err
    monkeypatch.setattr("deconvnet.segmenter.PRETRAINED", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert predict(tmp_path / "a.png") == 2
    assert "this package comes without networks" in capsys.readouterr().err
