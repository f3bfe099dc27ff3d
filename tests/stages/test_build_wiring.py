"""What stages.build_proposals really made, key by key, against EdgeBoxes called here, loops, and OpenCV's resize."""

import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from deconvnet.data.synthetic import generate
from proposals.edges import GradientDetector
from stages.build_proposals import main, parse
from stages.cli import run_command
from tests.narrow import setting
from tests.proposals.test_edges import write_forest
from tests.proposals.test_select import iou
from tests.reference_inference import window_about

KEYS = {"data.train_split": "train", "proposals.count": 60, "windows.warp": 40, "network.input": 32,
        "windows.stage2_top": 8}
PLAIN = KEYS | {"windows.enlarge": 1.2, "windows.shape": "tight", "windows.outside": "mean", "windows.resize": "linear",
                "windows.stage1_labels": "object", "windows.stage2_overlap": 0.5, "windows.encoding": "png",
                "windows.stage2_order": "overlap_first", "windows.stage2_with_stage1": True,
                "data.least_object_pixels": 16}
SPLITS = {"train": ["train_000000", "train_000001", "train_000002"], "val": ["val_000000"]}
FAR = 200  # further than any window leaves the image


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "voc", train=3, val=1, seed=11, side=128)


@pytest.fixture(scope="module")
def proposed(voc: Path, tmp_path_factory) -> Path:
    """A run folder with the proposals alone."""
    run = tmp_path_factory.mktemp("proposed") / "run"
    build(run, voc, "--stage", "none")
    return run


def build(run: Path, voc: Path, *arguments: object, **keys: object) -> Path:
    """The command in this process, in a run of the paper's recipe with a few small numbers."""
    given = ["--run", run, "--recipe", "paper", "--voc-root", voc, "--workers", 0, *setting(KEYS | keys), *arguments]
    assert run_command(parse(), main, [str(word) for word in given]) == 0
    return run


def built(proposed: Path, root: Path, voc: Path, *arguments: object, **keys: object) -> Path:
    """A run on proposals that are there already."""
    shutil.copytree(proposed / "proposals", root / "proposals")
    return build(root, voc, *arguments, **keys)


def rows_of(path: Path) -> dict[str, dict[str, list]]:
    """Each image's rows, as they are in a file; an encoded crop is cut out of the bytes of all."""
    with h5py.File(path) as file:
        ids, first = file["image_ids"].asstr()[:], file["first"][:]
        columns = {name: file[name][:] for name in file if name not in ("image_ids", "first", "sizes")}
    for name in ("picture", "labels"):
        if name in columns:
            columns[name] = np.split(columns[name], np.cumsum(columns.pop(f"{name}_length"))[:-1])
    return {one: {name: column[first[index] : first[index + 1]] for name, column in columns.items()}
            for index, one in enumerate(ids)}


def attribute(path: Path, name: str) -> str:
    with h5py.File(path) as file:
        value = file.attrs[name]
        return value.decode() if isinstance(value, bytes) else str(value)


def png(voc: Path, folder: str, image_id: str) -> np.ndarray:
    return np.array(Image.open(voc / folder / f"{image_id}.{'jpg' if folder == 'JPEGImages' else 'png'}"))


def edge_boxes(image: np.ndarray, count: int = 60, alpha: float = 0.65, beta: float = 0.75, eta: float = 1,
               min_score: float = 0.01) -> list[list[int]]:
    """OpenCV's EdgeBoxes, from 1-based corner and size to 0-based corners inside the image; best first."""
    edges, (height, width) = GradientDetector()(image), image.shape[:2]
    engine = cv2.ximgproc.createEdgeBoxes(maxBoxes=count, alpha=alpha, beta=beta, eta=eta, minScore=min_score)
    found, scores = engine.getBoundingBoxes(edges.strength, edges.orientation)
    order = np.argsort(-np.ravel(scores), kind="stable")
    return [[max(x - 1, 0), max(y - 1, 0), min(x - 1 + w, width), min(y - 1 + h, height)]
            for x, y, w, h in np.reshape(found, (-1, 4))[order].tolist()][:count]


@pytest.mark.parametrize("change", [{}, {"count": 9}, {"alpha": 0.4}, {"beta": 0.3}, {"eta": 0.5}, {"min_score": 0.05}],
                         ids=str)
def test_proposals_are_edge_boxes_with_the_recipes_numbers(voc: Path, tmp_path: Path, change: dict) -> None:
    run = build(tmp_path / "run", voc, "--stage", "none", "--split", "train",
                **{f"proposals.{name}": value for name, value in change.items()})
    found, different = rows_of(run / "proposals/train.h5"), False
    assert list(found) == SPLITS["train"]
    for image_id, rows in found.items():
        image = png(voc, "JPEGImages", image_id)
        assert rows["boxes"].tolist() == edge_boxes(image, **change)
        assert (np.diff(rows["scores"]) <= 0).all()
        different |= edge_boxes(image, **change) != edge_boxes(image)
    assert different == bool(change)


@pytest.mark.parametrize("edges, model, name", [("auto", True, "structured:"), ("gradient", True, "gradient-v1"),
                                                ("structured", True, "structured:"), ("auto", False, "gradient-v1")])
def test_the_edge_detector(voc: Path, tmp_path: Path, edges: str, model: bool, name: str) -> None:
    write_forest(tmp_path / "model.yml")
    arguments = ["--edge-model", tmp_path / "model.yml"] if model else []
    run = build(tmp_path / "run", voc, "--stage", "none", "--split", "val", *arguments, **{"proposals.edges": edges})
    (rows,) = rows_of(run / "proposals/val.h5").values()
    gradient = edge_boxes(png(voc, "JPEGImages", "val_000000"))
    assert (rows["boxes"].tolist() == gradient) == (name == "gradient-v1")
    assert attribute(run / "proposals/val.h5", "edges").startswith(name)


def test_the_proposal_source(voc: Path, tmp_path: Path) -> None:
    """Boxes that the image plays no part in; stage 2 is cut from them."""
    run = build(tmp_path / "run", voc, "--stage", 2, "--split", "train", **{"proposals.source": "grid"})
    windows = rows_of(run / "windows/stage2-train.h5")
    for image_id, rows in rows_of(run / "proposals/train.h5").items():
        height, width = png(voc, "JPEGImages", image_id).shape[:2]
        side = 0.9 * (height * width) ** 0.5
        assert rows["boxes"][0].tolist() == [0, 0, min(round(side), width), min(round(side), height)]
        assert len(rows["boxes"]) == 60 and rows["scores"] == pytest.approx(1 / np.arange(1, 61))
        for found, box in zip(windows[image_id]["source"], windows[image_id]["box"].tolist(), strict=True):
            assert not found or box in rows["boxes"].tolist()
    assert attribute(run / "proposals/train.h5", "edges") == "none (grid)"


@pytest.mark.slow
@pytest.mark.parametrize("arguments, files", [
    ((), ["proposals/train", "proposals/val", "windows/stage1-train", "windows/stage1-val", "windows/stage2-train",
          "windows/stage2-val"]),
    (("--stage", 1), ["proposals/val", "windows/stage1-train", "windows/stage1-val"]),
    (("--stage", 2), ["proposals/train", "proposals/val", "windows/stage2-train", "windows/stage2-val"]),
    (("--stage", "none"), ["proposals/train", "proposals/val"]),
    (("--stage", "none", "--split", "val"), ["proposals/val"]),
    (("--stage", 2, "--split", "train"), ["proposals/train", "windows/stage2-train"]),
    (("--split", "trainval", "--stage", 1), ["proposals/trainval", "windows/stage1-trainval"]),
], ids=str)
def test_stages_and_splits(voc: Path, tmp_path: Path, arguments: tuple, files: list[str]) -> None:
    run = build(tmp_path / "run", voc, *arguments, **{"proposals.count": 20})
    assert sorted(str(path.relative_to(run))[:-3] for path in run.rglob("*.h5")) == files
    for name in files:
        split = name.rpartition("/")[2].rpartition("-")[2]
        ids = SPLITS["train"] + SPLITS["val"] if split == "trainval" else SPLITS[split]
        path = run / f"{name}.h5"
        assert list(rows_of(path)) == ids and attribute(path, "split") == split
        assert "windows" not in name or attribute(path, "stage") == name.partition("stage")[2][0]


def objects(voc: Path, image_id: str, least: int) -> list[tuple[tuple, int, np.ndarray]]:
    """(box, class, mask) of each object that has enough pixels, by its number."""
    numbers, classes = png(voc, "SegmentationObject", image_id), png(voc, "SegmentationClass", image_id)
    found = []
    for number in sorted(set(numbers.ravel().tolist()) - {0, 255}):
        ys, xs = np.nonzero(numbers == number)
        if len(ys) >= least:
            box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
            found.append((box, int(classes[ys[0], xs[0]]), numbers == number))
    return found


def expected_rows(voc: Path, image_id: str, proposals: dict, stage: int, keys: dict) -> list[tuple]:
    """(window, box, source, object, class) of each window of an image."""
    things = objects(voc, image_id, keys["data.least_object_pixels"])
    kept = [(box, 0, number, kind) for number, (box, kind, _) in enumerate(things)]
    chosen = []
    for rank, box in enumerate(map(tuple, proposals["boxes"].tolist())):
        ious = [iou(box, thing[0]) for thing in things]
        best = int(np.argmax([*ious, 0]))
        full = len(chosen) if keys["windows.stage2_order"] == "overlap_first" else rank
        if things and full < keys["windows.stage2_top"] and ious[best] >= keys["windows.stage2_overlap"]:
            chosen.append((box, 1, best, things[best][1]))
    rows = kept if stage == 1 else kept * keys["windows.stage2_with_stage1"] + chosen
    return [(window_about(row[0], keys["windows.enlarge"], keys["windows.shape"] == "square"), *row) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    {}, {"windows.enlarge": 1.7}, {"windows.shape": "square"}, {"windows.stage2_top": 2},
    {"windows.stage2_overlap": 0.7}, {"windows.stage2_order": "top_first"}, {"windows.stage2_with_stage1": False},
    {"data.least_object_pixels": 400},
], ids=str)
def test_windows_of_both_stages(proposed: Path, voc: Path, tmp_path: Path, change: dict) -> None:
    run, keys, different = built(proposed, tmp_path / "run", voc, **change), PLAIN | change, False
    for split, ids in SPLITS.items():
        proposals = rows_of(proposed / f"proposals/{split}.h5")
        for stage in (1, 2):
            found = rows_of(run / f"windows/stage{stage}-{split}.h5")
            assert list(found) == ids
            for image_id, rows in found.items():
                expected = expected_rows(voc, image_id, proposals[image_id], stage, keys)
                columns = (rows[name].tolist() for name in ("window", "box", "source", "object", "class_index"))
                assert [(tuple(window), tuple(box), *rest) for window, box, *rest in zip(*columns, strict=True)
                        ] == expected
                different |= expected != expected_rows(voc, image_id, proposals[image_id], stage, PLAIN)
    assert different == bool(change)


def expected_crop(voc: Path, image_id: str, window: np.ndarray, own: np.ndarray | None, keys: dict
                  ) -> tuple[np.ndarray, np.ndarray]:
    """A window's picture and labels; own: in stage 1 the pixels of the one object that keeps its label."""
    image, mask = png(voc, "JPEGImages", image_id), png(voc, "SegmentationClass", image_id)
    if own is not None and keys["windows.stage1_labels"] == "object":
        mask = np.where(own | (mask == 255), mask, 0)
    around = (123, 117, 104) if keys["windows.outside"] == "mean" else (0, 0, 0)
    image = np.stack([np.pad(image[..., c], FAR, constant_values=around[c]) for c in range(3)], 2)
    x1, y1, x2, y2 = window + FAR
    picture, labels = image[y1:y2, x1:x2], np.pad(mask, FAR, constant_values=255)[y1:y2, x1:x2]
    side = keys["windows.warp"]
    shrinks = keys["windows.resize"] == "area" and min(picture.shape[:2]) > side
    return (cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
            cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST))


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    {}, {"windows.warp": 48}, {"windows.outside": "zero"}, {"windows.resize": "area"}, {"windows.stage1_labels": "all"},
    {"windows.encoding": "jpeg"},
], ids=str)
def test_materialized_windows(proposed: Path, voc: Path, tmp_path: Path, change: dict) -> None:
    run, keys, different = built(proposed, tmp_path / "run", voc, "--materialize", **change), PLAIN | change, False
    for stage in (1, 2):
        for image_id, rows in rows_of(run / f"windows/stage{stage}-train.h5").items():
            things = objects(voc, image_id, 16)
            for row, window in enumerate(rows["window"]):
                own = things[rows["object"][row]][2] if stage == 1 else None
                expected, usual = (expected_crop(voc, image_id, window, own, one) for one in (keys, PLAIN))
                stored = rows["picture"][row].tobytes()
                assert stored.startswith(b"\xff\xd8" if keys["windows.encoding"] == "jpeg" else b"\x89PNG")
                picture = cv2.imdecode(rows["picture"][row], cv2.IMREAD_COLOR_RGB).astype(int)
                assert np.abs(picture - expected[0]).mean() < (8 if keys["windows.encoding"] == "jpeg" else 1e-9)
                np.testing.assert_array_equal(cv2.imdecode(rows["labels"][row], cv2.IMREAD_GRAYSCALE), expected[1])
                different |= any(not np.array_equal(*pair) for pair in zip(expected, usual, strict=True))
    assert different == (bool(change) and "windows.encoding" not in change)
