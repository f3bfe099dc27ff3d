"""docs/walkthrough.ipynb runs, shows what is true, and holds the outputs of its own cells."""

import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from PIL import Image

from deconvnet.data.synthetic import draw_scene

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "walkthrough.ipynb"
Quick = tuple[nbformat.NotebookNode, dict[str, np.ndarray]]
CLASSES = ["background", "bird", "bus", "car", "cow"]
KEPT = """
np.savez("kept.npz", image=image, truth=truth, boxes=boxes, objects=np.array([one.box for one in objects]),
         stage1_windows=stage1_windows, windows=windows, activations=activations, unpooled=unpooled,
         maps=maps, back=back, single=scores, maximum=maximum, summed=aggregated(scores, range(len(windows)), "sum"),
         probabilities=probabilities, partner=partner, both=both, parameters=parameters, posterior=posterior,
         labels=segmenter(image).labels)
"""


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: nbformat.NotebookNode, name: str) -> str:
    """What the cell of this id printed."""
    (cell,) = (cell for cell in notebook.cells if cell.id == name)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    """The notebook executed in quick mode with a photograph, in an empty folder; and its arrays at the end."""
    folder = tmp_path_factory.mktemp("walkthrough")
    photograph = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(photograph)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    changed = parameters.source.replace("IMAGE = None ", f"IMAGE = {photograph.name!r} ").replace("= False", "= True")
    assert changed.count("photo.png") == 1 and "QUICK = True" in changed
    parameters.source = changed
    notebook.cells.append(nbformat.v4.new_code_cell(KEPT))
    environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}  # its data set goes with the folder
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)  # raises CellExecutionError where a cell has one
    with np.load(folder / "kept.npz") as kept:
        return notebook, dict(kept)

def test_the_image_is_the_one_that_its_seed_draws(quick: Quick) -> None:
    image, mask, _, objects = draw_scene(0, "val", 0, 160, CLASSES)
    assert np.abs(quick[1]["image"].astype(int) - image).mean() < 8  # stored as JPEG
    assert (quick[1]["truth"] == mask).all()
    assert sorted(item["box"] for item in objects) == sorted(map(tuple, quick[1]["objects"].tolist()))


def test_parameters_are_those_of_table_2_counted_by_hand(quick: Quick) -> None:
    blocks = [(3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3)]
    down = [(before if i == 0 else after, after, 3) for before, after, count in blocks for i in range(count)]
    narrowed = [64, 64, 128, 256, 512]
    up = [(after, below if i == count - 1 else after, 3)
          for (_, after, count), below in zip(blocks, narrowed, strict=True) for i in range(count)]
    layers = [*down, (512, 4096, 7), (4096, 4096, 1), (4096, 512, 7), *up]
    total = sum(before * after * side**2 + after + 2 * after for before, after, side in layers) + 64 * 21 + 21
    assert total == 251_805_653 == int(quick[1]["parameters"])
    assert f"{total:,} parameters" in printed(quick[0], "table")


@pytest.mark.parametrize("before, after", [("activations", "unpooled"), ("maps", "back")])
def test_unpooling_puts_each_maximum_back(quick: Quick, before: str, after: str) -> None:
    maps, unpooled = (np.atleast_3d(quick[1][name].T).T.reshape(-1, *quick[1][name].shape[-2:])
                      for name in (before, after))
    expected = np.zeros_like(maps)
    for plane, own in zip(maps, expected, strict=True):
        for top in range(0, plane.shape[0], 2):
            for left in range(0, plane.shape[1], 2):
                row, column = np.unravel_index(plane[top : top + 2, left : left + 2].argmax(), (2, 2))
                own[top + row, left + column] = plane[top + row, left + column]
    assert expected.any() and (unpooled == expected).all()


def test_windows_are_boxes_enlarged_by_a_fifth(quick: Quick) -> None:
    for boxes, windows in ((quick[1]["objects"], quick[1]["stage1_windows"]),
                           (quick[1]["boxes"][: len(quick[1]["windows"])], quick[1]["windows"])):
        for (x1, y1, x2, y2), (left, top, right, bottom) in zip(boxes.tolist(), windows.tolist(), strict=True):
            for low, high, start, end in ((x1, x2, left, right), (y1, y2, top, bottom)):
                assert abs((end - start) - 1.2 * (high - low)) <= 0.5 + 1e-9
                assert abs((start + end) - (low + high)) <= 1


def test_aggregation_is_equations_1_and_2(quick: Quick) -> None:
    single, image = quick[1]["single"], quick[1]["image"]
    height, width = image.shape[:2]
    placed = []
    for scores, (x1, y1, x2, y2) in zip(single, quick[1]["windows"].tolist(), strict=True):
        wide = F.interpolate(torch.from_numpy(scores)[None].double(), (y2 - y1, x2 - x1), mode="bilinear")[0].numpy()
        canvas = np.zeros((len(single[0]), height + 400, width + 400))  # zeros outside the window
        canvas[:, 200 + y1 : 200 + y2, 200 + x1 : 200 + x2] = wide
        placed.append(canvas[:, 200 : 200 + height, 200 : 200 + width])
    assert len(placed) == 50
    np.testing.assert_allclose(quick[1]["maximum"], np.maximum.reduce(placed), atol=1e-5)
    np.testing.assert_allclose(quick[1]["summed"], np.sum(placed, axis=0, dtype=np.float64), atol=1e-3)


def test_softmax_ensemble_and_the_call_that_does_it_all(quick: Quick) -> None:
    def softmax(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores.astype(np.float64) - scores.max(0))
        return powers / powers.sum(0)

    arrays = quick[1]
    np.testing.assert_allclose(arrays["probabilities"], softmax(arrays["maximum"]), atol=1e-6)
    np.testing.assert_allclose(arrays["both"], (softmax(arrays["maximum"]) + softmax(arrays["partner"])) / 2, atol=1e-6)
    assert (arrays["labels"] == arrays["posterior"].argmax(0)).all()
    assert "the same labels: True" in printed(quick[0], "segmenter")


def test_the_readers_photograph_is_used(quick: Quick) -> None:
    assert "background" in printed(quick[0], "own")
    assert quick[1]["maps"].shape[-2:] == (64, 64)


def test_the_outputs_in_the_repository_are_those_of_its_cells() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}  # no error, no left-over value
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert "IMAGE is None" in printed(notebook, "own") and "251,805,653 parameters" in printed(notebook, "table")


def test_the_notebook_is_small_and_names_no_place_of_the_machine_that_ran_it() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert not re.search(r"(/home|/root|/tmp|/work|/Users|/private)/", text)
