"""`python -m stages.evaluate` as a real command, on a small VOC-layout folder."""

import csv
import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.evaluation.scoring import SCORE_FILES, read_class_list
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["background", "cat", "dog"]
TRUTH = {
    "b": np.array([[0, 0, 1], [1, 2, 255]], np.uint8),
    "a": np.array([[0, 0], [2, 2], [2, 255]], np.uint8),
}
PREDICTED = {
    "b": np.array([[0, 1, 1], [1, 0, 2]], np.uint8),
    "a": np.array([[0, 0], [2, 2], [0, 1]], np.uint8),
}


def evaluate(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stages.evaluate", *map(str, arguments)]
    without = {name: value for name, value in os.environ.items() if not name.startswith("DECONVNET")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=without | environment)


def refused(result: subprocess.CompletedProcess, status: int, *words: str) -> None:
    assert result.returncode == status, result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path, list[object]]:
    """VOC folder, predictions folder, and the command's arguments for them."""
    voc, predictions = tmp_path / "voc", tmp_path / "predictions"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("val", "test"):
        prefix = "t" if split == "test" else ""
        names = [prefix + name for name in TRUTH]
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name, truth in TRUTH.items():
            Image.fromarray(np.full((*truth.shape, 3), 90, np.uint8)).save(voc / "JPEGImages" / f"{prefix}{name}.jpg")
            write_label_png(predictions / f"{prefix}{name}.png", PREDICTED[name])
    for name, truth in TRUTH.items():  # the test split has no masks
        write_label_png(voc / "SegmentationClass" / f"{name}.png", truth)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return voc, predictions, ["--voc-root", voc, "--predictions", predictions, "--classes", tmp_path / "classes.txt"]


def test_scores_a_folder(case: tuple[Path, Path, list[object]]) -> None:
    _, predictions, arguments = case
    Image.fromarray(PREDICTED["a"]).save(predictions / "a.png")  # a plain index PNG is read too
    result = evaluate(*arguments, "--split", "val", "--subset-classes", "cat, dog")
    assert result.returncode == 0, result.stderr
    # counted by hand: rows are true background, cat, dog
    metrics = json.loads((predictions / "metrics.json").read_text())
    assert metrics["confusion"] == [[3, 1, 0], [0, 2, 0], [2, 0, 2]]
    assert metrics["split"] == "val" and metrics["images"] == 2 and metrics["pixels"] == 10
    assert metrics["classes"] == CLASSES
    assert metrics["class_iou"] == pytest.approx({"background": 3 / 6, "cat": 2 / 3, "dog": 2 / 4}, abs=1e-12)
    assert metrics["pixel_accuracy"] == pytest.approx(7 / 10, abs=1e-12)
    assert metrics["mean_accuracy"] == pytest.approx((3 / 4 + 1 + 2 / 4) / 3, abs=1e-12)
    assert metrics["mean_iou"] == pytest.approx((3 / 6 + 2 / 3 + 2 / 4) / 3, abs=1e-12)
    assert metrics["frequency_weighted_iou"] == pytest.approx((4 * 3 / 6 + 2 * 2 / 3 + 4 * 2 / 4) / 10, abs=1e-12)
    assert metrics["subset"] == {"classes": ["cat", "dog"], "mean_iou": pytest.approx((2 / 3 + 2 / 4) / 2)}
    table = [line.split() for line in result.stdout.splitlines()]
    for line in (["pixel", "accuracy", "70.00"], ["mean", "accuracy", "75.00"], ["mean", "IoU", "55.56"],
                 ["frequency", "weighted", "IoU", "53.33"], ["mean", "IoU", "of", "2", "58.33"], ["cat", "66.67"]):
        assert line in table
    printed = result.stdout.splitlines()
    assert len({len(line) for line in printed if line.endswith((".00", ".33", ".56", ".67"))}) == 1  # they line up
    assert printed[0] == "2 images, 10 labelled pixels; percent" and "IoU of each class" in map(str.strip, printed)
    assert sorted(path.name for path in predictions.iterdir()) == [
        "a.png", "b.png", "images.csv", "images.json", "metrics.json", "ta.png", "tb.png"]


def test_each_image_by_itself_against_a_loop(tmp_path: Path) -> None:
    """Random label maps, pixel by pixel in plain Python; one image is of void alone."""
    random = np.random.default_rng(0)
    voc, predictions, classes = tmp_path / "voc", tmp_path / "predictions", ["background", "id", "cat", "dog", "cow"]
    ids, expected = [f"{number:02}" for number in random.permutation(6)], {}
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "JPEGImages").mkdir()
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(ids) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(classes) + "\n")
    for number, name in enumerate(ids):
        occurring = random.choice(4, 3, replace=False)  # never a cow
        truth = random.choice([*occurring, 255], (5, 7)).astype(np.uint8)
        truth = np.full_like(truth, 255) if number == 2 else truth
        predicted = random.choice(4, truth.shape).astype(np.uint8)  # one of them is not in the truth
        Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(voc / "JPEGImages" / f"{name}.png")
        write_label_png(voc / "SegmentationClass" / f"{name}.png", truth)
        write_label_png(predictions / f"{name}.png", predicted)
        pairs = [(int(a), int(b)) for a, b in zip(truth.ravel(), predicted.ravel(), strict=True) if a != 255]
        iou = []
        for label in range(len(classes)):
            either = [pair for pair in pairs if label in pair]
            iou.append(sum(pair == (label, label) for pair in either) / len(either) if either else None)
        found = [value for label, value in enumerate(iou) if label in [true for true, _ in pairs]]
        expected[name] = [sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
                          sum(found) / len(found) if found else None, *iou]
    done = evaluate("--voc-root", voc, "--predictions", predictions, "--classes", tmp_path / "classes.txt")
    assert done.returncode == 0, done.stderr
    with (predictions / "images.csv").open(newline="") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["id", "pixel_accuracy", "mean_iou", *classes] and [line[0] for line in lines] == ids
    told = json.loads((predictions / "images.json").read_text())
    assert told["split"] == "val" and [one["id"] for one in told["images"]] == ids
    own = [one[1] for one in expected.values() if one[1] is not None]
    mean = sum(own) / len(own)
    assert json.loads((predictions / "metrics.json").read_text())["image_mean_iou"] == pytest.approx(mean)
    assert ["images'", "own", "mean", "IoU", f"{100 * mean:.2f}"] in map(str.split, done.stdout.splitlines())
    for line, one in zip(lines, told["images"], strict=True):
        assert list(one["class_iou"]) == classes
        for found in ([float(cell) if cell else None for cell in line[1:]],
                      [one["pixel_accuracy"], one["mean_iou"], *one["class_iou"].values()]):
            assert found == [value if value is None else pytest.approx(value, abs=1e-12) for value in expected[line[0]]]
    assert expected[ids[2]] == [None] * 7 and all(one[-1] is None for one in expected.values())


FOLDERS = ["deconvnet-max", "fcn8s"]


@pytest.fixture
def run(case: tuple[Path, Path, list[object]], tmp_path: Path) -> Path:
    """A run of the case's data set and classes, with three predictions: one of part of the images, of another split."""
    voc, predictions, _ = case
    run = tmp_path / "run"
    recipe = load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]", "data.val_split=seen"])
    save_recipe(recipe, run / "recipe.yaml")
    (run / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    for name in ("seen/deconvnet-max", "seen/fcn8s", "part/fcn8s"):
        for image_id in TRUTH if name != "part/fcn8s" else ["a"]:
            labels = PREDICTED[image_id] if name != "seen/fcn8s" else np.zeros_like(PREDICTED[image_id])
            write_label_png(run / "predictions" / name / f"{image_id}.png", labels)
    (run / "predictions" / "seen" / ".fcn8s.lock").touch()
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "part.txt").write_text("a\n")
    (lists / "val.txt").rename(lists / "seen.txt")
    return run


def accuracies(run: Path) -> dict[str, float]:
    """Pixel accuracy by folder, of what was scored; then it is removed."""
    found = {}
    for path in run.rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        assert metrics["classes"] == CLASSES and metrics["split"] == path.parts[-3]
        found["/".join(path.parts[-3:-1])] = metrics["pixel_accuracy"]
        for name in SCORE_FILES:
            path.with_name(name).unlink()
    return found


@pytest.mark.slow
def test_a_runs_predictions(run: Path, tmp_path: Path) -> None:
    """Data set, classes and split are the run's; one prediction by its name or its path, or all of a split."""
    maps, zeros = pytest.approx(0.7), pytest.approx(0.4)
    done = evaluate("--run", run)
    assert done.returncode == 0 and accuracies(run) == {"seen/deconvnet-max": maps, "seen/fcn8s": zeros}
    assert [line for line in done.stdout.splitlines() if line in FOLDERS] == FOLDERS
    assert evaluate(DECONVNET_RUN=str(run)).returncode == 0 and len(accuracies(run)) == 2
    for named in ("fcn8s", run / "predictions" / "seen" / "fcn8s"):
        done = evaluate("--run", run, "--predictions", named)
        assert done.returncode == 0 and accuracies(run) == {"seen/fcn8s": zeros} and "\nfcn8s\n" not in done.stdout
    assert evaluate("--run", run, "--split", "part").returncode == 0
    assert accuracies(run) == {"part/fcn8s": 0.8}
    (run / "data.json").unlink()
    voc = tmp_path / "voc"
    for options, environment in ((["--voc-root", voc], {}), ([], {"DECONVNET_VOC_ROOT": str(voc)})):
        assert evaluate("--run", run, *options, **environment).returncode == 0 and len(accuracies(run)) == 2


@pytest.mark.slow
def test_wrong_use_of_a_run_is_refused(run: Path, tmp_path: Path) -> None:
    refused(evaluate("--run", tmp_path / "none"), 2, "none", "not a run folder")
    refused(evaluate("--run", run, "--predictions", "segnet"), 2, "segnet", "deconvnet-max, fcn8s")
    refused(evaluate("--run", run, "--split", "test"), 2, "predictions/test", f"stages.infer --run {run}")
    refused(evaluate("--run", run, "--split", "../val"), 2, "'../val'")
    refused(evaluate("--run", run, "--comp6", tmp_path / "x.tgz"), 2, "--predictions", "deconvnet-max, fcn8s")
    folder = run / "predictions" / "seen" / "fcn8s"
    (folder / "b.png").unlink()
    refused(evaluate("--run", run), 1, "fcn8s/b.png", "1 of the split's 2")
    (folder / "settings.json").write_text(json.dumps({"classes": ["background", "cow"]}))
    refused(evaluate("--run", run, "--predictions", "fcn8s"), 1, "background, cow", "background, cat, dog")
    (run / "data.json").unlink()
    refused(evaluate("--run", run, "--predictions", "deconvnet-max"), 2, "--voc-root")
    assert not accuracies(run)


def test_another_split_and_no_subset_unless_asked_for(case: tuple[Path, Path, list[object]]) -> None:
    voc, predictions, arguments = case
    (voc / "ImageSets" / "Segmentation" / "part.txt").write_text("a\n")
    assert evaluate(*arguments, "--split", "part").returncode == 0
    metrics = json.loads((predictions / "metrics.json").read_text())
    assert "subset" not in metrics and metrics["split"] == "part" and metrics["images"] == 1


def test_vocs_classes_are_the_default_and_background_alone_is_said_loudly(case) -> None:
    _, predictions, arguments = case
    for name, labels in PREDICTED.items():
        write_label_png(predictions / f"{name}.png", np.zeros_like(labels))
    result = evaluate(*arguments[:4])
    assert result.returncode == 0 and "every scored pixel is predicted background" in result.stderr
    metrics = json.loads((predictions / "metrics.json").read_text())
    assert len(metrics["classes"]) == 21 and metrics["class_iou"]["tvmonitor"] is None
    assert ["tvmonitor", "-"] in [line.split() for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_classes_come_with_the_predictions_of_infer(case, tmp_path) -> None:
    """Own classes scored as VOC's would be numbers under wrong names."""
    voc, predictions, arguments = case
    (predictions / "settings.json").write_text(json.dumps({"settings": {}, "classes": CLASSES}))
    result = evaluate(*arguments[:4], "--split", "val")
    assert result.returncode == 0, result.stderr
    assert json.loads((predictions / "metrics.json").read_text())["classes"] == CLASSES
    (predictions / "settings.json").write_text("{")
    refused(evaluate(*arguments[:4], "--split", "val"), 1, "settings.json", "damaged")


@pytest.mark.slow
def test_missing_predictions_are_named_and_counted(case: tuple[Path, Path, list[object]]) -> None:
    _, predictions, arguments = case
    (predictions / "b.png").unlink()
    refused(evaluate(*arguments), 1, "b.png", "1 of the split's 2")
    (predictions / "a.png").unlink()
    refused(evaluate(*arguments), 1, "b.png", "2 of the split's 2")
    assert not (predictions / "metrics.json").exists()


@pytest.mark.slow
def test_wrong_predictions_and_masks_are_refused(case: tuple[Path, Path, list[object]]) -> None:
    voc, predictions, arguments = case
    write_label_png(predictions / "a.png", PREDICTED["a"].T)
    refused(evaluate(*arguments), 1, "a.png", "3x2; expected 2x3")
    write_label_png(predictions / "a.png", np.full((3, 2), 3, np.uint8))
    refused(evaluate(*arguments), 1, "a.png", "label 3")
    Image.fromarray(np.zeros((3, 2, 3), np.uint8)).save(predictions / "a.png")
    refused(evaluate(*arguments), 1, "a.png", "RGB")
    (predictions / "a.png").write_bytes(b"not a picture")
    refused(evaluate(*arguments), 1, "a.png")
    write_label_png(predictions / "a.png", PREDICTED["a"])
    write_label_png(voc / "SegmentationClass" / "a.png", np.full((3, 2), 7, np.uint8))
    refused(evaluate(*arguments), 1, "SegmentationClass", "a.png", "label 7")
    (voc / "SegmentationClass" / "a.png").unlink()
    refused(evaluate(*arguments), 1, "a.png", "no such mask")
    assert not (predictions / "metrics.json").exists()


def test_class_lists_are_text(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    for text in (b"background\nc\xe9l\n", b"background\n" + b"x" * 300, b"background\nc\0t\n", b"background\n"):
        path.write_bytes(text)
        with pytest.raises(UsageError, match="classes.txt: expected a text file .UTF-8. of 2 to 255 different"):
            read_class_list(path)
    path.write_bytes(b"\xef\xbb\xbfbackground\nc\xc3\xa9l\n")  # a byte order mark is no part of a name
    assert read_class_list(path) == ["background", "c\u00e9l"]


@pytest.mark.slow
def test_wrong_use_is_refused(case: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    _, predictions, arguments = case
    refused(evaluate(*arguments, "--split", "nowhere"), 2, "nowhere.txt", "val")
    refused(evaluate(*arguments[:2], "--predictions", tmp_path / "none"), 2, "none", "no such folder")
    refused(evaluate(*arguments, "--subset-classes", "cat,zebra"), 2, "'zebra'")
    refused(evaluate(*arguments, "--comp6", tmp_path / "out.zip"), 2, "out.zip", ".tgz")
    refused(evaluate(*arguments, "--classes", tmp_path / "none.txt"), 2, "none.txt", "no such class list")
    (tmp_path / "classes.txt").write_text("background\ncat\ncat\n")
    refused(evaluate(*arguments), 2, "classes.txt", "different class names")
    refused(evaluate(*arguments[:4], "--split", "test"), 1, "no such mask")


def test_comp6_archive(case: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    _, predictions, arguments = case
    Image.fromarray(PREDICTED["a"]).save(predictions / "ta.png")  # grey: the archive has it with the palette
    archive = tmp_path / "new" / "comp6.tgz"
    result = evaluate(*arguments, "--split", "test", "--comp6", archive)
    assert result.returncode == 0 and result.stderr == ""
    assert "no masks" in result.stdout and not (predictions / "metrics.json").exists()
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/t{name}.png" for name in TRUTH]
        for name, member in zip(TRUTH, tar.getmembers(), strict=True):
            picture = Image.open(tar.extractfile(member))
            assert picture.mode == "P" and picture.format == "PNG"
            assert np.array_equal(np.array(picture), PREDICTED[name])
            assert picture.getpalette()[: 3 * 21] == voc_palette()[:21].ravel().tolist()
            assert member.isfile() and member.mtime == 0 and member.mode == 0o644
    again = tmp_path / "other.tgz"
    assert evaluate(*arguments, "--split", "test", "--comp6", again).returncode == 0
    assert again.read_bytes() == archive.read_bytes() and gzip.decompress(again.read_bytes())


def test_comp6_with_masks_scores_too(case: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    _, predictions, arguments = case
    assert evaluate(*arguments, "--comp6", tmp_path / "val.tgz").returncode == 0
    assert (tmp_path / "val.tgz").is_file() and (predictions / "metrics.json").is_file()


def test_comp6_is_whole_or_not_at_all(case: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    _, predictions, arguments = case
    folder = tmp_path / "out"
    write_label_png(predictions / "ta.png", PREDICTED["a"].T)  # the second of the two
    refused(evaluate(*arguments, "--split", "test", "--comp6", folder / "x.tgz"), 1, "ta.png", "3x2; expected 2x3")
    write_label_png(predictions / "ta.png", np.full((3, 2), 3, np.uint8))
    refused(evaluate(*arguments, "--split", "test", "--comp6", folder / "x.tgz"), 1, "ta.png", "label 3")
    assert list(folder.iterdir()) == []
