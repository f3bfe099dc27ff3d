"""The report of photographs, without a browser: shrunk pictures, the first of many, file names that are no text."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.data.palette import voc_palette, write_label_png
from deconvnet.reporting import photographs as reports
from deconvnet.reporting.photographs import SIDE, write_report
from deconvnet.reporting.pictures import labels_uri
from tests.report_run import CLASSES, photographs


def data(path: Path) -> dict:
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2])))


def test_large_ones_are_shrunk_and_small_ones_are_not(tmp_path: Path) -> None:
    folder, files, images = photographs(tmp_path)
    small, large = data(write_report(folder, files, images, CLASSES, {}, {}))["entries"]
    assert small["size"] == [60, 40] and large["size"] == [SIDE, SIDE * 2 // 3]
    for one, share in ((small, 0.25), (large, 0.5)):
        assert opened(one["photograph"]).size == opened(one["maps"][0]).size == tuple(one["size"])
        assert one["shows"] == {"0": 1 - share, "1": share} and one["notes"] == ["grey"] and one["iou"] == []
        assert np.array(opened(one["maps"][0]).convert("RGBA"))[..., 3].mean() == pytest.approx(255 * share)


def test_of_many_the_first_are_shown_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 1)
    folder, files, images = photographs(tmp_path)
    path = write_report(folder, files, images, CLASSES, {}, {})
    assert [one["name"] for one in data(path)["entries"]] == ["small"]
    assert "1 of 2 photographs are shown" in path.read_text()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = "caf\udce9"  # a file's name in Latin-1, as Python has it
    Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    write_label_png(tmp_path / f"labels/{name}.png", np.zeros((8, 8), np.uint8))
    images = {name: {"conversions": [], "classes": {}}}
    path = write_report(tmp_path / "labels", {name: tmp_path / f"{name}.png"}, images, CLASSES, {"File": name},
                        {name: name})
    assert len(data(path)["entries"]) == 1 and "caf?" in path.read_text(encoding="utf-8")


def test_every_colour_of_a_label_map_is_kept() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.array(opened(labels_uri(labels, 16)).convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., :3][labels > 0], voc_palette()[1:])
    assert pixels[0, 0, 3] == 0 and (pixels[..., 3][labels > 0] == 255).all()


def test_shrunk_labels_are_labels_of_the_map() -> None:
    """Those in the middle of each picture's pixel: a mixture of two labels would be a third."""
    labels = np.random.default_rng(0).choice([0, 7, 200], (30, 60)).astype(np.uint8)
    pixels = np.array(opened(labels_uri(labels, 20)).convert("RGBA"))
    expected = labels[1::3, 1::3]
    np.testing.assert_array_equal(pixels[..., :3][expected > 0], voc_palette()[expected[expected > 0]])
    np.testing.assert_array_equal(pixels[..., 3] > 0, expected > 0)
