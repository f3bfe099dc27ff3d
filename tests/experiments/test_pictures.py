"""The numbers behind the figures, held against explicit loops and hand-made examples; the list of the figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvnet.conventions import VOID
from deconvnet.data.palette import voc_palette
from deconvnet.data.palette import write_label_png as write_labels
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments.figures import main, parse
from experiments.pictures import FIGURES
from experiments.pictures.comparison import groups
from experiments.pictures.confusion import best_row, true_class_shares
from experiments.pictures.grid import GridRow, Panel, picture_grid
from experiments.pictures.style import DPI, ERRORS, coloured, errors, save
from stages.cli import run_command

CLASSES = ["background", "cat", "dog", "cow"]
ROWS = ("fcn8s", "deconvnet-max", "deconvnet-max-crf", "deconvnet-max-fcn", "deconvnet-max-fcn-crf")
IDS = [f"{number:02d}" for number in range(5)]
SIZE = (30, 40)


def figures(*arguments: object) -> int:
    return run_command(parse(), main, list(map(str, arguments)))


def labels_of(row: int, image: int) -> np.ndarray:
    """Row 0 is better in image 0, row 1 in image 1, the ensemble (rows 3, 4) in image 2; the rest are all right."""
    labels = np.where(truth_of(image) == VOID, 0, truth_of(image)).astype(np.uint8)
    labels[:, : {(0, 1): 20, (1, 0): 20, (0, 2): 25, (1, 2): 15}.get((row, image), 0)] = 0
    return labels


def truth_of(image: int) -> np.ndarray:
    """A cat, dog or cow in the middle, void around it."""
    truth = np.zeros(SIZE, np.uint8)
    truth[4:26, 4:36] = VOID
    truth[5:25, 5:35] = 1 + image % 3
    return truth


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of five images with all rows, no networks, no windows, no logs."""
    voc, run = tmp_path / "VOC2012", tmp_path / "run"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(IDS) + "\n")
    for image, image_id in enumerate(IDS):
        Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(voc / f"JPEGImages/{image_id}.png")
        write_labels(voc / f"SegmentationClass/{image_id}.png", truth_of(image))
        for row, name in enumerate(ROWS):
            write_labels(run / f"predictions/val/{name}/{image_id}.png", labels_of(row, image))
    save_recipe(load_recipe("tiny", [f"data.classes=[{','.join(CLASSES)}]"]), run / "recipe.yaml")
    (run / "run.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"voc_root": str(voc)}))
    return run


def mean_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Pixel by pixel: the mean over the classes that the truth has, without void."""
    shared, either = dict.fromkeys(range(len(CLASSES)), 0), dict.fromkeys(range(len(CLASSES)), 0)
    for one, true in zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if true != VOID:
            for label in {one, true}:
                either[label] += 1
            if one == true:
                shared[one] += 1
    return float(np.mean([shared[label] / either[label] for label in {*truth.ravel().tolist()} - {VOID}]))


@pytest.mark.slow
def test_what_is_there_is_drawn_and_listed(run: Path, capsys: pytest.CaptureFixture) -> None:
    """What needs networks, windows or logs is left out; the same run gives the same bytes."""
    assert figures(run) == 0
    folder = run / "report/figures"
    entries = json.loads((folder / "figures.json").read_text())
    names = [one["name"] for one in entries]
    assert names == [name for name in FIGURES if name in ("comparison", "class_iou", "confusion")]
    for one in entries:
        assert set(one) == {"name", "title", "caption", "png", "svg"} and one["title"] and one["caption"]
        assert Image.open(folder / one["png"]).format == "PNG" and "<svg" in (folder / one["svg"]).read_text()[:1000]
        told = json.loads((folder / f"{one['name']}.json").read_text())
        assert told["caption"] == one["caption"] and told["numbers"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert figures(run, "--only", "confusion", "--to", run / "again") == 0
    assert figures(run, "--only", "confusion,comparison", "--to", run / "again") == 0
    assert [one["name"] for one in json.loads((run / "again/figures.json").read_text())] == ["comparison", "confusion"]
    for path in (run / "again").iterdir():
        assert path.name == "figures.json" or path.read_bytes() == before[path.name], path.name


def test_a_damaged_list_is_made_anew(run: Path) -> None:
    (run / "report/figures").mkdir(parents=True)
    (run / "report/figures/figures.json").write_text("[{")
    assert figures(run, "--only", "confusion") == 0
    assert len(json.loads((run / "report/figures/figures.json").read_text())) == 1


def test_what_is_asked_for_by_name_is_needed(run: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(word: str, *arguments: object) -> None:
        assert figures(run, *arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and word in err, err

    refused("stages.train", "--only", "training")
    refused("'77'", "--image", "77")
    refused("'zebra'", "--classes", "cat,zebra")
    refused("--curve-images 0", "--curve-images", "0")
    (run / "predictions/val/deconvnet-max-fcn/03.png").unlink()
    refused("--ensemble fcn --split val` makes them", "--only", "comparison")
    with pytest.raises(SystemExit):
        figures(run, "--only", "zebra")


def test_groups_of_the_comparison_are_picked_by_measured_iou(run: Path) -> None:
    assert figures(run, "--only", "comparison") == 0
    numbers = json.loads((run / "report/figures/comparison.json").read_text())["numbers"]
    told = numbers["shown"]
    # Image 2: FCN-8s misses 25 columns, DeconvNet 15, the ensemble none; each image is in one group only.
    assert {name: list(images) for name, images in told.items()} == {
        "DeconvNet is better than FCN-8s": ["01", "02"], "FCN-8s is better than DeconvNet": ["00"],
        "EDeconvNet is better than both": []}
    for images in told.values():
        for image_id, iou in images.items():
            for title, row in (("FCN-8s", 0), ("DeconvNet", 1), ("EDeconvNet", 3)):
                image = IDS.index(image_id)
                assert iou[title] == pytest.approx(mean_iou(labels_of(row, image), truth_of(image)))
    own = [[mean_iou(labels_of(row, image), truth_of(image)) for row in (0, 1, 3)] for image in range(len(IDS))]
    assert list(numbers["better"].values()) == [sum(deconvnet > fcn for fcn, deconvnet, _ in own),
                                                sum(fcn > deconvnet for fcn, deconvnet, _ in own),
                                                sum(both > max(fcn, deconvnet) for fcn, deconvnet, both in own)]


def test_groups() -> None:
    fcn = np.array([0.1, 0.5, 0.5, 0.2, np.nan, 0.3])
    deconvnet = np.array([0.3, 0.6, 0.1, 0.3, np.nan, 0.3])
    both = np.array([0.9, 0.5, 0.2, 0.7, np.nan, 0.3])
    found = groups(fcn, deconvnet, both, 2)
    assert list(found.values()) == [[0, 1], [2], [3]]  # image 3 is DeconvNet's too, but by less; 5 is nobody's
    assert list(groups(fcn, deconvnet, both, 1).values()) == [[0], [2], [3]]
    fcn, deconvnet, both = np.array([0.9, 0.8]), np.array([0.1, 0.1]), np.array([0.9, 0.75])
    assert list(groups(fcn, deconvnet, both, 1).values()) == [[], [0], []]  # better than one network is not enough


def test_shares_of_each_true_class() -> None:
    counts = np.array([[8, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    kept, shares = true_class_shares(counts)
    assert kept == [0, 1]
    np.testing.assert_allclose(shares, [[0.8, 0.2], [0.25, 0.75]])
    counts[0, 3] = 5  # a label that no true pixel has
    kept, shares = true_class_shares(counts)
    assert kept == [0, 1, 3] and np.isnan(shares[2]).all() and shares[0].tolist() == [8 / 15, 2 / 15, 5 / 15]


def test_the_best_row_has_the_highest_mean_iou() -> None:
    rows = {}
    for name, right in (("nothing", 0), ("some", 2), ("all", 4)):
        confusion = ConfusionMatrix(CLASSES)
        found = np.zeros((2, 2), np.uint8)
        found.ravel()[:right] = 1
        if name != "nothing":
            confusion.add(found, np.ones((2, 2), np.uint8), name)
        rows[name] = confusion
    assert best_row(rows)[0] == "all"


def test_colours_of_labels_and_errors() -> None:
    """The background is light, every class VOC's; an error is a miss, an invention or a confusion; void is none."""
    labels, truth = np.array([[0, 1, 2, 0, 3]], np.uint8), np.array([[0, 1, 1, 2, 0]], np.uint8)
    assert coloured(labels)[0, 0].min() > 240
    np.testing.assert_array_equal(coloured(labels)[0, 1:3], voc_palette()[1:3])
    picture = errors(labels, truth)[0].tolist()
    assert picture == [[255] * 3, [255] * 3, *(list(ERRORS[name]) for name in ("another class", "object missed",
                                                                             "object invented"))]
    void = errors(labels, np.full_like(truth, VOID))
    assert len(np.unique(void)) == 1 and void[0, 0].tolist() not in map(list, ERRORS.values())


def test_pictures_stand_side_by_side_without_gaps(tmp_path: Path) -> None:
    """Portraits and landscapes alike fill their column; a line of text stands below each that has one."""
    colours = [(250, 130, 10), (10, 130, 250)]
    rows = [GridRow([Panel(np.full((tall, wide, 3), colour, np.uint8), "71.3") for colour in colours])
            for tall, wide in ((60, 40), (40, 60))]
    figure = picture_grid(rows, cell=1.5)
    assert [text.get_text() for text in figure.texts] == ["71.3"] * 4
    save(figure, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    seen = [np.abs(picture - colour).sum(2) < 9 for colour in colours]
    heights = []
    for half in np.array_split(np.arange(len(picture)), [int(len(picture) * 0.67)]):
        lines = [line for line in half if seen[0][line].sum() > 9]
        heights.append(len(lines))
        first, second = (np.flatnonzero(one[lines[len(lines) // 2]]) for one in seen)
        assert len(first) == pytest.approx(1.5 * DPI, abs=3) and len(second) == pytest.approx(1.5 * DPI, abs=3)
        assert 0 < second[0] - first[-1] < 0.1 * DPI
    assert heights == pytest.approx([1.5 * DPI * 1.5, 1.5 * DPI / 1.5], abs=3)


def test_pngs_alone(run: Path) -> None:
    assert figures(run, "--only", "confusion", "--to", run / "page", "--png") == 0
    assert [path.name for path in (run / "page").iterdir()] == ["confusion.png"]
