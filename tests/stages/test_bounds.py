"""Option values beyond all bounds, and errors that are no UserError: always one line, and nothing written."""

import argparse
import importlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from deconvnet.data.examples import WindowCrops
from deconvnet.data.synthetic import generate
from deconvnet.data.windows import enlarge
from deconvnet.models.build import build_network, machine_memory
from deconvnet.recipe import Windows
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UsageError, UserError, describe
from deconvnet.support.resumable import make_parts
from deconvnet.support.workers import WORKERS_PER_CORE, default_workers
from deconvnet.training.loading import load
from deconvnet.training.schedules import _begin
from experiments.figures import chosen_images
from experiments.proposal_recall import parse_counts
from stages.cli import run_command

DEFAULTING = ("experiments.compare", "experiments.reproduce", "experiments.figures", "experiments.failures",
              "experiments.report", "stages.infer", "stages.evaluate")
PATHS = ("../outside", "/tmp/outside", "a/b", "a\\\\b", "..", ".hidden", "", "new\nline", "x" * 201, "nul\0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder beside its data set, with nothing made yet; and lists that a path would reach."""
    folder = tmp_path_factory.mktemp("bounds")
    voc = generate(folder / "voc", train=1, val=1, seed=0, side=96)
    (voc / "ImageSets" / "outside.txt").write_text("val_000000\n")
    (voc / "ImageSets" / "Segmentation" / "a").mkdir()
    (voc / "ImageSets" / "Segmentation" / "a" / "b.txt").write_text("val_000000\n")
    save_recipe(load_recipe("tiny"), folder / "run" / "recipe.yaml")
    write_json(folder / "run" / "run.json", {})
    write_json(folder / "run" / "data.json", {"voc_root": str(voc)})
    (folder / "predictions").mkdir()
    (folder / "weights.safetensors").write_bytes(b"")
    return folder / "run"


def command(module: str, *arguments: object) -> int:
    """A command in this process: its exit status."""
    found = importlib.import_module(module)
    return run_command(found.parse(), found.main, [str(argument) for argument in arguments])


def splitting(run: Path) -> dict[str, list[object]]:
    """The arguments beside --split of every command that has one."""
    voc = run.parent / "voc" / "VOC2012"
    return {
        "stages.build_proposals": ["--run", run, "--voc-root", voc],
        "stages.infer": ["--run", run, "--fcn-weights", run.parent / "weights.safetensors", "--model", "fcn8s"],
        "stages.evaluate": ["--predictions", run.parent / "predictions", "--voc-root", voc],
        "experiments.proposal_recall": ["--voc-root", voc],
        "experiments.window_cost": ["--voc-root", voc],
        "experiments.reproduce": [run],
        "experiments.compare": [run, run],
        "experiments.figures": [run],
        "experiments.report": [run],
        "experiments.failures": [run, "--prediction", "fcn8s"],
    }


def files_of(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_every_command_with_a_split_is_looked_at(run: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    found = {f"{path.parent.name}.{path.stem}" for folder in ("stages", "experiments")
             for path in (root / folder).glob("*.py") if 'add_argument("--split"' in path.read_text()}
    assert found == set(splitting(run))


@pytest.mark.slow
@pytest.mark.parametrize("module", splitting(Path()))
def test_a_split_that_is_no_name_is_wrong_use(module: str, run: Path, capsys: pytest.CaptureFixture) -> None:
    before = files_of(run.parent)
    for split in PATHS:
        if split == "" and module in DEFAULTING:
            continue  # means the recipe's validation split
        capsys.readouterr()
        assert command(module, *splitting(run)[module], f"--split={split}") == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the split is" in line and "the name of a split list" in line and len(line) < 300
        assert files_of(run.parent) == before


@pytest.mark.parametrize("module", ["stages.build_proposals", "stages.infer"])
@pytest.mark.parametrize("workers", [-1, WORKERS_PER_CORE * default_workers() + 1, 10**9, 10**30])
def test_processes_without_end_are_wrong_use(module: str, workers: int, run: Path,
                                             capsys: pytest.CaptureFixture) -> None:
    assert command(module, *splitting(run)[module], "--workers", workers) == 2
    assert f"error: --workers {workers}: expected" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [
    ("train", 0), ("train", 10**6 + 1), ("val", 10**30), ("side", 95), ("side", 4097), ("seed", -1), ("seed", 2**63),
])
def test_synthetic_sets_have_bounds(option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command("experiments.synthetic_voc", tmp_path / "new", f"--{option}", value) == 2
    assert f"error: --{option} is {value}; expected at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", "x" * 5000])
def test_a_synthetic_set_whose_record_is_damaged_is_not_gone_on_with(text: str, tmp_path: Path) -> None:
    folder = generate(tmp_path, train=1, val=1, seed=0, side=96)
    (folder / "synthetic.json").write_text(text)
    with pytest.raises(UsageError, match="synthetic.json: this set was made with") as caught:
        generate(tmp_path, train=1, val=1, seed=0, side=96)
    assert len(str(caught.value)) < 500


def test_a_folder_in_a_checkpoints_place_costs_no_finished_weights(tmp_path: Path) -> None:
    (tmp_path / "last.pt").mkdir()
    for resume in (False, True):  # it began anew, and found out when it had written another best.pt
        with pytest.raises(UserError, match="last.pt: a folder"):
            _begin(SimpleNamespace(last=tmp_path / "last.pt", folder=tmp_path), resume)


@pytest.mark.parametrize(("kind", "section"), [("deconvnet", "network"), ("fcn8s", "fcn")])
def test_a_network_larger_than_the_machines_memory_is_not_begun(kind: str, section: str, monkeypatch) -> None:
    """At width 1/16 fc6 to fc6_deconv of DeconvNet are 32 x 256 x 2 weights at input 32, 256^2 in fc7: 330 kB."""
    recipe = load_recipe("tiny", ["network.width=0.0625", "network.input=32", "fcn.width=0.0625"])
    monkeypatch.setattr("deconvnet.models.build.machine_memory", lambda: 330_000)
    with pytest.raises(UserError, match=rf"recipe section {section} \(width 0.0625, .*: {kind}'s weights need"):
        build_network(kind, recipe)
    monkeypatch.setattr("deconvnet.models.build.machine_memory", lambda: 10_000_000)
    build_network(kind, recipe)


def test_the_machines_memory() -> None:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")]
    assert machine_memory() == pytest.approx(1024 * int(line.split()[1]), rel=0.01)


def test_numbers_of_boxes_have_bounds() -> None:
    assert parse_counts("10,200000") == [10, 200_000]
    for text in ("0", "200001", "1e3", "-1", "", "9" * 5000, ",".join(["1"] * 101), "\u0661x"):
        with pytest.raises(argparse.ArgumentTypeError, match="1 to 200000"):
            parse_counts(text)


def test_numbers_of_images_have_bounds() -> None:
    known = [f"id{index}" for index in range(300)]
    assert chosen_images("3", known) == ["id50", "id150", "id250"] and chosen_images("id7,id1", known) == ["id7", "id1"]
    for text in ("0", "201", "9" * 5000, ",".join(known), "id7,x", ""):
        with pytest.raises(UserError, match="--images"):
            chosen_images(text, known)


def test_windows_that_are_far_too_large_are_refused() -> None:
    """10 times 1,158 x 1,159 pixels is just above 2^27, 10 times 1,158 x 1,158 just below; far corners overflow."""
    assert enlarge(np.array([[0, 0, 1158, 1158]]), 10, "tight").tolist() == [[-5211, -5211, 6369, 6369]]
    for box in ([0, 0, 1158, 1160], [2**31 - 20, 0, 2**31 - 1, 9], [-(2**31), 0, 1 - 2**31, 9], [0, 0, 2**30, 1]):
        with pytest.raises(UserError, match="windows.enlarge"):
            enlarge(np.array([box]), 10, "tight")
    assert enlarge(np.zeros((0, 4)), 10, "square").shape == (0, 4)


class Failing(WindowCrops):
    """One window, which cannot be made."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: tuple[int, int]) -> object:
        raise self.error

    def example_id(self, row: int) -> str:
        return f"2007_000033[1,2,3,{row}]"


def opencv_error() -> cv2.error:
    """Made when it is needed: what its `err` and `func` say stands in the class, and is the last error's."""
    with pytest.raises(cv2.error) as caught:
        cv2.resize(np.zeros((0, 0), np.uint8), (3, 3))
    return caught.value


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError("Unable to allocate 8.00 GiB"), ("out of memory", "8.00 GiB", "train.micro_batch")),
    (opencv_error, ("ssize.empty", "OpenCV's resize")),
    (RuntimeError("several\nlines"), ("RuntimeError: several lines",)),
])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loading_process_raises_names_the_window(error: Exception, words: tuple[str, ...], workers: int) -> None:
    with pytest.raises(UserError) as caught:
        list(load(Failing(error() if error is opencv_error else error), [(0, 4)], 1, workers))
    assert str(caught.value).startswith("2007_000033[1,2,3,4]: ") and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def no_memory(_: str) -> dict[str, np.ndarray]:
    raise MemoryError


def test_what_a_proposing_process_raises_names_the_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out of memory.*\(image one;"):
        make_parts(tmp_path / "parts", ["one"], no_memory, 0, "stop", "test")


def torch_error() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


def deep(values: list) -> list:
    return [deep(values)]


def too_deep() -> Exception:
    with pytest.raises(RecursionError) as caught:
        deep([])
    return caught.value


@pytest.mark.parametrize(("error", "words"), [
    (torch_error(), ("out of memory", "network.width")),
    (MemoryError(), ("out of memory", "--workers")),
    (FileExistsError(17, "File exists", "notes.txt"), ("notes.txt: a file; expected a folder",)),
    (too_deep(), ("nested too deeply",)),
    (opencv_error, ("!ssize.empty() in OpenCV's resize",)),
    (ValueError("x" * 5000), ("ValueError: xxx", "...")),
    (ValueError(), ("ValueError: no details",)),
    (UserError(f"a.h5: format version {'[' * 5000}, this\nprogram"), ("a.h5: format", "[[[...[[[", "this program")),
])
def test_every_error_is_a_short_line(error: Exception, words: tuple[str, ...]) -> None:
    line = describe(error() if error is opencv_error else error)
    assert "\n" not in line and len(line) < 500 and ".cpp" not in line
    assert all(word in line for word in words), line


def test_defaults_stay_within_bounds() -> None:
    assert enlarge(np.array([[0, 0, 500, 375]]), Windows().enlarge, "tight").tolist() == [[-50, -37, 550, 413]]
