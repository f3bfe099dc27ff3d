"""A picture or mask that changed under its name: what was made of it is made again or refused, never just used."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from deconvnet.data import contents
from deconvnet.data.contents import Contents
from deconvnet.data.synthetic import generate
from deconvnet.data.voc import VocFolder
from deconvnet.models.build import build_network
from deconvnet.models.network_files import save_network
from deconvnet.recipe_files import load_recipe, save_recipe
from proposals.build import ProposalWork
from stages import build_proposals, infer, train
from stages.cli import run_command
from tests.narrow import randomised

KEYS = ["network.width=0.0625", "network.input=32", "windows.warp=36", "train.batch=4", "train.micro_batch=4",
        "train.iterations=[2,2]", "train.validate_windows=4", "train.workers=0", "network.deconv_std=0",
        "bn_statistics.batches=1", "bn_statistics.batch=4", "proposals.count=40", "infer.proposals=3",
        "fcn.width=0.03125", "fcn.canvas=96", "fcn.iterations=[2,2,2]", "fcn.batch=2", "fcn.micro_batch=2",
        "fcn.validate_images=2"]
FILES = ["proposals/train.h5", "proposals/val.h5", "windows/stage1-train.h5", "windows/stage1-val.h5",
         "windows/stage2-train.h5", "windows/stage2-val.h5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """voc: a data set; run: its proposals and windows, and networks with random weights; packed: with crops."""
    folder = tmp_path_factory.mktemp("made")
    generate(folder / "data", train=4, val=3, seed=0, side=96)
    (folder / "data" / "VOC2012").rename(folder / "voc")
    recipe = load_recipe("tiny", KEYS)
    save_recipe(recipe, folder / "mine.yaml")
    build(folder, "run")
    build(folder, "packed", "--materialize")
    for kind, name in {"deconvnet": "stage2", "fcn8s": "fcn8s"}.items():
        save_network(randomised(build_network(kind, recipe), 0), folder / "run" / name / "network.safetensors", kind,
                     recipe, "measured", {})
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy to be changed: another folder, files of other times."""
    shutil.copytree(made, tmp_path / "own", copy_function=shutil.copyfile)
    for name in ("run", "packed"):
        (tmp_path / "own" / name / "data.json").write_text(json.dumps({"voc_root": str(tmp_path / "own" / "voc")}))
    return tmp_path / "own"


def command(module, run: Path, *arguments: object) -> int:
    """The command in this process: its exit status."""
    return run_command(module.parse(), module.main, ["--run", str(run), *map(str, arguments)])


def build(folder: Path, name: str, *arguments: object) -> None:
    assert command(build_proposals, folder / name, "--recipe", folder / "mine.yaml", "--voc-root", folder / "voc",
                   "--workers", 0, *arguments) == 0


def refused(capsys: pytest.CaptureFixture, status: int, *words: object) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(lines) == 1, (status, lines)
    for word in words:
        assert str(word) in lines[0], lines[0]


def repaint(path: Path) -> Path:
    """Changes a picture: other pixels, the same size in pixels, and in bytes and time as far as a user can tell."""
    before = path.stat()
    pixels = np.array(Image.open(path))
    Image.fromarray(pixels[::-1].copy()).save(path, quality=70)
    content = path.read_bytes()
    path.write_bytes(content + b"\0" * (before.st_size - len(content)))  # behind the picture's end: not read
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return path


def remask(path: Path) -> Path:
    """Moves an image's objects: its mask upside down."""
    with Image.open(path) as mask:
        pixels, palette = np.array(mask), mask.getpalette()
    turned = Image.fromarray(pixels[::-1].copy())
    turned.putpalette(palette)
    turned.save(path)
    return path


def everything(path: Path) -> dict[str, object]:
    """Every dataset of an HDF5 file."""
    with h5py.File(path) as file:
        return {name: [np.asarray(item).tobytes() for item in data[:]] for name, data in file.items()}


def maps(folder: Path) -> dict[str, bytes]:
    return {path.stem: np.array(Image.open(path)).tobytes() for path in folder.glob("*.png")}


# Hashes


def test_a_file_is_hashed_once_for_each_content(tmp_path, monkeypatch):
    read = []
    real = contents.hash_file
    monkeypatch.setattr(contents, "hash_file", lambda path: read.append(Path(path).name) or real(path))
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"first content")
    other.write_bytes(b"")

    def hashes() -> list[list[str]]:
        read.clear()
        return Contents(tmp_path / "kept.json").hashes([(str(one), str(other)), ("", str(tmp_path / "none"))]).tolist()

    def truth(content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=8).hexdigest().encode()

    assert hashes() == [[truth(b"first content"), truth(b"")], [b"", b""]] and read == ["one", "other"]
    assert hashes()[0][0] == truth(b"first content") and read == []
    os.utime(one, ns=(5, 5))
    assert hashes()[0][0] == truth(b"first content") and read == ["one"]
    one.write_bytes(b"other content")
    os.utime(one, ns=(5, 5))  # as cp -p and rsync do
    assert hashes()[0][0] == truth(b"other content") and read == ["one"]
    assert hashes()[0][0] == truth(b"other content") and read == []
    one.unlink()
    assert hashes() == [[b"", truth(b"")], [b"", b""]] and read == []
    for damage in ("", "{", "[]", '{"a": 1}', '{"files": {"a": [1]}}', "\xff"):
        (tmp_path / "kept.json").write_text(damage, encoding="latin-1")
        assert hashes()[0][1] == truth(b"") and read == ["other"]


def test_an_images_files_are_those_that_are_read(tmp_path):
    def touch(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

    touch("JPEGImages/a.jpg", "JPEGImages/a.png", "JPEGImages/b.png", "SegmentationClass/a.png",
          "SegmentationClassAug/a.png", "SegmentationClassAug/b.png", "SegmentationObjectAug/a.png",
          "Annotations/a.xml", "Annotations/b.xml")
    expected = [("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObjectAug/a.png"),
                ("JPEGImages/b.png", "SegmentationClassAug/b.png", "Annotations/b.xml"), ("", "", "")]
    found = VocFolder(tmp_path, ["background", "cat"]).files(["a", "b", "c"])
    assert found == [tuple(name and str(tmp_path / name) for name in names) for names in expected]


# Proposals and windows


@pytest.mark.slow
@pytest.mark.parametrize("change", ["picture", "mask", "mask gone"])
def test_build_proposals_makes_changed_images_again(own, change, caplog):
    """And no others: what comes out is what a build of the changed data set from the start makes."""
    caplog.set_level(logging.INFO)
    image_id = "train_000002"
    path = own / "voc" / {"picture": f"JPEGImages/{image_id}.jpg", "mask": f"SegmentationClass/{image_id}.png",
                          "mask gone": f"SegmentationObject/{image_id}.png"}[change]
    {"picture": repaint, "mask": remask, "mask gone": Path.unlink}[change](path)
    if change == "mask":  # else its objects would have no pixel of a class
        remask(own / "voc/SegmentationObject" / path.name)
    runs = {"run": (), "packed": ("--materialize",)}
    for run, more in list(runs.items())[: 1 + (change == "mask")]:
        caplog.clear()
        before = {name: everything(own / run / name) for name in FILES}
        build(own, run, *more)
        changed = [name for name in FILES if everything(own / run / name) != before[name]]
        assert changed == [name for name in FILES if "train" in name and (change == "picture" or "windows" in name)]
        assert caplog.text.count("1 of its 4 images have changed since it was made, first train_000002") == len(changed)
        assert caplog.text.count("3 of 4 images are already done") == len(changed)
        build(own, f"fresh-{run}", *more)
        for name in FILES:
            assert everything(own / run / name) == everything(own / f"fresh-{run}" / name), name
    assert not list(own.rglob("*.parts"))


@pytest.mark.slow
def test_an_image_that_changed_while_a_build_was_stopped(own, monkeypatch):
    """Its part is of the old one."""
    work = ProposalWork.__call__

    def stopped(self, image_id: str):
        if image_id == "train_000002":
            raise KeyboardInterrupt
        return work(self, image_id)

    shutil.rmtree(own / "run" / "proposals")
    monkeypatch.setattr(ProposalWork, "__call__", stopped)
    assert command(build_proposals, own / "run", "--workers", 0) == 130
    assert len(list(own.glob("run/proposals/.*.parts/*.npz"))) == 2
    repaint(own / "voc/JPEGImages/train_000001.jpg")
    monkeypatch.setattr(ProposalWork, "__call__", work)
    build(own, "run")
    build(own, "fresh")
    for name in FILES:
        assert everything(own / "run" / name) == everything(own / "fresh" / name), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_training_does_not_mix_old_windows_and_new_images(own, folder, capsys):
    suffix = "jpg" if folder == "JPEGImages" else "png"
    paths = [own / "voc" / folder / f"train_00000{index}.{suffix}" for index in (1, 3)]
    for path in paths:
        (repaint if suffix == "jpg" else remask)(path)
    refused(capsys, command(train, own / "run", "--stage", 1, "--device", "cpu"), own / "run/windows/stage1-train.h5",
            "2 of its 4 images have changed", f"first train_000001 ({paths[0]})", "build_proposals")
    assert not (own / "run" / "stage1").exists()
    if suffix == "jpg":
        assert command(train, own / "packed", "--stage", 1, "--device", "cpu") == 0  # needs no images
        build(own, "run")
        assert command(train, own / "run", "--stage", 1, "--device", "cpu") == 0


def test_a_copied_data_set_is_the_same_one(own, made, monkeypatch):
    """Other times: each file is read once, then known again."""
    read = []
    real = contents.hash_file
    monkeypatch.setattr(contents, "hash_file", lambda path: read.append(path) or real(path))
    assert command(train, own / "run", "--stage", 1, "--device", "cpu") == 0
    assert len(read) == len(set(read)) == 7 * 3  # image, class mask, object mask
    read.clear()
    assert command(train, own / "run", "--stage", 2, "--device", "cpu") in (0, 2)
    assert command(train, made / "run", "--stage", 1, "--device", "cpu") == 0
    assert read == []
    shutil.rmtree(made / "run" / "stage1")


def test_another_data_set_of_the_same_ids_and_sizes(own, tmp_path, capsys):
    generate(tmp_path / "other", train=4, val=3, seed=9, side=96)
    shutil.rmtree(own / "voc")
    (tmp_path / "other" / "VOC2012").rename(own / "voc")
    refused(capsys, command(train, own / "run", "--stage", 1, "--device", "cpu"), "4 of its 4 images have changed")
    refused(capsys, command(infer, own / "run", "--device", "cpu"), "val.h5", "3 of its 3 images have changed")


def test_other_lists_and_classes_are_told(own, capsys):
    recipe = load_recipe(own / "mine.yaml")
    classes = recipe.data.classes
    recipe.data.classes = [classes[0], classes[2], classes[1], *classes[3:]]
    save_recipe(recipe, own / "run" / "recipe.yaml")
    refused(capsys, command(train, own / "run", "--stage", 1), "another data set, split list or class list")
    refused(capsys, command(infer, own / "run", "--device", "cpu"), "another data set, split list or class list")
    refused(capsys, command(build_proposals, own / "run", "--workers", 0), "another data set, split list or class list")
    save_recipe(load_recipe(own / "mine.yaml"), own / "run" / "recipe.yaml")
    names = own / "voc/ImageSets/Segmentation/train.txt"
    names.write_text("\n".join(reversed(names.read_text().split())))
    refused(capsys, command(train, own / "run", "--stage", 1), "another data set, split list or class list")


def test_the_run_that_another_was_begun_from_is_not_written(own, capsys):
    new = own / "new"
    assert command(build_proposals, new, "--from", own / "run", "--workers", 0) == 0
    repaint(own / "voc/JPEGImages/val_000001.jpg")
    before = {path: path.stat().st_mtime_ns for path in (own / "run").rglob("*")}
    for module, more in ((build_proposals, ("--workers", 0)), (train, ("--stage", 1, "--device", "cpu"))):
        refused(capsys, command(module, new, *more), own / "run", "val_000001.jpg")
    assert {path: path.stat().st_mtime_ns for path in (own / "run").rglob("*")} == before
    assert sorted(path.name for path in new.iterdir()) == ["contents.json", "data.json", "recipe.yaml", "run.json"]


@pytest.mark.slow
def test_a_training_does_not_go_on_with_other_examples(own, capsys):
    """Windows made again after a picture changed; images and lists for FCN. A copy of the data set is no other."""
    run, more = own / "run", ("--device", "cpu", "--resume")
    fcn = ("--model", "fcn32s")
    for arguments in (("--stage", 1), fcn):
        assert command(train, run, *arguments, *more) == 0
    for path in (own / "voc").rglob("*.*"):
        path.touch()
    before = {name: (run / name / "last.pt").read_bytes() for name in ("stage1", "fcn32s")}
    for arguments, longer in ((("--stage", 1), "train.iterations=[3,2]"), (fcn, "fcn.iterations=[3,2,2]")):
        assert command(train, run, *arguments, *more, "--set", longer) == 0
    assert before != {name: (run / name / "last.pt").read_bytes() for name in before}

    repaint(own / "voc/JPEGImages/train_000001.jpg")
    assert command(build_proposals, run, "--workers", 0) == 0
    for arguments, name in ((("--stage", 1), "stage1"), (fcn, "fcn32s")):
        kept = (run / name / "last.pt").read_bytes()
        refused(capsys, command(train, run, *arguments, *more), run / name / "last.pt", "other windows or images",
                f"remove {run / name}")
        assert (run / name / "last.pt").read_bytes() == kept
    names = own / "voc/ImageSets/Segmentation/train.txt"
    shutil.rmtree(run / "fcn32s")
    assert command(train, run, *fcn, *more) == 0
    names.write_text("\n".join(names.read_text().split()[1:]))
    refused(capsys, command(train, run, *fcn, *more), "other windows or images")


# Scores and label maps


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--model", "fcn8s"), ("--ensemble", "fcn", "--overlay")])
def test_label_maps_of_changed_images_are_made_again(own, arguments, caplog):
    caplog.set_level(logging.INFO)
    run = own / "run"
    row = "fcn8s" if "fcn8s" in arguments else "deconvnet-max-fcn"
    folder = run / "predictions/val" / row
    shutil.rmtree(run / "proposals")  # made as they are needed
    assert command(infer, run, "--device", "cpu", *arguments) == 0
    before, times = maps(folder), {path.name: path.stat().st_mtime_ns for path in run.rglob("*.h5")}
    path = repaint(own / "voc/JPEGImages/val_000001.jpg")
    caplog.clear()
    assert command(infer, run, "--device", "cpu", *arguments) == 0
    assert "2 of 3 label maps are there already" in caplog.text
    fresh = own / "fresh"
    for name in ("stage2", "fcn8s"):
        shutil.copytree(run / name, fresh / name)
    shutil.copy(run / "recipe.yaml", fresh)
    assert command(infer, fresh, "--device", "cpu", "--voc-root", own / "voc", *arguments) == 0
    after = maps(folder)
    assert after == maps(fresh / "predictions/val" / row)
    assert {name for name, value in after.items() if value != before[name]} == {path.stem}
    changed = {one.name for one in run.rglob("*.h5") if one.stat().st_mtime_ns != times[one.name]}
    if "fcn8s" in arguments:
        assert changed == {"val_000001.h5"}

    smaller = np.array(Image.open(path))[:50]
    Image.fromarray(smaller).save(path)
    assert command(infer, run, "--device", "cpu", *arguments) == 0
    assert np.array(Image.open(folder / "val_000001.png")).shape == smaller.shape[:2]


def test_maps_and_scores_that_do_not_say_what_they_are_of_are_made_again(own):
    run = own / "run"
    assert command(infer, run, "--device", "cpu", "--model", "fcn8s") == 0
    folder = run / "predictions/val/fcn8s"
    (scores,) = run.glob("scores/val/*/val_000000.h5")
    before = maps(folder)
    with h5py.File(scores, "r+") as file:
        del file.attrs["image"]
        file["scores"][:] = 0
    png = folder / "val_000000.png"
    with Image.open(png) as picture:
        palette = picture.getpalette()
    plain = Image.fromarray(np.zeros((96, 96), np.uint8))
    plain.putpalette(palette)
    plain.save(png)
    assert command(infer, run, "--device", "cpu", "--model", "fcn8s") == 0
    assert maps(folder) == before and before["val_000000"] != np.zeros((96, 96), np.uint8).tobytes()
