"""stages.infer --images as its users run it: photographs of all kinds, folders, what cannot be used, labels.json."""

import json
import logging
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet import Segmenter
from deconvnet.data import photographs as said
from deconvnet.inference.label_records import LabelRecords
from tests.photographs import cases, heic, saved, smooth
from tests.stages.test_infer_command import (  # noqa: F401 (fixtures)
    as_process,
    folder,
    infer,
    labels_of,
    networks,
    pngs,
    refused,
    voc,
)

ALONE = ("--model", "fcn8s")


def record(row: Path) -> dict:
    return json.loads((row / "labels.json").read_text())


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with folders in it: what people have, and what is none of it."""
    place = tmp_path / "mine"
    for inside in ("summer/sea", ".thumbnails", "labelled"):
        (place / inside).mkdir(parents=True)
    for name in ("a.png", "summer/a.JPEG", "summer/sea/b.webp", ".thumbnails/c.png", "labelled/d.png", "._a.png"):
        Image.fromarray(smooth()).save(place / name)
    (place / "notes.txt").write_text("not an image")
    (place / "summer/cut.jpg").write_bytes(saved(Image.fromarray(smooth()), "JPEG")[:500])
    return place


@pytest.mark.slow
def test_every_format(folder: Path, tmp_path: Path, caplog) -> None:  # noqa: F811
    """Each as the picture that it shows is labelled; each conversion once in the log, and of each image in the file."""
    caplog.set_level(logging.INFO)
    found = cases()
    try:
        found += heic()
    except ImportError:
        pass
    for case in found:
        (tmp_path / "photos" / case[0].replace(".", "_")).mkdir(parents=True)
        (tmp_path / "photos" / case[0].replace(".", "_") / case[0]).write_bytes(case[1])
    assert infer(folder, *ALONE, "--images", tmp_path / "photos", "--recursive", "--out", tmp_path / "out") == 0
    told = [line for line in caplog.messages if "not mentioned again" in line]
    sentences = {sentence for case in found for sentence in case[3]}
    assert len(told) == len(sentences) and all(any(sentence in line for line in told) for sentence in sentences)
    row, segmenter = tmp_path / "out/fcn8s", Segmenter.from_run(folder, "fcn8s", device="cpu")
    images = record(row)["images"]
    assert len(images) == len(found)
    for name, _, seen, conversions, error in found:
        image_id = f"{name.replace('.', '_')}/{Path(name).stem}"
        assert images[image_id]["conversions"] == list(conversions)
        assert images[image_id]["size"] == images[image_id]["labelled_at"] == [seen.shape[1], seen.shape[0]]
        labels = labels_of(row / f"{image_id}.png")
        assert labels.shape == seen.shape[:2]
        if not error:
            np.testing.assert_array_equal(labels, segmenter(seen).labels)


def test_what_the_file_of_labels_says(folder: Path, voc: Path, tmp_path: Path) -> None:  # noqa: F811
    """Against the label maps and the probabilities that are written beside it; with and without the CRF."""
    with Image.open(sorted((voc / "JPEGImages").glob("*"))[2]) as small:
        (width, height), size = small.size, (5 * small.width, 5 * small.height)
        small.resize(size).save(tmp_path / "large.jpg", quality=95)
    for extra, name in ((ALONE, "fcn8s"), ((*ALONE, "--crf"), "fcn8s-crf")):
        began = time.perf_counter()
        assert infer(folder, *extra, "--images", tmp_path / "large.jpg", "--out", tmp_path / "out", "--probabilities",
                     "--overlay", "--set", f"infer.most_side={max(width, height)}") == 0
        row = tmp_path / "out" / name
        (image_id, one), = record(row)["images"].items()
        labels = labels_of(row / "large.png")
        assert image_id == "large" and one["path"] == str(tmp_path / "large.jpg") and labels.shape == size[::-1]
        assert one["size"] == list(size) and one["labelled_at"] == [width, height]
        assert one["conversions"] == [said.SHRUNK.format(max(width, height))]
        assert 0 < one["seconds"] < time.perf_counter() - began
        with np.load(row / "probabilities/large.npz") as kept:
            probabilities, classes = kept["probabilities"], [str(name) for name in kept["classes"]]
        assert classes == record(row)["classes"] and probabilities.dtype == np.float16
        assert probabilities.shape == (21, height, width) and np.abs(probabilities.sum(0, np.float64) - 1).max() < 5e-3
        smaller = probabilities.argmax(0)
        found = {classes[index]: int(index) for index in np.unique(labels)}
        assert {known: each["index"] for known, each in one["classes"].items()} == found and len(found) > 1
        areas = [each["pixels"] for each in one["classes"].values()]
        assert areas == sorted(areas, reverse=True)
        for each in one["classes"].values():
            assert each["pixels"] == (labels == each["index"]).sum()
            assert each["share"] == pytest.approx((labels == each["index"]).mean(), abs=1e-5)
            mean = probabilities[each["index"]][smaller == each["index"]].mean(dtype=np.float64)
            assert each["mean_probability"] == pytest.approx(mean, abs=2e-3)
        with Image.open(row / "overlays/large.jpg") as picture:
            assert picture.width >= width and picture.height > height


def test_folders(folder: Path, mine: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    """One level, or all of them; hidden files, other files and the results are none of it; each file once."""
    out = mine / "labelled"
    assert infer(folder, *ALONE, "--images", mine, "--out", out) == 0
    row = out / "fcn8s"
    assert {path.relative_to(row).as_posix() for path in row.rglob("*.png")} == {"a.png"}
    assert infer(folder, *ALONE, "--images", mine, mine / "a.png", mine / "summer/sea", "--recursive", "--on-error",
                 "skip", "--out", out) == 0
    assert {path.relative_to(row).as_posix() for path in row.rglob("*.png")} == {"a.png", "summer/a.png",
                                                                               "summer/sea/b.png"}
    assert set(record(row)["images"]) == {"a", "summer/a", "summer/sea/b"}
    assert list(record(row)["left_out"]) == [str(mine / "summer/cut.jpg")]
    (tmp_path / "deep/er").mkdir(parents=True)
    capsys.readouterr()
    refused(capsys, infer(folder, *ALONE, "--images", tmp_path / "deep"), 2, "no images in it", ".heic", "--recursive")
    refused(capsys, infer(folder, *ALONE, "--images", tmp_path / "deep", "--recursive"), 2, "no images in it")


def test_what_is_left_out_is_named(folder: Path, mine: Path, tmp_path: Path, capsys, caplog) -> None:  # noqa: F811
    """In the log, at the end, and in labels.json until it can be used; without --on-error skip nothing is begun."""
    caplog.set_level(logging.INFO)
    cut, out = mine / "summer/cut.jpg", tmp_path / "out"
    wanted = (*ALONE, "--images", mine, "--recursive", "--out", out)
    shutil.copy(mine / "summer/a.JPEG", mine / "summer/a.png")
    refused(capsys, infer(folder, *wanted), 2, "summer/a.png: same name as", "summer/a.JPEG")
    assert infer(folder, *wanted, "--on-error", "skip") == 0
    lines = [line for line in caplog.messages if line.startswith("left out: ")]
    assert len(lines) == 2 and str(cut) in lines[1] and "cut short" in lines[1] and "a.png: same name" in lines[0]
    assert f"1 of 5 images were left out; {out / 'fcn8s/labels.json'} names them" in caplog.text
    left_out = record(out / "fcn8s")["left_out"]
    assert set(left_out) == {str(cut), str(mine / "summer/a.png")} and "cut short" in left_out[str(cut)]
    (mine / "summer/a.png").unlink()
    refused(capsys, infer(folder, *wanted), 1, cut, "cut short", "--on-error skip")
    cut.write_bytes(saved(Image.fromarray(smooth()), "JPEG"))
    assert infer(folder, *wanted) == 0 and set(record(out / "fcn8s")["left_out"]) == {str(mine / "summer/a.png")}
    assert "summer/cut" in record(out / "fcn8s")["images"]
    report = (out / "fcn8s/report.html").read_text(encoding="utf-8")
    assert f"to look through in a browser: {out / 'fcn8s/report.html'}" in caplog.messages
    assert all(f'"name":"{name}"' in report for name in ("a", "summer/a", "summer/cut")) and "Left out: 1" in report
    (tmp_path / "only.jpg").write_bytes(b"nothing")
    capsys.readouterr()
    refused(capsys, infer(folder, *ALONE, "--images", tmp_path / "only.jpg", "--on-error", "skip", "--out", out), 1,
            "none of the 1 images could be used", "only.jpg")


def test_a_network_that_does_not_fit_leaves_no_image_out(folder: Path, mine: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    (tmp_path / "text.safetensors").write_text("no network")
    refused(capsys, infer(folder, "--weights", tmp_path / "text.safetensors", "--images", mine / "a.png", "--on-error",
                          "skip", "--out", tmp_path / "out"), 1, "text.safetensors")
    assert not record(tmp_path / "out/deconvnet-max")["left_out"]


@pytest.mark.slow
def test_killed_and_run_again(folder: Path, tmp_path: Path, caplog) -> None:  # noqa: F811
    """What is there is not made again, unless the photograph, or what is wanted of it, is another one."""
    caplog.set_level(logging.INFO)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(6):
        Image.fromarray(np.roll(smooth(), 5 * number, 1)).resize((320, 240)).save(photos / f"{number}.png")
    row = out / "deconvnet-max-crf"
    process = as_process(folder, "--crf", "--workers", "1", "--device", "cpu", "--images", photos, "--out", out)
    for _ in range(12_000):
        if len(pngs(row)) > 1:
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "run the same command again" in told
    first, known = pngs(row), set(record(row)["images"])
    assert 2 <= len(first) < 6 and known <= set(first) and len(known) >= len(first) - 1
    wanted = ("--crf", "--images", photos, "--out", out)
    assert infer(folder, *wanted) == 0
    assert f"{len(known)} of 6 label maps are there already" in caplog.text
    assert set(pngs(row)) == set(record(row)["images"]) == {*"012345"}
    assert {name: content for name, content in pngs(row).items() if name in first} == first

    caplog.clear()
    before = {path: path.stat().st_mtime_ns for path in row.glob("*.png")}
    assert infer(folder, *wanted) == 0 and "6 of 6 label maps are there already" in caplog.text
    assert "device:" not in caplog.text  # no network was opened
    assert {path: path.stat().st_mtime_ns for path in row.glob("*.png")} == before
    shutil.copy(photos / "1.png", photos / "0.png")
    (row / "3.png").unlink()
    caplog.clear()
    assert infer(folder, *wanted) == 0 and "4 of 6 label maps are there already" in caplog.text
    assert pngs(row)["3"] == first.get("3", pngs(row)["3"])
    np.testing.assert_array_equal(labels_of(row / "0.png"), labels_of(row / "1.png"))
    for more in ("--overlay", "--probabilities"):
        caplog.clear()
        assert infer(folder, *wanted, more) == 0 and "there already" not in caplog.text
        assert infer(folder, *wanted, more) == 0 and "6 of 6 label maps are there already" in caplog.text
    assert len(list(row.glob("overlays/*.jpg"))) == len(list(row.glob("probabilities/*.npz"))) == 6


def test_labels_json_never_tells_of_a_photograph_before(folder: Path, mine: Path, tmp_path: Path,  # noqa: F811
                                                        monkeypatch) -> None:
    """The photograph is replaced, and the command killed between its label map and its record."""
    wanted = (*ALONE, "--images", mine / "a.png", "--out", tmp_path / "out")
    row = tmp_path / "out/fcn8s"
    assert infer(folder, *wanted) == 0 and set(record(row)["images"]) == {"a"}
    Image.fromarray(np.rot90(smooth())[: smooth().shape[0] // 2].copy()).save(mine / "a.png")
    with monkeypatch.context() as killed:
        killed.setattr(LabelRecords, "add", lambda *_: 1 / 0)
        killed.setattr(LabelRecords, "__exit__", lambda *_: None)
        assert infer(folder, *wanted) == 1
    assert labels_of(row / "a.png").shape == Image.open(mine / "a.png").size[::-1] and not record(row)["images"]
    assert infer(folder, *wanted) == 0
    (found,) = record(row)["images"].values()
    labels = labels_of(row / "a.png")
    assert {one["index"]: one["pixels"] for one in found["classes"].values()} == {
        int(index): int((labels == index).sum()) for index in np.unique(labels)}


def test_another_working_size_is_another_way(folder: Path, mine: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    wanted = (*ALONE, "--images", mine / "a.png", "--out", tmp_path / "out")
    assert infer(folder, *wanted) == 0
    refused(capsys, infer(folder, *wanted, "--set", "infer.most_side=32"), 2, "made with other settings", "--out")


def test_a_damaged_file_of_labels(folder: Path, mine: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    wanted = (*ALONE, "--images", mine / "a.png", "--out", tmp_path / "out")
    assert infer(folder, *wanted) == 0
    for damage in (b"{", b"[]", b'{"images": {"a": 3}}'):
        (tmp_path / "out/fcn8s/labels.json").write_bytes(damage)
        refused(capsys, infer(folder, *wanted), 1, tmp_path / "out/fcn8s/labels.json", "damaged", "remove it")
    (tmp_path / "out/fcn8s/labels.json").unlink()
    assert infer(folder, *wanted) == 0 and set(record(tmp_path / "out/fcn8s")["images"]) == {"a"}


def test_names_that_are_no_text(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    odd = Path(str(tmp_path) + "/" + b"caf\xe9.png".decode(errors="surrogateescape"))
    try:
        Image.fromarray(smooth()).save(odd)
    except OSError:
        pytest.skip("the file system takes text alone")
    wanted = (*ALONE, "--images", odd, "--out", tmp_path / "out")
    assert infer(folder, *wanted) == 0 and infer(folder, *wanted) == 0
    assert list(record(tmp_path / "out/fcn8s")["images"]) == ["caf?"]


@pytest.mark.slow
def test_sizes_at_the_edge(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """One pixel high, one pixel in all, and long: shrunk to a row of 40 pixels."""
    for name, size in {"row": (90, 1), "dot": (1, 1), "long": (4000, 8)}.items():
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
        assert infer(folder, "--ensemble", "fcn", "--crf", "--images", tmp_path / f"{name}.png", "--out",
                     tmp_path / "out", "--overlay", "--set", "infer.most_side=40") == 0
        assert labels_of(tmp_path / f"out/deconvnet-max-fcn-crf/{name}.png").shape == size[::-1]
