"""Recall of proposals against a loop over pixels, and the command on a folder made here."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.proposal_recall import best_so_far, main, parse
from stages.cli import run_command


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corners = np.sort(random.integers(0, 12, (count, 2, 2)), 1)
    corners[:, 1] += 1
    return corners.reshape(count, 4).astype(np.int32)


@given(st.integers(0, 4), st.integers(0, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_best_so_far_equal_a_count_of_pixels(objects: int, boxes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    truths, proposals, counts = random_boxes(random, objects), random_boxes(random, boxes), [1, 3, 100]
    table = best_so_far(truths, proposals, 100)
    assert table.shape == (objects, 100)
    found = table[:, [count - 1 for count in counts]]

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    for row, truth in enumerate(truths):
        for column, count in enumerate(counts):
            best = 0.0
            for box in proposals[:count]:
                best = max(best, len(pixels(truth) & pixels(box)) / len(pixels(truth) | pixels(box)))
            assert found[row, column] == pytest.approx(best, abs=1e-12)


def test_the_command_finds_a_plain_rectangle(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    image, mask = np.full((160, 200, 3), 40, np.uint8), np.zeros((160, 200), np.uint8)
    image[40:110, 50:130], mask[40:110, 50:130] = (220, 60, 30), 1
    Image.fromarray(image).save(tmp_path / "JPEGImages/one.png")
    Image.fromarray(mask).save(tmp_path / "SegmentationClass/one.png")
    Image.fromarray(mask).save(tmp_path / "SegmentationObject/one.png")
    (tmp_path / "ImageSets/Segmentation/all.txt").write_text("one\n")
    out = tmp_path / "recall.json"
    arguments = ["--voc-root", str(tmp_path), "--split", "all", "--boxes", "20,200", "--out", str(out)]
    assert run_command(parse(), main, arguments) == 0
    result = json.loads(out.read_text())
    assert result["recall"]["0.7"] == [1.0, 1.0] and result["data"]["objects"] == 1
    assert "gradient" in result["edge_detector"] and "IoU 0.5" in capsys.readouterr().out
    assert run_command(parse(), main, [*arguments, "--source", "grid"]) == 0
    result = json.loads(out.read_text())
    assert result["edge_detector"] == "none (grid)" and "--source grid" in result["command"] and "note" not in result
    assert result["recall"]["0.5"] == [0.0, 1.0]  # the 20 largest have more than twice its size


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command(parse(), main, ["--voc-root", str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit):
        run_command(parse(), main, ["--voc-root", str(tmp_path), "--boxes", "ten"])
    assert "expected at most 100 numbers of boxes" in capsys.readouterr().err
