"""Edge maps: orientation and thinning against hand-worked edges and explicit loops; a real, tiny structured forest."""

import gzip
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.support.errors import UsageError, UserError
from proposals.edge_detectors import make_detector
from proposals.edges import (
    FULL_STRENGTH,
    THINNING_RADIUS,
    GradientDetector,
    StructuredDetector,
    colour_steps,
    ridge_orientation,
    thinned_edges,
)


def step_image(angle: float, size: int = 61) -> np.ndarray:
    """Black and white halves; the border through the middle has its normal at `angle` (x right, y down)."""
    ys, xs = np.indices((size, size)) - size // 2
    white = xs * math.cos(angle) + ys * math.sin(angle) > 0.25  # no pixel lies just on the border
    return np.where(white[..., None], 255, 0).astype(np.uint8).repeat(3, 2)


MIDDLE = 8 * 16 + 8  # of the 16 x 16 cells of a patch's channel: column 8, row 8
LIGHTNESS, GRADIENT = MIDDLE, 3 * 16 * 16 + MIDDLE  # channel 0 is L* / 270, 3 the gradient's magnitude


def write_forest(path: Path, threshold: float = 0.3, feature: int = GRADIENT) -> None:
    """One tree of one split, in OpenCV's format: where the feature is below the threshold no edge, else a vertical line
    through the middle of the patch."""
    options = {
        "numberOfTrees": 1, "numberOfTreesToEvaluate": 1, "selfsimilarityGridSize": 5, "stride": 2, "shrinkNumber": 2,
        "patchSize": 32, "patchInnerSize": 16, "numberOfGradientOrientations": 4, "gradientSmoothingRadius": 0,
        "regFeatureSmoothingRadius": 2, "ssFeatureSmoothingRadius": 8, "gradientNormalizationRadius": 4,
    }
    middle_column = [8 * 16 + row for row in range(16)]
    parts = {
        "childs": [[2, 0, 0]], "featureIds": [[feature, 0, 0]], "thresholds": [[threshold, 0.0, 0.0]],
        "edgeBoundaries": [[0, 0], [0, 16]], "edgeBins": [middle_column[:10], middle_column[10:]],
    }
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.startWriteStruct("options", cv2.FILE_NODE_MAP)
    for name, value in options.items():
        storage.write(name, value)
    storage.endWriteStruct()
    for name, rows in parts.items():
        storage.startWriteStruct(name, cv2.FILE_NODE_SEQ)
        for row in rows:
            storage.startWriteStruct("", cv2.FILE_NODE_SEQ | cv2.FILE_NODE_FLOW)
            for value in row:
                storage.write("", value)
            storage.endWriteStruct()
        storage.endWriteStruct()
    storage.release()


@pytest.fixture
def forest_file(tmp_path: Path) -> Path:
    write_forest(tmp_path / "model.yml")
    return tmp_path / "model.yml"


@pytest.mark.parametrize("degrees", [0, 15, 45, 90, 120, 135, 179])
def test_orientation_is_the_angle_of_the_edge_normal(degrees: float) -> None:
    edges = GradientDetector()(step_image(math.radians(degrees)))
    found = edges.orientation[30, 30]
    off = abs(math.remainder(float(found) - math.radians(degrees), math.pi))
    assert off < math.radians(3)
    assert edges.orientation.min() >= 0 and edges.orientation.max() <= np.float32(math.pi)


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 150])
def test_orientation_of_a_ridge_of_known_direction(degrees: float) -> None:
    normal = math.radians(degrees)
    ys, xs = np.indices((41, 41)) - 20.0
    across = xs * math.cos(normal) + ys * math.sin(normal)
    ridge = np.exp(-(across**2) / 18).astype(np.float32)
    off = math.remainder(float(ridge_orientation(ridge)[20, 20]) - normal, math.pi)
    assert abs(off) < math.radians(1)


def test_a_step_has_its_height() -> None:
    lab = np.zeros((41, 41, 3), np.float32)
    lab[:, 20:, 1] = 30  # only one channel changes, by 30
    lab[:, 20:, 0] = 10
    steps = colour_steps(lab, 4.0)
    assert steps[20, 19:21] == pytest.approx(30, rel=0.05)
    assert steps[20, 2] == pytest.approx(0, abs=0.01)


def test_a_grey_step_becomes_one_line() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 119  # L* is 50.03 (CIE 1976: 116 * 0.1845 ** (1 / 3) - 16)
    strength = GradientDetector()(image).strength
    assert set(np.flatnonzero(strength[20] > 0.01)) <= {29, 30}
    assert strength[20, 29:31].max() == pytest.approx(50.03 / FULL_STRENGTH, rel=0.1)


def test_a_soft_step_is_measured_at_3_and_6_pixels() -> None:
    """A step of 50 in L*, soft by 4 px: smoothed by s its slope is 50 / sqrt(2 pi (s^2 + 16)), so s / sqrt(s^2 + 16) of
    its height is found: 0.600 and 0.832, 0.716 on average."""
    lightness = np.array([20 + 50 * (1 + math.erf((x - 39.5) / (4 * math.sqrt(2)))) / 2 for x in range(80)])
    linear = ((lightness + 16) / 116) ** 3  # above L* = 8
    grey = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB
    image = np.round(grey).astype(np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2)
    assert GradientDetector()(image).strength[30].max() == pytest.approx(0.50 * 0.716, rel=0.03)


# CIE L*a*b* of sRGB colours, D65: red (53.24, 80.09, 67.20), navy (12.97, 47.50, -64.70); black is (0, 0, 0).
@pytest.mark.parametrize("colour, step", [((255, 0, 0), 80.09), ((0, 0, 128), 64.70)])
def test_a_coloured_step_has_the_height_of_its_strongest_channel(colour: tuple[int, int, int], step: float) -> None:
    """Which tells red from blue: read as BGR, red's step would be 107.86, navy's 48.05."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = colour
    assert GradientDetector()(image).strength[20, 29:31].max() == pytest.approx(step / FULL_STRENGTH, rel=0.08)


def test_the_forest_sees_red_as_red(tmp_path: Path) -> None:
    """A tree that splits on lightness, between blue's (L* = 32.3) and red's (53.2)."""
    write_forest(tmp_path / "model.yml", threshold=43 / 270, feature=LIGHTNESS)
    detector = StructuredDetector(tmp_path / "model.yml")
    red, blue = (np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    assert detector(red).strength.max() > 0.05 and detector(blue).strength.max() == 0


def thinned_loop(strength: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Thinning, pixel by pixel in float64."""
    height, width = strength.shape
    kept = np.zeros(strength.shape)
    for y in range(height):
        for x in range(width):
            stronger = False
            for step in (-2, -1, 1, 2):
                py = min(max(y + step * math.sin(orientation[y, x]), 0), height - 1)
                px = min(max(x + step * math.cos(orientation[y, x]), 0), width - 1)
                y0, x0 = min(int(py), max(height - 2, 0)), min(int(px), max(width - 2, 0))
                y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                fy, fx = py - y0, px - x0
                value = ((1 - fy) * ((1 - fx) * strength[y0, x0] + fx * strength[y0, x1])
                         + fy * ((1 - fx) * strength[y1, x0] + fx * strength[y1, x1]))
                stronger |= value > strength[y, x]
            kept[y, x] = 0 if stronger else strength[y, x]
    return kept


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_thinning_equals_a_loop(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    strength = random.random((height, width)).astype(np.float32)
    orientation = (random.random((height, width)) * math.pi).astype(np.float32)
    assert THINNING_RADIUS == 2
    np.testing.assert_array_equal(thinned_edges(strength, orientation).strength, thinned_loop(strength, orientation))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 40)])
def test_tiny_and_constant_images_have_no_edges(size: tuple[int, int], forest_file: Path) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    for detector in (GradientDetector(), StructuredDetector(forest_file)):
        edges = detector(image)
        for plane in (edges.strength, edges.orientation):
            assert plane.shape == size and plane.dtype == np.float32 and np.isfinite(plane).all()
        assert edges.strength.max() < 1e-3


def test_gradient_maps_repeat_and_stay_within_0_and_1() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    first, second = GradientDetector()(image), GradientDetector()(image.copy())
    np.testing.assert_array_equal(first.strength, second.strength)
    np.testing.assert_array_equal(first.orientation, second.orientation)
    assert first.strength.min() >= 0 and first.strength.max() <= 1


@pytest.mark.parametrize("suffix", [".yml", ".yml.gz"])
def test_structured_forest_marks_the_step(suffix: str, tmp_path: Path) -> None:
    write_forest(tmp_path / f"model{suffix}")
    detector = make_detector("auto", tmp_path / f"model{suffix}")
    assert detector.name.startswith("structured:") and len(detector.name) == len("structured:") + 12
    image = np.zeros((80, 100, 3), np.uint8)
    image[:, 50:] = 255
    edges = detector(image)
    assert edges.strength.shape == (80, 100)
    columns = np.flatnonzero(edges.strength[40] > 0)
    assert 44 <= columns.min() and columns.max() <= 55
    assert edges.strength[40].max() == pytest.approx(0.125, rel=0.3)  # 2 * 2^2 / 16^2 a tree, 4 patches a row


def test_names_tell_detectors_apart(tmp_path: Path) -> None:
    names = {make_detector("auto", None).name, make_detector("gradient", tmp_path / "ignored").name}
    assert names == {GradientDetector.name}
    for threshold in (0.2, 0.4):
        write_forest(tmp_path / f"{threshold}.yml", threshold)
        names.add(make_detector("structured", tmp_path / f"{threshold}.yml").name)
    assert len(names) == 3


def test_structured_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model.yml.gz"):
        make_detector("structured", None)
    with pytest.raises(UsageError, match="no such"):
        make_detector("structured", tmp_path / "none.yml.gz")


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>404</html>", b"%YAML:1.0\n---\nfoo: 3\n", b'{"a": 1}',
                                     b"%YAML:1.0\n---\noptions: 3\n", b"\x00\xff" * 200])
@pytest.mark.parametrize("suffix", [".yml", ".yml.gz"])
def test_a_file_that_is_no_model_is_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    for data in {content, gzip.compress(content)}:
        path.write_bytes(data)
        with pytest.raises(UserError, match=path.name) as caught:
            make_detector("structured", path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["numberOfTrees", "shrinkNumber", "patchSize", "gradientNormalizationRadius"])
@pytest.mark.parametrize("value", [None, "-1", "x", "1e9", "99999"])
def test_an_option_that_is_missing_or_out_of_range(name: str, value: str | None, forest_file: Path) -> None:
    lines = forest_file.read_text().splitlines()
    (place,) = [index for index, line in enumerate(lines) if line.strip().startswith(f"{name}:")]
    lines[place : place + 1] = [] if value is None else [f"   {name}: {value}"]
    forest_file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"model.yml: options.{name} is missing"):
        make_detector("structured", forest_file)


@pytest.mark.slow
def test_a_model_cut_anywhere_is_refused(forest_file: Path) -> None:
    text, cut_file = forest_file.read_bytes().rstrip(), forest_file.with_name("cut.yml")
    for length in range(len(text)):
        cut_file.write_bytes(text[:length])
        with pytest.raises(UserError):
            make_detector("structured", cut_file)
    packed, cut_file = gzip.compress(text), forest_file.with_name("cut.yml.gz")
    for length in range(0, len(packed), 7):
        cut_file.write_bytes(packed[:length])
        with pytest.raises(UserError):
            make_detector("structured", cut_file)
