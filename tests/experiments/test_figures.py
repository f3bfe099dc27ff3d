"""The sheet and the training curves: what is where in the PNG, which images, and the command's errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments.figures import main, parse
from experiments.pictures.sheet import SheetRow, evenly_spaced, sheet
from experiments.pictures.style import save
from experiments.pictures.training import curves, read_log, read_logs
from stages.cli import run_command

CLASSES = ["background", "cat", "dog", "cow"]
LOG = "iteration,rate,loss,pixel_accuracy,validation_loss,validation_accuracy,validation_mean_iou,images_per_second\n"


def figures(*arguments: object) -> int:
    return run_command(parse(), main, list(map(str, arguments)))


def sheet_of(*arguments: object) -> int:
    return figures(*arguments, "--only", "sheet")


def colours(path: Path) -> dict[tuple[int, int, int], np.ndarray]:
    """The columns of pixels in which each colour occurs."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    flat, inverse = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True)
    columns = np.tile(np.arange(picture.shape[1]), picture.shape[0])
    return {tuple(map(int, colour)): columns[inverse.ravel() == index] for index, colour in enumerate(flat)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of six flat images with a truth, two rows of predictions, no logs."""
    voc, run = tmp_path / "VOC2012", tmp_path / "run"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    ids = [f"{number:02d}" for number in range(6)]
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(ids) + "\n")
    for image_id in ids:
        Image.fromarray(np.full((40, 60, 3), (250, 130, 10), np.uint8)).save(voc / f"JPEGImages/{image_id}.png")
        write_label_png(voc / f"SegmentationClass/{image_id}.png", np.full((40, 60), 1, np.uint8))
        for row, label in (("fcn8s", 2), ("deconvnet-max-fcn-crf", 3)):
            write_label_png(run / f"predictions/val/{row}/{image_id}.png", np.full((40, 60), label, np.uint8))
    save_recipe(load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]"]), run / "recipe.yaml")
    (run / "run.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    return run


def test_columns_stand_in_the_order_of_the_headings(tmp_path: Path) -> None:
    truth, *maps = (np.full((40, 60), label, np.uint8) for label in (1, 2, 3))
    labels = dict(zip(("FCN-8s", "DeconvNet"), maps, strict=True))
    rows = [SheetRow(name, np.full((40, 60, 3), (250, 130, 10), np.uint8), truth, labels, dict.fromkeys(labels, 0.5))
            for name in ("first", "second")]
    save(sheet(rows, CLASSES), tmp_path / "sheet.png")
    found, palette = colours(tmp_path / "sheet.png"), voc_palette()
    wide = Image.open(tmp_path / "sheet.png").width
    order = [(250, 130, 10), *(tuple(map(int, palette[label])) for label in (1, 2, 3))]
    for position, colour in enumerate(order):  # columns are equally wide; the legend's patches are few pixels
        assert len(found[colour]) > 0.5 * 2 * (wide / 4) * (wide / 4 * 40 / 60)
        assert np.median(found[colour]) == pytest.approx((position + 0.5) * wide / 4, abs=wide / 20)


def test_only_what_occurs_is_in_the_legend(tmp_path: Path) -> None:
    row = SheetRow("one", np.zeros((40, 60, 3), np.uint8), np.array([[1, 255]], np.uint8), {}, {})
    save(sheet([row], CLASSES), tmp_path / "sheet.png")
    found, palette = colours(tmp_path / "sheet.png"), voc_palette()
    assert tuple(map(int, palette[1])) in found and tuple(map(int, palette[255])) in found  # void in VOC's cream
    assert tuple(map(int, palette[2])) not in found


def test_the_command_leaves_out_rows_that_were_not_run(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert figures(run, "--images", "2", "--only", "sheet") == 0
    assert "2 of 6 images of val" in capsys.readouterr().out
    found, palette = colours(run / "report/sheet.png"), voc_palette()
    middles = [np.median(found[tuple(map(int, palette[label]))]) for label in (1, 2, 3)]
    wide = Image.open(run / "report/sheet.png").width
    assert middles == pytest.approx([1.5 * wide / 4, 2.5 * wide / 4, 3.5 * wide / 4], abs=wide / 20)
    first = (run / "report/sheet.png").read_bytes()
    assert figures(run, "--images", "01,04", "--only", "sheet") == 0
    assert (run / "report/sheet.png").read_bytes() == first  # 2 of 6 are these; the same pictures, the same bytes


def test_curves_are_a_figure_of_their_own(run: Path, tmp_path: Path) -> None:
    for name in ("stage1", "stage2", "fcn8s"):
        (run / name).mkdir()
        (run / name / "log.csv").write_text(LOG + "20,0.01,2.5,0.3,,,,90\n40,0.01,2.0,0.4,2.2,0.35,0.1,90\n")
    assert figures(run, "--only", "training", "--to", tmp_path / "pictures") == 0
    assert Image.open(tmp_path / "pictures/training.png").width > 900  # DeconvNet's and FCN's beside each other
    log = read_log(run / "stage1/log.csv")
    np.testing.assert_array_equal(log["validation_accuracy"], [np.nan, 0.35])
    assert log["loss"].tolist() == [2.5, 2.0]


def test_curves_show_what_the_logs_say(run: Path) -> None:
    """Stage 2 goes on where stage 1 ended; a dot is what was validated."""
    for name, loss, rate in (("stage1", 2.0, 0.1), ("stage2", 1.0, 0.01)):
        (run / name).mkdir()
        first, second = f"20,{rate},{loss},0.3,,,,90", f"40,{rate},{loss},0.4,2.25,0.35,0.1,90"
        (run / name / "log.csv").write_text(LOG + f"{first}\n{second}\n")
    axes = curves(read_logs(run, load_recipe("tiny"))).axes
    lines = [[(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.lines
              if line.get_linestyle() != ":" and len(line.get_xdata())] for axis in axes]
    assert lines[0] == [([20, 40], [2, 2]), ([40], [2.25]), ([60, 80], [1, 1]), ([80], [2.25])]
    assert lines[1] == [([20, 40], [0.3, 0.4]), ([40], [0.35]), ([60, 80], [0.3, 0.4]), ([80], [0.35])]
    assert lines[2] == [([20, 40], [0.1, 0.1]), ([60, 80], [0.01, 0.01])]


def test_another_split_and_aggregation(run: Path, capsys: pytest.CaptureFixture) -> None:
    lists = run.parent / "VOC2012/ImageSets/Segmentation"
    (lists / "part.txt").write_text("02\n")
    write_label_png(run / "predictions/part/deconvnet-sum-fcn-crf/02.png", np.full((40, 60), 2, np.uint8))
    write_label_png(run / "predictions/part/deconvnet-max-fcn-crf/02.png", np.full((40, 60), 3, np.uint8))
    for aggregate, label, other in (("sum", 2, 3), ("max", 3, 2)):
        assert figures(run, "--split", "part", "--aggregate", aggregate, "--only", "sheet") == 0
        assert "1 of 1 images of part" in capsys.readouterr().out
        found, palette = colours(run / "report/sheet.png"), voc_palette()
        assert tuple(map(int, palette[label])) in found and tuple(map(int, palette[other])) not in found


@given(st.integers(1, 60), st.integers(1, 70))
def test_images_are_evenly_spaced(total: int, count: int) -> None:
    ids = [str(number) for number in range(total)]
    chosen = [int(image_id) for image_id in evenly_spaced(ids, count)]
    assert len(chosen) == min(total, count) and chosen == sorted(set(chosen))
    steps = np.diff([-chosen[0] - 1, *chosen, 2 * total - chosen[-1] - 1])  # mirrored at both ends
    assert steps.max() - steps.min() <= 2


def test_errors_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(word: str, *arguments: object) -> None:
        assert figures(*arguments) != 0
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and word in err, err

    refused("run folder", tmp_path / "none")
    refused("'77'", run, "--images", "00,77")
    refused("expected 1 to 200 images", run, "--images", "0")
    refused(".png", run, "--out", tmp_path / "sheet.jpg")
    splits = run.parent / "VOC2012/ImageSets/Segmentation"
    (splits / "test.txt").write_text((splits / "val.txt").read_text())
    refused(f"stages.infer --run {run} --split test` makes them", run, "--split", "test")
    (run / "data.json").rename(run / "aside.json")
    refused("--voc-root", run)
    (run / "aside.json").rename(run / "data.json")
    (run / "predictions/val/fcn8s/03.png").unlink()
    refused("03.png", run, "--images", "03")
    (run / "stage1").mkdir()
    (run / "stage1/log.csv").write_text(LOG + "20,0.01,abc,,,,,\n")
    refused("log.csv", run, "--images", "00")
