"""stages.infer as a user runs it: the mission's flags, reruns, a kill, images of one's own, bad input."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from deconvnet.data.images import read_rgb
from deconvnet.data.palette import voc_palette
from deconvnet.data.row_files import read_rows
from deconvnet.data.synthetic import generate
from deconvnet.data.voc import VocFolder
from deconvnet.evaluation.scoring import SCORE_FILES
from deconvnet.inference.scoring import score_image, score_windows, scoring_windows
from deconvnet.models.build import build_network
from deconvnet.models.network_files import save_network
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.run_folder import RunFolder
from proposals.build import ProposalWork, build_proposals
from stages.cli import run_command
from stages.infer import main, parse
from tests.narrow import CPU, randomised
from tests.reference_inference import softmax

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["network.width=0.0625", "network.input=32", "windows.warp=36", "network.deconv_std=0", "proposals.count=40",
        "infer.proposals=5", "fcn.width=0.03125", "fcn.canvas=96"]
MISSION = ("--aggregate", "max", "--ensemble", "fcn", "--crf")


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "voc", train=1, val=5, seed=0, side=96)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """A folder with the two networks' files, made once: random weights, statistics as if measured."""
    folder, recipe = tmp_path_factory.mktemp("networks"), load_recipe("tiny", KEYS)
    for seed, (kind, name) in enumerate({"deconvnet": "stage2", "fcn8s": "fcn8s"}.items()):
        model = randomised(build_network(kind, recipe), seed)
        save_network(model, folder / name / "network.safetensors", kind, recipe, "measured", {})
    return folder


@pytest.fixture
def folder(tmp_path: Path, voc: Path, networks: Path) -> Path:
    return run_folder(tmp_path / "run", voc, networks)


def run_folder(folder: Path, voc: Path, networks: Path) -> Path:
    """As after training: recipe, data set, networks."""
    shutil.copytree(networks, folder)
    save_recipe(load_recipe("tiny", KEYS), folder / "recipe.yaml")
    (folder / "data.json").write_text(json.dumps({"voc_root": str(voc.resolve())}))
    return folder


def infer(folder: Path, *arguments: object) -> int:
    """The command in this process: its exit status."""
    fixed = ["--run", str(folder), "--device", "cpu", "--workers", "1"]
    return run_command(parse(), main, [*fixed, *map(str, arguments)])


def as_process(folder: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages.infer", "--run", str(folder), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder.parent, text=True, start_new_session=True, stderr=subprocess.PIPE,
                            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def refused(capsys: pytest.CaptureFixture, status: int, expected: int, *words: object) -> None:
    """One line that holds the words. (Progress bars and the log go to stderr too.)"""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == expected and len(lines) == 1, lines
    for word in words:
        assert str(word) in lines[0], lines[0]


def pngs(folder: Path) -> dict[str, bytes]:
    """The label maps; not the temporary file that a killed process leaves."""
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("[!.]*.png"))}


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5")}


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P" and picture.getpalette() == voc_palette().ravel().tolist()
        return np.array(picture)


def probabilities(folder: Path, image: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """DeconvNet's and FCN's, straight from the networks' files."""
    from deconvnet.models.network_files import load_network

    deconvnet, fcn = (load_network(folder / name / "network.safetensors", kind, recipe)
                      for name, kind in (("stage2", "deconvnet"), ("fcn8s", "fcn8s")))
    boxes = ProposalWork(None, recipe, None).propose(image)[0]
    scores = (score_windows(deconvnet, image, scoring_windows(boxes, recipe), recipe, CPU),
              score_image(fcn, image, recipe, CPU, recipe.fcn.canvas))
    one, other = (softmax(each.numpy().astype(np.float16).astype(float)) for each in scores)
    return one, other


@pytest.mark.slow
def test_killed_and_run_again_and_again(tmp_path: Path, voc: Path, networks: Path, caplog) -> None:
    """The mission's command as written, killed in the middle: afterwards as if it had never been stopped."""
    caplog.set_level(logging.INFO)
    whole, broken = (run_folder(tmp_path / name, voc, networks) for name in ("whole", "broken"))
    row = Path("predictions/val/deconvnet-max-fcn-crf")
    process = as_process(broken, *MISSION, "--workers", "1")
    for _ in range(12_000):
        if pngs(broken / row):
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    first = pngs(broken / row)
    assert 1 <= len(first) < 5

    assert infer(whole, *MISSION) == 0 and infer(broken, *MISSION) == 0
    assert f"{len(first)} of 5 label maps are there already" in caplog.text
    assert pngs(broken / row) == pngs(whole / row) and len(pngs(whole / row)) == 5
    for image_id, image_path in ((path.stem, path) for path in (voc / "JPEGImages").glob("*")):
        if (whole / row / f"{image_id}.png").exists():
            assert labels_of(whole / row / f"{image_id}.png").shape == read_rgb(image_path).shape[:2]

    caplog.clear()
    before = written(whole)
    assert infer(whole, *MISSION) == 0
    assert "5 of 5 label maps are there already" in caplog.text and "device:" not in caplog.text

    # Other settings of the CRF and of the ensemble: new label maps, from the scores that are there.
    caplog.clear()
    old = pngs(whole / row)
    for name in SCORE_FILES:  # of the old label maps
        (whole / row / name).touch()
    assert infer(whole, *MISSION, "--set", "crf.normalization=none") == 0
    assert not [name for name in SCORE_FILES if (whole / row / name).exists()]
    assert "made with other settings; made anew" in caplog.text and "device:" not in caplog.text
    assert pngs(whole / row).keys() == old.keys() and pngs(whole / row) != old
    assert infer(whole, *MISSION, "--set", "infer.ensemble_rule=product") == 0
    assert infer(whole, *MISSION) == 0
    assert pngs(whole / row) == old and written(whole) == before and "device:" not in caplog.text

    # Other windows: other scores.
    assert infer(whole, "--set", "infer.proposals=1") == 0
    assert "device:" in caplog.text and len(written(whole)) == len(before) + 5


@pytest.mark.slow
def test_labels_are_those_of_the_steps(folder: Path, voc: Path) -> None:
    """Each row, for every image, from the networks through score files to PNG."""
    for rule in ("max", "sum", "mean"):
        assert infer(folder, "--aggregate", rule) == 0
    assert infer(folder, *MISSION[:4]) == 0 and infer(folder, "--model", "fcn8s") == 0
    data = VocFolder(voc, load_recipe("tiny").data.classes)
    for image_id in data.image_ids("val")[:2]:
        image = data.read_image(image_id)
        found = {row: labels_of(folder / "predictions/val" / row / f"{image_id}.png")
                 for row in ("deconvnet-max", "deconvnet-sum", "deconvnet-mean", "deconvnet-max-fcn", "fcn8s")}
        for rule in ("max", "sum", "mean"):
            one, fcn = probabilities(folder, image, load_recipe("tiny", [*KEYS, f"infer.aggregate={rule}"]))
            assert (found[f"deconvnet-{rule}"] == one.argmax(0)).mean() > 0.999  # but for equals
            if rule == "max":
                assert (found["deconvnet-max-fcn"] == (one + fcn).argmax(0)).mean() > 0.999
        assert (found["fcn8s"] == fcn.argmax(0)).mean() > 0.999
        assert (found["deconvnet-max-fcn"] != found["deconvnet-max"]).any()
        assert (found["deconvnet-max"] != found["deconvnet-sum"]).any()
        assert len(np.unique(found["deconvnet-max"])) > 2


@pytest.mark.slow
def test_saved_proposals_are_used_and_give_the_same(folder: Path, voc: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    assert infer(folder) == 0
    run = RunFolder(folder, load_recipe("tiny", KEYS), voc)
    build_proposals(run, "val", None, 1, "stop")
    caplog.clear()
    assert infer(folder) == 0 and "5 of 5 label maps are there already" in caplog.text
    before = pngs(folder / "predictions/val/deconvnet-max")
    shutil.rmtree(folder / "scores")
    shutil.rmtree(folder / "predictions")
    assert infer(folder) == 0 and pngs(folder / "predictions/val/deconvnet-max") == before
    assert read_rows(folder / "proposals/val.h5", "proposals").first[-1] > 5
    assert infer(folder, "--split", "train") == 0 and "!!!" not in caplog.text
    with h5py.File(folder / "proposals/val.h5", "r+") as file:
        file.attrs["edges"] = "structured:abc"
    shutil.rmtree(folder / "predictions")
    shutil.rmtree(folder / "scores")
    assert infer(folder, "--split", "train") == 0
    assert "val.h5 was made with edges structured:abc, this is gradient-v1" in caplog.text


@pytest.mark.slow
def test_damaged_files_of_the_run(folder: Path, voc: Path, capsys) -> None:
    """Each is one line that names the file; what else was made stays."""
    assert infer(folder) == 0
    scores = sorted(folder.glob("scores/val/*/*.h5"))
    assert len(scores) == 5
    predictions = folder / "predictions/val/deconvnet-max"
    with h5py.File(scores[2]) as file:
        made_of = file.attrs["image"]
    for damage in (scores[2].read_bytes()[:700], b"", b"nonsense" * 50):
        scores[2].write_bytes(damage)
        shutil.rmtree(predictions)
        capsys.readouterr()
        refused(capsys, infer(folder), 1, scores[2], "cut short or damaged", "remove it")
        assert len(pngs(predictions)) == 2
    with h5py.File(scores[2], "w") as file:
        file["scores"] = np.zeros((21, 3, 4), np.float16)
        file.attrs["image"] = made_of
    refused(capsys, infer(folder), 1, scores[2], "(21, 3, 4)", "remove it")
    scores[2].unlink()
    assert infer(folder) == 0 and len(pngs(predictions)) == 5

    other_voc = generate(folder.parent / "voc", train=1, val=2, seed=1, side=96)
    other = RunFolder(folder.parent / "other", load_recipe("tiny", KEYS), other_voc)
    build_proposals(other, "val", None, 1, "stop")
    (folder / "proposals").mkdir()
    shutil.copy(other.proposals("val"), folder / "proposals" / "val.h5")
    capsys.readouterr()
    refused(capsys, infer(folder), 1, folder / "proposals" / "val.h5", "another data set")
    (folder / "proposals" / "val.h5").write_bytes(other.proposals("val").read_bytes()[:1000])
    refused(capsys, infer(folder), 1, folder / "proposals" / "val.h5", "cut short")


@pytest.mark.slow
def test_networks_that_do_not_fit(folder: Path, networks: Path, tmp_path: Path, capsys) -> None:
    wide = load_recipe("tiny", [*KEYS, "network.width=0.125"])
    save_network(build_network("deconvnet", wide), tmp_path / "wide.safetensors", "deconvnet", wide, "measured", {})
    refused(capsys, infer(folder, "--weights", tmp_path / "wide.safetensors"), 1, "wide.safetensors", "width = 0.125",
            "0.0625")
    recipe = load_recipe("tiny", KEYS)
    save_network(build_network("deconvnet", recipe), tmp_path / "fresh.safetensors", "deconvnet", recipe, "unmeasured",
                 {})
    refused(capsys, infer(folder, "--weights", tmp_path / "fresh.safetensors"), 1, "fresh.safetensors",
            "never measured", "stages.bn_statistics")
    refused(capsys, infer(folder, "--weights", networks / "fcn8s/network.safetensors"), 1, "of kind 'fcn8s'; expected",
            "'deconvnet'")
    refused(capsys, infer(folder, "--weights", tmp_path / "none.safetensors"), 2, "none.safetensors", "no such weights")
    (tmp_path / "text.safetensors").write_text("no network")
    refused(capsys, infer(folder, "--weights", tmp_path / "text.safetensors"), 1, "text.safetensors")
    (folder / "fcn8s/network.safetensors").unlink()
    refused(capsys, infer(folder, "--ensemble", "fcn"), 2, "fcn8s", "no such weights", "stages.train")
    refused(capsys, infer(folder, "--model", "fcn8s", "--ensemble", "fcn"), 2, "--model fcn8s")
    refused(capsys, infer(folder, "--split", "nowhere"), 2, "nowhere.txt", "no such split")
    refused(capsys, infer(folder, "--set", "network.width=0.5"), 2, "network.width", "another --run")
    refused(capsys, infer(folder, "--workers", "0", "--crf"), 2, "--workers")
    for model in ("deconvnet", "fcn8s"):  # the second one needs no boxes
        refused(capsys, infer(folder, "--model", model, "--edge-model", tmp_path / "none.yml.gz"), 2, "none.yml.gz")
    refused(capsys, infer(folder, "--fcn-weights", tmp_path / "none.safetensors"), 2, "no part", "--ensemble fcn")
    with pytest.raises(SystemExit):
        infer(folder, "--split", "val", "--images", tmp_path)
    assert not list(folder.glob("scores/**/*.h5")) and not pngs(folder / "predictions/val/deconvnet-max")


def test_label_maps_stay_until_better_ones_are_there(folder: Path, tmp_path: Path, capsys) -> None:
    """Weights that do not fit cost nothing; the same weights under another name are the same weights."""
    row = folder / "predictions/val/deconvnet-max"
    assert infer(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in row.glob("*.png")}
    wide = load_recipe("tiny", [*KEYS, "network.width=0.125"])
    save_network(build_network("deconvnet", wide), tmp_path / "wide.safetensors", "deconvnet", wide, "measured", {})
    capsys.readouterr()
    refused(capsys, infer(folder, "--weights", tmp_path / "wide.safetensors"), 1, "width = 0.125")
    shutil.copy(folder / "stage2/network.safetensors", tmp_path / "same.safetensors")
    assert infer(folder, "--weights", tmp_path / "same.safetensors") == 0
    assert {path: path.stat().st_mtime_ns for path in row.glob("*.png")} == before and len(before) == 5
    settings = json.loads((row / "settings.json").read_text())
    assert settings["recipe"]["infer.proposals"] == 5 and settings["recipe"]["runtime.precision"] == "fp32"
    (row / "settings.json").unlink()
    (row / "settings.json").mkdir()  # no reason to take the maps for others, of which none are known
    refused(capsys, infer(folder, "--set", "infer.proposals=1"), 1, "settings.json")
    assert {path: path.stat().st_mtime_ns for path in row.glob("*.png")} == before


@pytest.mark.slow
def test_label_maps_of_other_images_are_never_removed(folder: Path, voc: Path, tmp_path: Path, capsys) -> None:
    one, other = sorted((voc / "JPEGImages").glob("*"))[:2]
    out = tmp_path / "out"
    assert infer(folder, "--images", one, "--out", out) == 0
    capsys.readouterr()
    refused(capsys, infer(folder, "--images", other, "--out", out, "--set", "infer.proposals=2"), 2, "another --out")
    refused(capsys, infer(folder, "--out", out), 2, "another --out")
    assert infer(folder, "--images", other, "--out", out) == 0
    assert set(pngs(out / "deconvnet-max")) == {one.stem, other.stem}


def test_scores_that_are_not_finite_make_no_labels(folder: Path, voc: Path, capsys, monkeypatch) -> None:
    image = sorted((voc / "JPEGImages").glob("*"))[0]
    monkeypatch.setattr("deconvnet.inference.scoring.score_windows", lambda *_: torch.full((21, 9, 9), torch.nan))
    refused(capsys, infer(folder, "--images", image), 1, image.stem, "not finite")
    assert not pngs(folder / "labelled/deconvnet-max")


def test_images_of_ones_own(folder: Path, voc: Path, tmp_path: Path, capsys) -> None:
    """Files and folders, sizes of all kinds; as the split's where they are the same; overlays."""
    assert infer(folder) == 0
    files = sorted((voc / "JPEGImages").glob("*"))
    same = next(path for path in files if (folder / f"predictions/val/deconvnet-max/{path.stem}.png").exists())
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, size in {"long.png": (150, 20), "tiny.JPG": (9, 9), "plain.png": (64, 48)}.items():
        colours = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(colours if name != "plain.png" else np.full_like(colours, 90)).save(mine / name)
    (mine / "notes.txt").write_text("not an image")
    out = tmp_path / "labelled"
    assert infer(folder, "--images", same, mine, "--overlay", "--out", out, *MISSION[:4]) == 0
    row = out / "deconvnet-max-fcn"
    assert {name: labels_of(row / f"{name}.png").shape for name in ("long", "tiny", "plain")} == {
        "long": (20, 150), "tiny": (9, 9), "plain": (48, 64)}
    assert set(pngs(row)) == {"long", "tiny", "plain", same.stem}
    with Image.open(row / "overlays" / "plain.jpg") as picture:
        left = (picture.width - 64) // 2  # in the middle above its legend, which is wider
        assert left > 10 and picture.height > 48 + 10
        seen = np.array(picture)[:48, left : left + 64].astype(int)
    colours = np.where(labels_of(row / "plain.png")[..., None], 90 * 0.45 + 0.55 * voc_palette()[labels_of(
        row / "plain.png")], 90)
    line = cv2.dilate((seen.min(2) > 120).astype(np.uint8), np.ones((7, 7)))
    assert (line == 0).mean() > 0.3 and np.abs(seen - colours)[line == 0].mean() < 12  # JPEG
    assert infer(folder, "--images", same, "--out", out) == 0
    assert (labels_of(out / f"deconvnet-max/{same.stem}.png")
            == labels_of(folder / f"predictions/val/deconvnet-max/{same.stem}.png")).all()

    (tmp_path / "cut.jpg").write_bytes(same.read_bytes()[:1500])
    capsys.readouterr()
    refused(capsys, infer(folder, "--images", tmp_path / "cut.jpg", "--out", out), 1, tmp_path / "cut.jpg", "cut short",
            "--on-error skip")
    (tmp_path / "empty").mkdir()
    shutil.copy(mine / "long.png", tmp_path / "empty.txt")
    refused(capsys, infer(folder, "--images", tmp_path / "gone.jpg"), 2, "gone.jpg", "no such file or folder")
    refused(capsys, infer(folder, "--images", tmp_path / "empty"), 2, "no images in it")
    (tmp_path / "again").mkdir()
    shutil.copy(mine / "long.png", tmp_path / "again" / "long.png")
    refused(capsys, infer(folder, "--images", mine, tmp_path / "again"), 2, "same name", "long.png")
    for option in ("--recursive", "--probabilities", "--on-error=skip"):
        refused(capsys, infer(folder, option), 2, option.partition("=")[0], "--images alone")


def test_images_need_no_data_set(tmp_path: Path, voc: Path, networks: Path, monkeypatch) -> None:
    """A folder of one's own, weights by name, a recipe: no VOC folder, no run before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECONVNET_VOC_ROOT", raising=False)
    image = sorted((voc / "JPEGImages").glob("*"))[0]
    save_recipe(load_recipe("tiny", KEYS), tmp_path / "mine.yaml")
    assert infer(tmp_path / "new", "--recipe", "mine.yaml", "--images", image, "--weights",
                 networks / "stage2/network.safetensors", "--fcn-weights", networks / "fcn8s/network.safetensors",
                 "--ensemble", "fcn") == 0
    assert (tmp_path / f"new/labelled/deconvnet-max-fcn/{image.stem}.png").is_file()
    assert not (tmp_path / "data").exists()
