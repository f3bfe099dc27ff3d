"""`python -m experiments.report`: what the page's data says, against numbers made by hand; what it refuses."""

import base64
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.conventions import VOC_CLASSES
from deconvnet.data.palette import voc_palette
from deconvnet.reporting.gallery import shares
from deconvnet.support.errors import UserError
from experiments.report import figures, main, parse
from stages.cli import run_command
from tests.report_run import BOXES, CLASS_OF, HOSTILE, IDS, SIZES, class_iou, make_run, object_labels


def report(*arguments: object) -> int:
    return run_command(parse(), main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    assert report(made) == 0
    return (made / "report/report.html").read_text(encoding="utf-8")


def gallery(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def picture(uri: str) -> Image.Image:
    kind, _, content = uri.partition(";base64,")
    assert kind.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_each_image_with_its_maps_scores_and_proposals(page: str) -> None:
    data = gallery(page)
    assert data["layers"] == ["truth", "FCN-8s", "DeconvNet"] and data["scored"] == [1, 2]
    assert [one["name"] for one in data["entries"]] == IDS
    for one in data["entries"]:
        name = one["name"]
        height, width = SIZES[name]
        assert one["size"] == [width, height] and picture(one["photograph"]).size == (width, height)
        label, area = CLASS_OF[name], 20 * 20 / (height * width)
        assert one["shows"] == {"0": pytest.approx(1 - area, abs=1e-4), str(label): pytest.approx(area, abs=1e-4)}
        assert one["boxes"] == BOXES.tolist()
        assert one["iou"][0] is None and one["class_iou"][0] == {}
        for layer, row in enumerate(("fcn8s", "deconvnet-max"), start=1):
            of_class = class_iou(row, name)
            union = height * width - 400 * 2 * of_class / (100 + of_class)  # background's: all but what is right
            background = 100 * (height * width - 800 + 400 * 2 * of_class / (100 + of_class)) / union
            assert one["class_iou"][layer] == {"0": pytest.approx(background, abs=0.06),
                                               str(label): pytest.approx(of_class, abs=0.06)}
            assert one["iou"][layer] == pytest.approx((of_class + background) / 2, abs=0.06)


def test_label_maps_lie_over_the_photograph(page: str) -> None:
    """In VOC's colours, at the right place, and clear where there is background."""
    for one in gallery(page)["entries"]:
        pixels = np.array(picture(one["maps"][0]).convert("RGBA"))
        labels = object_labels(one["name"], 0)
        assert (pixels[..., 3] == np.where(labels, 255, 0)).all()
        assert (pixels[labels > 0][:, :3] == voc_palette()[CLASS_OF[one["name"]]]).all()


def test_pictures_are_shrunk(made: Path, tmp_path: Path) -> None:
    assert report(made, "--side", 45, "--out", tmp_path / "small.html") == 0
    one = gallery((tmp_path / "small.html").read_text())["entries"][3]
    assert one["size"] == [45, 15] and {picture(uri).size for uri in [one["photograph"], *one["maps"]]} == {(45, 15)}
    assert one["boxes"] == [[2, 2, 12, 12], [0, 0, 15, 14], [1, 1, 4, 4]]  # halves, rounded to even


def test_the_page_asks_for_nothing(page: str) -> None:
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in unescape(page)
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(attributes)  # type: ignore[method-assign]
    parser.feed(page)
    addresses = [value for name, value in found if name in ("src", "href", "action", "srcset", "style", "data")]
    assert len(addresses) > 3 and all(value.startswith(("data:", "#")) for value in addresses)
    assert not [name for name, _ in found if name.startswith("on")]


def test_names_are_text(page: str) -> None:
    assert HOSTILE not in page and "onerror=alert(1)>" not in page and "<b>two" not in page and "<i>machine" not in page
    assert "&lt;script&gt;document.title=" in page and "a &lt;i&gt;machine&lt;/i&gt;" in page
    assert gallery(page)["classes"][2] == HOSTILE


def test_the_paper_is_of_another_task(tmp_path: Path) -> None:
    """With VOC's classes the paper's column stands beside this run's, under a sentence that says so."""
    run = make_run(tmp_path, VOC_CLASSES)
    assert report(run, "--subset-classes", "cat,dog") == 0
    page = unescape((run / "report/report.html").read_text())
    for sentence in ("The paper's column and this run's are different tasks", "how well the paper was reproduced"):
        assert sentence in page
    cells = re.search(r'<th scope="row">DeconvNet</th>(.*?)</tr>', page, re.DOTALL)[1]
    numbers = re.findall(r"<td(?: class=\"own\")?>([-+\d.]+)</td>", cells)
    metrics = json.loads((run / "predictions/val/deconvnet-max/metrics.json").read_text())
    own = 100 * metrics["mean_iou"]
    assert numbers[:3] == ["69.6", f"{own:.1f}", f"{own - 69.6:+.1f}"]
    assert "DeconvNet+CRF is not run: python -m stages.infer" in page and "Mean of 2: cat, dog." in page


def test_figures(made: Path, tmp_path: Path) -> None:
    """What experiments.figures lists, as PNG or SVG, whichever is smaller; else the sheet."""
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x" * 10)
    (folder / "a.svg").write_bytes(b"x" * 11)
    (folder / "b.svg").write_bytes(b"x")
    assert figures(tmp_path) == []
    (tmp_path / "sheet.png").write_bytes(b"y")
    assert [one["title"] for one in figures(tmp_path)] == ["Images, truth and label maps, evenly spaced in the split's "
                                                           "list"]
    listed = [{"name": "a", "title": "A", "caption": "c", "png": "a.png", "svg": "a.svg"},
              {"name": "curves", "title": "B", "caption": "", "png": "gone.png", "svg": "b.svg"}]
    (folder / "figures.json").write_text(json.dumps(listed))
    assert [(one["title"], one["uri"].partition(";")[0]) for one in figures(tmp_path)] == [
        ("A", "data:image/png"), ("B", "data:image/svg+xml")]
    for damaged in ("{", "{}", '[{"name": 1}]'):
        (folder / "figures.json").write_text(damaged)
        with pytest.raises(UserError, match="figures.json: damaged: .*run experiments.figures again"):
            figures(tmp_path)


def test_void_is_no_class() -> None:
    assert shares(np.array([[0, 255, 3, 3]], np.uint8)) == {3: 0.6667, 0: 0.3333}
    assert shares(np.full((2, 2), 255, np.uint8)) == {}


def test_without_scores_of_each_image(made: Path, tmp_path: Path) -> None:
    """As folders are that an earlier version scored."""
    run = shutil.copytree(made, tmp_path / "run")
    (run / "predictions/val/fcn8s/images.json").unlink()
    (run / "predictions/val/deconvnet-max/one.png").unlink()
    assert report(run) == 0
    data = gallery((run / "report/report.html").read_text())
    assert data["scored"] == [2] and data["entries"][0]["maps"][2] is None and data["entries"][0]["iou"][1] is None


@pytest.mark.parametrize(("options", "status", "message"), [
    (("--side", "31"), 2, "--side 31: expected 32 to 4096 pixels"), (("--out", "page.txt"), 2, "ends in .html"),
    (("--subset-classes", "zebra"), 2, "'zebra'"), (("--split", "none"), 2, "no predictions of this split"),
    (("--voc-root", "none"), 2, "none: no such folder"),
])
def test_errors_are_one_line(made: Path, options: tuple[str, ...], status: int, message: str, capsys) -> None:
    capsys.readouterr()
    assert report(made, *options) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_damaged_scores_are_named(made: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(made, tmp_path / "run")
    (run / "predictions/val/fcn8s/images.json").write_text("{}")
    assert report(run) == 1 and "fcn8s/images.json: damaged" in capsys.readouterr().err
