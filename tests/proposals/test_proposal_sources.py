"""What every proposal source must keep to, and that a new one is its own file and an entry of the registry."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from deconvnet.data.row_files import read_rows
from deconvnet.data.synthetic import generate
from deconvnet.recipe import MOST_BOXES, Recipe, recipe_keys
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UserError
from proposals.build import ProposalWork, build_proposals, build_windows
from proposals.sources import PROPOSAL_SOURCES, ProposalSource, make_source
from tests.proposals.test_edge_detectors import photograph
from tests.proposals.test_edges import write_forest
from tests.proposals.test_select import iou

ROOT = Path(__file__).resolve().parents[2]
Maker = Callable[..., ProposalSource]


def recipe_of(source: str, count: int = 300) -> Recipe:
    recipe = load_recipe("paper", [f"proposals.count={count}"])
    recipe.proposals.source = source
    return recipe


@pytest.fixture(params=PROPOSAL_SOURCES)
def made(request: pytest.FixtureRequest) -> Maker:
    return lambda count=300: make_source(recipe_of(request.param, count), None)


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("voc"), train=1, val=2, seed=0, side=96)


@pytest.fixture
def run(tmp_path: Path, voc_root: Path) -> Callable[[str], RunFolder]:
    """A run folder whose recipe names a source."""
    return lambda source: RunFolder(tmp_path / "run", recipe_of(source, 60), voc_root)


def test_the_recipes_choices_are_the_registry() -> None:
    assert recipe_keys()["proposals.source"][1].metadata["choices"] == tuple(PROPOSAL_SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 3), (31, 33), (120, 90), (60, 200)])
@pytest.mark.parametrize("count", [1, 25, MOST_BOXES])
def test_boxes_are_as_files_and_windows_take_them(made: Maker, size: tuple[int, int], count: int) -> None:
    image = photograph(*size)
    before, (boxes, scores) = image.copy(), made(count)(image)
    assert boxes.dtype == np.int32 and boxes.shape == (len(scores), 4) and len(boxes) <= count
    assert scores.dtype == np.float32 and scores.shape == (len(boxes),)
    assert np.isfinite(scores).all() and (np.diff(scores) <= 0).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()
    np.testing.assert_array_equal(image, before)


def test_fewer_are_the_best_of_more(made: Maker) -> None:
    boxes, few = made()(photograph(120, 150))[0], made(10)(photograph(120, 150))[0]
    assert len(few) == min(10, len(boxes)) > 0
    np.testing.assert_array_equal(few, boxes[:10])


def test_an_image_without_anything_in_it(made: Maker) -> None:
    boxes, scores = made()(np.full((80, 120, 3), 77, np.uint8))
    assert boxes.shape == (len(scores), 4) and boxes.dtype == np.int32 and scores.dtype == np.float32


def test_the_same_image_has_the_same_boxes_whatever_came_between(made: Maker) -> None:
    source, image = made(), photograph(100, 130)
    first = source(image)
    source(photograph(70, 160, seed=2))
    for again in (source(image), made()(image)):
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPOSAL_SOURCES)
def test_shaped_by_is_json_and_tells_sources_and_counts_apart(name: str) -> None:
    shaped_by = make_source(recipe_of(name), None).shaped_by()
    assert json.loads(json.dumps(shaped_by)) == shaped_by  # as it comes back from a file, so a tuple will not do
    assert shaped_by["proposals.count"] == 300
    assert shaped_by.get("proposals.source", "edge_boxes") == name
    others = [make_source(recipe_of(other), None).shaped_by() for other in PROPOSAL_SOURCES if other != name]
    assert shaped_by not in others and make_source(recipe_of(name, 299), None).shaped_by() != shaped_by


def test_edge_boxes_is_told_by_the_edge_model_too(tmp_path: Path) -> None:
    recipe = recipe_of("edge_boxes")
    write_forest(tmp_path / "model.yml")
    names = [make_source(recipe, model).shaped_by()["edges"] for model in (None, tmp_path / "model.yml")]
    assert names[0] == "gradient-v1" and names[1].startswith("structured:")


def test_files_from_before_there_was_another_source_are_edge_boxes(voc_root: Path, tmp_path: Path) -> None:
    """They lack proposals.source and data.format; they are whole, and nobody else's."""
    def build(recipe: Recipe) -> None:
        run = RunFolder(tmp_path / "run", recipe, voc_root)
        build_proposals(run, "val", None, 0, "stop")
        build_windows(run, "val", 2, False, 0, "stop")

    build(recipe_of("edge_boxes"))
    files = [tmp_path / "run" / name for name in ("proposals/val.h5", "windows/stage2-val.h5")]
    for path in files:
        with h5py.File(path, "r+") as file:
            shaped_by = json.loads(file.attrs["shaped_by"])
            del shaped_by["proposals.source"]
            shaped_by.pop("data.format", None)
            if path.name.startswith("stage"):
                shaped_by["windows.balance"] = "none"  # stood there once, though it is the training's
            file.attrs["shaped_by"] = json.dumps(shaped_by)
    older = [path.read_bytes() for path in files]
    build(recipe_of("edge_boxes"))
    assert [path.read_bytes() for path in files] == older
    with pytest.raises(UserError, match="was made with proposals.source = 'edge_boxes', not 'grid'"):
        build(recipe_of("grid"))


@pytest.mark.parametrize("name", PROPOSAL_SOURCES)
def test_the_work_goes_to_other_processes(name: str, voc_root: Path, tmp_path: Path) -> None:
    """Pickled before and after it has made its source, which stays where it is."""
    write_forest(tmp_path / "model.yml")
    work = ProposalWork(RunFolder(voc_root, recipe_of(name), voc_root).voc(), recipe_of(name), tmp_path / "model.yml")
    before = pickle.dumps(work)
    expected = work("val_000000")
    assert expected["size"].tolist() == list(work.voc.read_image("val_000000").shape[:2])
    for content in (before, pickle.dumps(work)):
        found = pickle.loads(content)("val_000000")
        assert found.keys() == expected.keys()
        for column in expected:
            np.testing.assert_array_equal(found[column], expected[column])


@pytest.mark.parametrize("name", PROPOSAL_SOURCES)
def test_an_edge_model_that_is_none_is_one_line(name: str, tmp_path: Path) -> None:
    """Or nothing, for a source that needs none."""
    try:
        make_source(recipe_of(name), tmp_path / "none.yml")
    except UserError as error:
        assert "\n" not in str(error) and str(tmp_path / "none.yml") in str(error)


@pytest.mark.parametrize("name", PROPOSAL_SOURCES)
def test_the_build_takes_it(name: str, run: Callable, voc_root: Path) -> None:
    folder = run(name)
    build_proposals(folder, "val", None, 0, "stop")
    rows = read_rows(folder.proposals("val"), "proposals", folder.voc().fingerprint("val"))
    source = make_source(folder.recipe, None)
    assert rows.attributes["shaped_by"] == source.shaped_by()
    assert rows.attributes["edges"] == source.shaped_by().get("edges", f"none ({name})")
    for image_id in rows.image_ids:
        boxes, scores = source(folder.voc().read_image(image_id))
        np.testing.assert_array_equal(rows.of_image(image_id)["boxes"], boxes)
        np.testing.assert_array_equal(rows.of_image(image_id)["scores"], scores)


@pytest.mark.parametrize("there, now", [("edge_boxes", "grid"), ("grid", "edge_boxes")])
def test_another_sources_file_is_not_taken(there: str, now: str, run: Callable) -> None:
    build_proposals(run(there), "val", None, 0, "stop")
    with pytest.raises(UserError, match=rf"val\.h5: was made with proposals\.source = '{there}', not '{now}'"):
        build_proposals(run(now), "val", None, 0, "stop")


class Quarters:
    """A source as another might write it: the four quarters of the image, the last one first."""

    def __init__(self, recipe: Recipe, edge_model: Path | None) -> None:
        self.count = recipe.proposals.count

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, x = image.shape[0] // 2, image.shape[1] // 2
        corners = [[left, top, left + x, top + y] for top in (y, 0) for left in (x, 0)]
        return np.array(corners, np.int32)[: self.count], np.arange(4, 0, -1, dtype=np.float32)[: self.count]

    def shaped_by(self) -> dict[str, object]:
        return {"proposals.source": "quarters", "proposals.count": self.count}


def test_a_new_one_is_a_class_and_an_entry(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals and stage 2's windows; recipes name it once it is among the key's choices."""
    monkeypatch.setitem(PROPOSAL_SOURCES, "quarters", Quarters)
    folder = run("quarters")
    folder.recipe.windows.stage2_overlap = 0.0
    build_proposals(folder, "val", None, 0, "stop")
    build_windows(folder, "val", 2, False, 0, "stop")
    rows, windows = (read_rows(path, kind) for path, kind in (
        (folder.proposals("val"), "proposals"), (folder.windows(2, "val"), "windows")))
    assert rows.attributes["shaped_by"] == {"proposals.source": "quarters", "proposals.count": 60}
    assert windows.attributes["shaped_by"]["proposals.source"] == "quarters"
    for image_id, (height, width) in zip(rows.image_ids, rows.sizes.tolist(), strict=True):
        x, y = width // 2, height // 2
        expected = [[x, y, 2 * x, 2 * y], [0, y, x, 2 * y], [x, 0, 2 * x, y], [0, 0, x, y]]
        assert rows.of_image(image_id)["boxes"].tolist() == expected
        cut = windows.of_image(image_id)
        assert cut["box"][cut["source"] == 1].tolist() == expected
    with h5py.File(folder.proposals("val")) as file:
        assert bytes(file.attrs["edges"]) == b"none (quarters)"


def test_the_grid_has_a_box_near_any_large_one() -> None:
    """Whatever stands anywhere, of the grid's sizes, is met by IoU 0.5 nearly always; the image plays no part."""
    random, (height, width) = np.random.default_rng(0), (160, 220)
    boxes = make_source(recipe_of("grid", 5000), None)(photograph(height, width))[0]
    np.testing.assert_array_equal(boxes, make_source(recipe_of("grid", 5000), None)(np.zeros((height, width, 3)))[0])
    best = []
    for _ in range(100):
        w, h = random.integers(40, width), random.integers(40, height)
        x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
        best.append(max(iou((x, y, x + w, y + h), box) for box in boxes.tolist()))
    assert np.mean(np.array(best) >= 0.5) > 0.9, sorted(best)[:20]
    sides = boxes[:, 2:] - boxes[:, :2]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes) and sides[0].prod() > 0.5 * height * width
    for size in np.unique(sides, axis=0):  # of each size from border to border
        own = boxes[(sides == size).all(1)]
        assert own.min(0)[:2].tolist() == [0, 0] and own.max(0)[2:].tolist() == [width, height]


def test_proposals_need_no_torch() -> None:
    command = "import sys, proposals.build, proposals.sources; print([n for n in sys.modules if n.startswith('torch')])"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
