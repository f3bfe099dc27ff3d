"""`python -m stages.build_proposals` as a real command on a small synthetic set: whole, killed, hindered."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from deconvnet.data.examples import WindowCrops
from deconvnet.data.row_files import read_rows, write_rows
from deconvnet.data.synthetic import generate
from deconvnet.data.voc import VocFolder
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.atomic import temporary_name
from deconvnet.support.errors import UserError
from proposals.build import build_windows
from proposals.edge_boxes import propose
from proposals.edges import GradientDetector
from tests.proposals.test_edges import write_forest

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 6, 2
SETTINGS = ("--recipe", "tiny", "--set", "proposals.count=200")
FILES = ["proposals/train.h5", "proposals/val.h5", "windows/stage1-train.h5", "windows/stage1-val.h5",
         "windows/stage2-train.h5", "windows/stage2-val.h5"]


def command(run: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "stages.build_proposals", "--run", str(run), *map(str, arguments)]


def build(run: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(run, *arguments), cwd=ROOT, capture_output=True, text=True, **options)


def last_line(stderr: str) -> str:
    return stderr.replace("\r", "\n").strip().splitlines()[-1]


def refused(result: subprocess.CompletedProcess, status: int, *words: object) -> None:
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    line = last_line(result.stderr)
    assert line.startswith("error: "), result.stderr
    for word in words:
        assert str(word) in line, line


def contents(path: Path) -> dict[str, object]:
    """Every dataset and attribute of an HDF5 file."""
    with h5py.File(path) as file:
        found: dict[str, object] = dict(file.attrs)
        for name, dataset in file.items():
            values = dataset[:]
            found[name] = [item.tobytes() for item in values] if values.dtype == object and name != "image_ids" else (
                values.dtype.str, values.shape, values.tobytes() if values.dtype != object else values.tolist())
    return found


def same(run: Path, whole: Path, files: list[str] = FILES) -> None:
    for name in files:
        assert contents(run / name) == contents(whole / name), name
    assert not list(run.rglob("*.parts")) and not list(run.rglob("*.part*"))


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("voc"), train=TRAIN, val=VAL, seed=1, side=96)


@pytest.fixture(scope="module")
def whole(voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, with crops."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = build(run, *SETTINGS, "--voc-root", voc_root, "--materialize", "--workers", 0)
    assert result.returncode == 0, result.stderr
    assert "edge detector: gradient" in result.stderr and "windows by class" in result.stderr
    return run


@pytest.fixture
def own_voc(voc_root: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be spoilt."""
    shutil.copytree(voc_root, tmp_path / "VOC2012")
    return tmp_path / "VOC2012"


def test_what_is_made(whole: Path, voc_root: Path) -> None:
    assert sorted(str(path.relative_to(whole)) for path in whole.rglob("*.h5")) == FILES
    voc = VocFolder(voc_root, load_recipe("tiny").data.classes)
    for split, count in (("train", TRAIN), ("val", VAL)):
        ids = (voc_root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        assert len(ids) == count
        proposals = read_rows(whole / "proposals" / f"{split}.h5", "proposals", voc.fingerprint(split))
        assert proposals.image_ids == ids and proposals.attributes["edges"] == "gradient-v1"
        stage1, stage2 = (read_rows(whole / "windows" / f"stage{stage}-{split}.h5", "windows") for stage in (1, 2))
        assert stage1.materialized and stage2.materialized
        for index, image_id in enumerate(ids):
            image = np.array(Image.open(voc_root / "JPEGImages" / f"{image_id}.jpg"))
            numbers = np.array(Image.open(voc_root / "SegmentationObject" / f"{image_id}.png"))
            classes = np.array(Image.open(voc_root / "SegmentationClass" / f"{image_id}.png"))
            assert proposals.sizes[index].tolist() == list(image.shape[:2])
            boxes, scores = propose(GradientDetector()(image), 200, 0.65, 0.75, 1.0, 0.01)
            np.testing.assert_array_equal(proposals.of_image(image_id)["boxes"], boxes)
            np.testing.assert_array_equal(proposals.of_image(image_id)["scores"], scores)
            expected = []
            for number in sorted(set(numbers.ravel().tolist()) - {0, 255}):
                ys, xs = np.nonzero(numbers == number)
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                if len(ys) >= 16:
                    expected.append((box, int(classes[ys[0], xs[0]])))
            rows = stage1.of_image(image_id)
            assert rows["box"].tolist() == [box for box, _ in expected]
            assert rows["class_index"].tolist() == [class_index for _, class_index in expected]
            both = stage2.of_image(image_id)
            np.testing.assert_array_equal(both["window"][: len(expected)], rows["window"])
            assert (both["source"] == [0] * len(expected) + [1] * (len(both["source"]) - len(expected))).all()
            assert len(both["source"]) <= len(expected) + 20 and (both["overlap"] >= 0.5).all()


def test_crops_in_the_file_equal_those_cut_while_training(whole: Path, voc_root: Path) -> None:
    recipe = load_recipe("tiny")
    voc = VocFolder(voc_root, recipe.data.classes)
    for stage in (1, 2):
        rows = read_rows(whole / "windows" / f"stage{stage}-train.h5", "windows")
        examples = WindowCrops(rows, voc, recipe, augment=False, seed=(0,))
        assert len(examples) >= TRAIN
        differ = 0
        for row in range(len(examples)):
            stored, made = examples._stored(row), examples.cut(row)
            np.testing.assert_array_equal(stored[0], made[0])
            np.testing.assert_array_equal(stored[1], made[1])
            differ += len(np.unique(made[1])) > 1
        assert differ


def test_the_second_time_all_is_there(whole: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in whole.rglob("*.h5")}
    result = build(whole, "--materialize", "--workers", 0)
    assert result.returncode == 0 and result.stderr.count("already complete") == len(FILES), result.stderr
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in whole.rglob("*.h5")} == before


@pytest.mark.slow
def test_other_settings_on_files_that_are_there(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    refused(build(whole, "--set", "windows.enlarge=1.5", "--workers", 0), 2, "windows.enlarge = 1.2", "1.5", "--run")
    refused(build(whole, "--recipe", "paper", "--workers", 0), 2, "not", "--run")
    refused(build(whole, "--workers", 0), 2, "stage1-train.h5", "materialize", "remove it")
    same(whole, tmp_path / "run")  # nothing was touched


def test_windows_of_other_proposals_are_not_taken(whole: Path, tmp_path: Path) -> None:
    """Proposals that were made anew, otherwise, under windows that were cut from the old ones."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with h5py.File(run / "proposals" / "train.h5", "a") as file:
        file.attrs["shaped_by"] = json.dumps(json.loads(file.attrs["shaped_by"]) | {"proposals.beta": 0.5})
    voc_root = Path(json.loads((run / "data.json").read_text())["voc_root"])
    opened = RunFolder(run, load_recipe(run / "recipe.yaml"), voc_root)
    with pytest.raises(UserError, match=r"stage2-train\.h5: was made with proposals\.beta = 0\.75, not 0\.5"):
        build_windows(opened, "train", 2, True, 0, "stop")


def interrupted(run: Path, arguments: tuple, when: Callable[[str], bool], send: Callable[[subprocess.Popen], None],
                log: Path) -> subprocess.Popen:
    """Starts the command in a process group of its own, as a shell does; calls `send` as soon as `when` holds."""
    with log.open("w") as stderr:
        process = subprocess.Popen(command(run, *arguments), cwd=ROOT, stderr=stderr, start_new_session=True)
        while process.poll() is None and not when(log.read_text()):
            time.sleep(0.001)
        if process.poll() is None:
            send(process)
        process.wait(60)
    return process


def some_parts(run: Path, folder: str = "*") -> list[Path]:
    return list(run.glob(f"{folder}/.*.parts/[!.]*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("stage_folder", ["proposals", "windows"])
def test_killed_and_run_again_is_as_if_never_killed(stage_folder: str, whole: Path, voc_root: Path,
                                                    tmp_path: Path) -> None:
    for attempt in range(5):  # the kill may come too late on a busy machine
        run = tmp_path / f"run{attempt}"
        arguments = (*SETTINGS, "--voc-root", voc_root, "--materialize", "--workers", 1)
        process = interrupted(run, arguments, lambda _, run=run: bool(some_parts(run, stage_folder)),
                              lambda process: os.killpg(process.pid, signal.SIGKILL), tmp_path / "log")
        if 0 < len(some_parts(run)) < TRAIN and len(list(run.glob("*/*.h5"))) == (stage_folder == "windows"):
            break
    kept = {path: path.stat().st_mtime_ns for path in some_parts(run)}
    assert kept and process.returncode == -signal.SIGKILL
    result = build(run, "--materialize", "--workers", 0)
    assert result.returncode == 0, result.stderr
    assert f"{len(kept)} of {TRAIN} images are already done" in result.stderr
    same(run, whole)


@pytest.mark.slow
def test_what_a_killed_writer_left_disturbs_nobody(whole: Path, voc_root: Path, tmp_path: Path) -> None:
    """SIGKILL while the file is put together leaves half a file of another name."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "proposals" / temporary_name(Path("train.h5"), 999999999)).write_bytes(b"half")
    (run / "proposals" / "val.h5").unlink()
    result = build(run, *SETTINGS, "--voc-root", voc_root, "--materialize")
    assert result.returncode == 0, result.stderr
    same(run, whole)


def test_ctrl_c_while_the_file_is_put_together(tmp_path: Path) -> None:
    """It waits for the image at work: HDF5 does not survive it. Nothing is left."""
    def parts() -> Iterator[dict[str, np.ndarray]]:
        for index in range(9):
            yield {"size": np.array([4, 5]), "boxes": np.zeros((2, 4), np.int32), "scores": np.zeros(2, np.float32)}
            taken.append(index)
            if index == 3:
                signal.raise_signal(signal.SIGINT)

    taken: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "train.h5", [str(index) for index in range(9)], parts(), {"format": "proposals"})
    assert taken == [0, 1, 2, 3] and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["workers start", "parts exist"])
def test_ctrl_c_is_one_line_and_130(moment: str, whole: Path, voc_root: Path, tmp_path: Path) -> None:
    for attempt in range(5):
        run = tmp_path / f"run{attempt}"
        arguments = (*SETTINGS, "--voc-root", voc_root, "--materialize", "--workers", 2)
        ready = {"workers start": lambda text: "edge detector" in text,
                 "parts exist": lambda _, run=run: bool(some_parts(run))}
        pause = 0.3 if moment == "workers start" else 0  # until they import their modules, which takes longer

        def ctrl_c(process: subprocess.Popen, pause: float = pause) -> None:
            time.sleep(pause)
            os.killpg(process.pid, signal.SIGINT)

        process = interrupted(run, arguments, ready[moment], ctrl_c, tmp_path / "log")
        if process.returncode:
            break
    text = (tmp_path / "log").read_text()
    assert process.returncode == 130, text
    assert "Traceback" not in text and "KeyboardInterrupt" not in text, text
    assert last_line(text).startswith("interrupted;") and text.count("interrupted") == 1, text
    result = build(run, "--materialize", "--workers", 0)
    assert result.returncode == 0, result.stderr
    same(run, whole)


@pytest.mark.slow
def test_workers_make_no_difference(whole: Path, voc_root: Path, tmp_path: Path) -> None:
    result = build(tmp_path / "run", *SETTINGS, "--voc-root", voc_root.parent, "--materialize", "--workers", 2,
                   "--split", "train")
    assert result.returncode == 0, result.stderr
    same(tmp_path / "run", whole, [name for name in FILES if "train" in name])


@pytest.mark.slow
def test_an_image_that_cannot_be_read(whole: Path, own_voc: Path, tmp_path: Path) -> None:
    path = own_voc / "JPEGImages" / "train_000003.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    arguments = (*SETTINGS, "--voc-root", own_voc, "--split", "train", "--materialize", "--workers", 0)
    stopped, skipped = tmp_path / "stopped", tmp_path / "skipped"
    refused(build(stopped, *arguments), 1, path, "image train_000003", "--on-error skip")
    assert {part.stem for part in some_parts(stopped)} == {f"train_{index:06d}" for index in range(3)}

    result = build(skipped, *arguments, "--on-error", "skip")
    assert result.returncode == 0, result.stderr
    assert f"skipped: {path}" in result.stderr and "1 images skipped" in result.stderr
    left = [f"train_{index:06d}" for index in range(TRAIN) if index != 3]
    for name in ("proposals/train.h5", "windows/stage2-train.h5", "windows/stage1-train.h5"):
        with h5py.File(skipped / name) as file:
            assert list(file["image_ids"].asstr()) == left
    with h5py.File(skipped / "windows/stage2-train.h5") as found, h5py.File(whole / "windows/stage2-train.h5") as full:
        first = full["first"][:]
        others = np.r_[0 : first[3], first[4] : first[-1]]
        np.testing.assert_array_equal(found["window"][:], full["window"][:][others])

    names = own_voc / "ImageSets" / "Segmentation" / "train.txt"
    listed = names.read_text()
    names.write_text("".join(f"{name}\n" for name in left))  # as docs/own_data.md says: it leaves the list too
    result = build(skipped, *arguments)
    assert result.returncode == 0 and result.stderr.count("already complete") == 3, result.stderr
    names.write_text("".join(f"{name}\n" for name in left[1:]))
    refused(build(skipped, *arguments), 1, "made for another data set, split list")
    names.write_text(listed)

    path.write_bytes(content)  # mended
    result = build(stopped, *arguments)
    assert result.returncode == 0 and "3 of 6 images are already done" in result.stderr, result.stderr
    same(stopped, whole, [name for name in FILES if "train" in name])


@pytest.mark.slow
def test_bad_masks_stop_it_by_name(own_voc: Path, tmp_path: Path) -> None:
    path = own_voc / "SegmentationClass" / "train_000001.png"
    mask = np.array(Image.open(path))
    Image.fromarray(mask[:-1]).save(path)
    arguments = (*SETTINGS, "--voc-root", own_voc, "--split", "train", "--stage", "1", "--workers", 0)
    refused(build(tmp_path / "run", *arguments), 1, path, "train_000001", "expected")
    path.unlink()
    refused(build(tmp_path / "run", *arguments), 1, path, "no such mask")


@pytest.mark.slow
def test_a_class_list_that_lacks_a_class_costs_nothing(own_voc: Path, tmp_path: Path) -> None:
    """It is told before the proposals are made, and leaving out every image that has the class is no advice."""
    path = own_voc / "SegmentationClass" / "train_000005.png"
    mask = np.array(Image.open(path))
    mask[:20, :20] = 21
    Image.fromarray(mask).save(path)
    for on_error in ("stop", "skip"):
        result = build(tmp_path / "run", *SETTINGS, "--voc-root", own_voc, "--split", "train", "--workers", 0,
                       "--on-error", on_error)
        refused(result, 1, path, "label 21 is above the last class, 20", "is the class list right?")
        assert "skip leaves" not in result.stderr and not list((tmp_path / "run").rglob("*.npz"))


@pytest.mark.slow
def test_wrong_use(voc_root: Path, tmp_path: Path) -> None:
    run, voc = tmp_path / "run", ("--voc-root", voc_root)
    refused(build(run, *voc, "--set", "windows.enlage=2"), 2, "windows.enlage", "windows.enlarge")
    refused(build(run, *voc, "--recipe", "tiny", "--split", "test"), 2, "test.txt", "train")
    refused(build(run, "--voc-root", tmp_path / "none"), 2, tmp_path / "none")
    refused(build(tmp_path / "other", *voc, "--recipe", "tiny", "--set", "proposals.edges=structured", "--workers", 0),
            2, "model.yml.gz", "proposals.edges=gradient")
    assert build(run, "--stage", "3").returncode == 2


@pytest.mark.slow
def test_masks_of_0_and_255_have_no_object(own_voc: Path, tmp_path: Path) -> None:
    """The usual binary mask: 255 is void here, so nothing would be left to train on."""
    for name in ("SegmentationObject", "Annotations"):
        shutil.rmtree(own_voc / name)
    for path in (own_voc / "SegmentationClass").glob("*.png"):
        with Image.open(path) as mask:
            labels = np.array(mask)
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(path)
    run = tmp_path / "run"
    refused(build(run, "--voc-root", own_voc, "--recipe", "tiny", "--set", "data.train_split=val", "--split", "val",
                  "--stage", "1"), 1, "stage1-val.h5", "no object in its masks", "255 is void")
    assert not (run / "windows/stage1-val.h5").exists()


def test_images_without_masks(whole: Path, own_voc: Path, tmp_path: Path) -> None:
    for name in ("SegmentationClass", "SegmentationObject", "Annotations"):
        shutil.rmtree(own_voc / name)
    lists = own_voc / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "test.txt")
    (lists / "val.txt").unlink()
    result = build(tmp_path / "run", *SETTINGS, "--voc-root", own_voc, "--split", "test", "--stage", "none",
                   "--workers", 0)
    assert result.returncode == 0, result.stderr
    found, full = contents(tmp_path / "run/proposals/test.h5"), contents(whole / "proposals/train.h5")
    assert found.pop("split") == b"test" and full.pop("split") == b"train"  # text of fixed length
    assert found == full
    assert not (tmp_path / "run" / "windows").exists()


def test_stage_1_needs_no_training_proposals(voc_root: Path, tmp_path: Path) -> None:
    result = build(tmp_path / "run", *SETTINGS, "--voc-root", voc_root, "--stage", 1, "--workers", 0)
    assert result.returncode == 0, result.stderr
    made = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.h5"))
    assert made == ["proposals/val.h5", "windows/stage1-train.h5", "windows/stage1-val.h5"]


@pytest.mark.slow
def test_a_structured_forest_goes_to_the_workers(voc_root: Path, tmp_path: Path) -> None:
    write_forest(tmp_path / "model.yml")
    result = build(tmp_path / "run", *SETTINGS, "--voc-root", voc_root, "--split", "val", "--stage", "none",
                   "--edge-model", tmp_path / "model.yml", "--workers", 1)
    assert result.returncode == 0, result.stderr
    edges = read_rows(tmp_path / "run" / "proposals" / "val.h5", "proposals").attributes["edges"]
    assert edges.startswith("structured:") and f"edge detector: {edges}" in result.stderr


def limited(size: int) -> Callable[[], None]:
    """For a child process: no file may grow beyond `size` bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_no_room_for_the_file(whole: Path, voc_root: Path, tmp_path: Path) -> None:
    """The parts fit, the file made of them does not: nothing is lost, and nothing half is left."""
    run = tmp_path / "run"
    arguments = (*SETTINGS, "--voc-root", voc_root, "--split", "train", "--stage", "none", "--workers", 0)
    size = (whole / "proposals" / "train.h5").stat().st_size
    result = build(run, *arguments, preexec_fn=limited(size - 4096))
    refused(result, 1, "disk is full")
    assert len(some_parts(run)) == TRAIN and not list(run.rglob("*.h5"))
    result = build(run, *arguments)
    assert result.returncode == 0 and f"{TRAIN} of {TRAIN} images are already done" in result.stderr, result.stderr
    same(run, whole, ["proposals/train.h5"])


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_disk_is_full(workers: int, whole: Path, voc_root: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    filler = small_disk / "filler"
    arguments = (*SETTINGS, "--voc-root", voc_root, "--split", "train", "--stage", "none", "--workers", workers)
    filler.write_bytes(b"\0" * 32 * 1024)
    refused(build(run, *arguments), 1, "disk is full", "free some space")
    kept = len(some_parts(run))
    assert 0 < kept < TRAIN
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    result = build(run, *arguments)
    assert result.returncode == 0 and f"{kept} of {TRAIN} images are already done" in result.stderr, result.stderr
    same(run, whole, ["proposals/train.h5"])
