"""What every edge detector must keep to, and that a new one is its own file and an entry of the registry."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from deconvnet.data.row_files import read_rows
from deconvnet.data.synthetic import generate
from deconvnet.recipe import Recipe, recipe_keys
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UserError
from proposals.build import build_proposals
from proposals.edge_detectors import EDGE_DETECTORS, EdgeDetector, make_detector
from proposals.edges import EdgeMap
from tests.proposals.test_edges import write_forest

Maker = Callable[[], EdgeDetector]


@pytest.fixture(params=EDGE_DETECTORS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Makes a detector of each name, with a model that is there for those that need one."""
    write_forest(tmp_path / "model.yml", threshold=0.05)
    return lambda: make_detector(request.param, tmp_path / "model.yml")


def photograph(height: int, width: int, seed: int = 1) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(height, width, 3)), (0, 0), 3)
    return np.clip(128 + noise.reshape(height, width, 3) * 600, 0, 255).astype(np.uint8)


def test_the_recipes_choices_are_the_registry() -> None:
    assert recipe_keys()["proposals.edges"][1].metadata["choices"] == ("auto", *EDGE_DETECTORS)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (31, 33), (80, 120)])
def test_an_edge_map_is_as_edge_boxes_reads_it(made: Maker, size: tuple[int, int]) -> None:
    image = photograph(*size)
    before, edges = image.copy(), made()(image)
    assert isinstance(edges, EdgeMap)
    for plane, most in ((edges.strength, 1), (edges.orientation, np.float32(np.pi))):
        assert plane.dtype == np.float32 and plane.shape == size and plane.flags.c_contiguous
        assert np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= most
    np.testing.assert_array_equal(image, before)


def test_a_vertical_border_is_an_edge_with_a_horizontal_normal(made: Maker) -> None:
    """And thin: most of the image has none."""
    image = np.zeros((80, 120, 3), np.uint8)
    image[:, 60:] = 255
    edges = made()(image)
    row, angle = edges.strength[40], edges.orientation[40]
    strongest = int(row.argmax())
    assert row[strongest] > 0.05 and abs(strongest - 59.5) <= 6  # a forest looks at every second place
    assert abs(np.sin(angle[strongest])) < 0.1 and (edges.strength > 0.01).mean() < 0.1


def test_the_same_image_has_the_same_edges_whatever_came_between(made: Maker) -> None:
    detector, image = made(), photograph(60, 70)
    first = detector(image)
    detector(photograph(90, 40, seed=2))
    for again in (detector(image), made()(image)):
        np.testing.assert_array_equal(first.strength, again.strength)
        np.testing.assert_array_equal(first.orientation, again.orientation)


def test_names_are_one_line_of_text_and_tell_detectors_apart(tmp_path: Path) -> None:
    write_forest(tmp_path / "model.yml")
    names = [make_detector(kind, tmp_path / "model.yml").name for kind in EDGE_DETECTORS]
    assert len(set(names)) == len(names)
    for kind, name in zip(EDGE_DETECTORS, names, strict=True):
        assert name.isprintable() and name.startswith(kind) and make_detector(kind, tmp_path / "model.yml").name == name


@pytest.mark.parametrize("kind", EDGE_DETECTORS)
@pytest.mark.parametrize("model", [None, "none.yml", "broken.yml"])
def test_what_a_detector_lacks_is_one_line(kind: str, model: str | None, tmp_path: Path) -> None:
    """Or nothing, for one that needs no model."""
    (tmp_path / "broken.yml").write_text("%YAML:1.0\n---\nfoo: 3\n")
    path = tmp_path / model if model else None
    try:
        make_detector(kind, path)
    except UserError as error:
        assert "\n" not in str(error) and str(path or f"proposals.edges={kind}") in str(error)


class Border:
    """A detector as another might write it: the image's own border, a pixel within."""

    name = "border-v1"

    def __call__(self, image: np.ndarray) -> EdgeMap:
        strength, orientation = np.zeros((2, *image.shape[:2]), np.float32)
        strength[4:-4, [4, -5]] = strength[[4, -5], 4:-4] = 1
        orientation[[4, -5], 4:-4] = np.pi / 2
        return EdgeMap(strength, orientation)


def test_a_new_one_is_a_class_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EDGE_DETECTORS, "border", lambda _: Border())
    voc_root = generate(tmp_path / "voc", train=1, val=2, seed=0, side=96)
    recipe: Recipe = load_recipe("tiny", ["proposals.count=30"])
    recipe.proposals.edges = "border"  # --set takes it once it is among the key's choices
    run = RunFolder(tmp_path / "run", recipe, voc_root)
    build_proposals(run, "val", None, 0, "stop")
    rows = read_rows(run.proposals("val"), "proposals")
    assert rows.attributes["edges"] == "border-v1" and rows.attributes["shaped_by"]["edges"] == "border-v1"
    best = [rows.of_image(image_id)["boxes"][0] for image_id in rows.image_ids]
    for box, (height, width) in zip(best, rows.sizes, strict=True):
        assert np.abs(box - [4, 4, width - 4, height - 4]).max() <= 8, box
    assert json.dumps(rows.attributes["recipe"]["proposals.edges"]) == '"border"'
