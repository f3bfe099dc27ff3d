"""Which steps of a run are done: each file that is touched starts the steps again that may use it, and no other."""

import json
import os
import shutil
from pathlib import Path

import pytest

from deconvnet.data.synthetic import generate
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from stages.done import Done
from stages.run import run_all
from stages.steps import Step


def writes(*files: str) -> tuple[str, ...]:
    """The arguments of python that write files. The first that finds a file `slip` also touches what stands in it."""
    return ("-c", "import os, pathlib, sys\n"
            "for name in sys.argv[1:]:\n    path = pathlib.Path(name)\n"
            "    path.parent.mkdir(exist_ok=True, parents=True)\n    path.write_text(name)\n"
            "if os.path.exists('slip'):\n    os.utime(pathlib.Path('slip').read_text())\n    os.remove('slip')\n",
            *files)


PLAN = [
    Step(writes("run/recipe.yaml", "run/windows/a.h5"), 1.0, ("recipe.yaml", "windows/*.h5")),
    Step(writes("run/stage1/last.pt", "run/stage1/network.safetensors"), 2.0, ("stage1/[!.]*",)),
    Step(writes("run/labels/a.png", "run/labels/b.png"), 3.0, ("labels/*.png",)),
    Step(("-c", "print('the table')"), 1.0),
]
RECIPE = load_recipe("tiny", ["data.train_split=train", "data.val_split=val"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    generate(root / "data", train=2, val=1, seed=0, side=96)
    generate(root / "other", train=1, val=1, seed=1, side=96)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a data set, weights that were given, and after the first run the run's folder."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    (root / "vgg16.pth").touch()
    monkeypatch.chdir(root)
    monkeypatch.delenv("DECONVNET_VOC_ROOT", raising=False)
    return root


def started(capfd: pytest.CaptureFixture, voc_root: str | None = "data/VOC2012", plan: list[Step] = PLAN,
            recipe: Recipe = RECIPE) -> list[int]:
    """Runs the plan; the numbers of the steps that were started; the others must be told as done."""
    done = Done(Path("run"), plan, recipe, Path(voc_root) if voc_root else None, [Path("vgg16.pth"), None])
    run_all(Path("run"), done)
    out = capfd.readouterr().out
    found = [number for number in range(len(plan)) if f"\nstep {number + 1} of {len(plan)}" in out
             and f"step {number + 1} of {len(plan)} is done: " not in out]
    assert out.count("$ python -c") == len(found) and out.count(" is done: ") == len(plan) - len(found)
    return found


def test_what_is_done_is_not_started_again(root: Path, capfd) -> None:
    assert started(capfd) == [0, 1, 2, 3]
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*.[hps][5na]*")}
    assert started(capfd) == [3] == started(capfd)  # the last makes no file, and is run every time
    assert len(before) == 4 and all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(("touched", "steps"), [
    ("data/VOC2012/JPEGImages/train_000001.jpg", [0, 1, 2, 3]),
    ("data/VOC2012/SegmentationClass/val_000000.png", [0, 1, 2, 3]),
    ("data/VOC2012/SegmentationObject/val_000000.png", [0, 1, 2, 3]),
    ("vgg16.pth", [0, 1, 2, 3]),
    ("run/recipe.yaml", [0, 1, 2, 3]), ("run/windows/a.h5", [0, 1, 2, 3]),
    ("run/stage1/last.pt", [1, 2, 3]), ("run/stage1/network.safetensors", [1, 2, 3]),
    ("run/labels/b.png", [2, 3]),
])
def test_a_touched_file_starts_the_steps_that_may_use_it(touched: str, steps: list[int], root: Path, capfd) -> None:
    started(capfd)
    content = Path(touched).read_bytes()
    Path(touched).write_bytes(content)  # the same, but nobody looked into it
    assert started(capfd) == steps and started(capfd) == [3]
    stat = os.stat(touched)
    Path(touched).write_bytes(content[::-1])
    os.utime(touched, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same size and time, as cp -p leaves it
    assert started(capfd) == steps
    Path(touched).unlink()
    if touched.startswith("data/"):
        assert started(capfd)[:3] == [0, 1, 2]
    elif touched.startswith("run/"):
        assert started(capfd) == steps


def test_a_changed_list_is_another_data_set(root: Path, capfd) -> None:
    started(capfd)
    Path("data/VOC2012/ImageSets/Segmentation/train.txt").write_text("train_000000\n")
    assert started(capfd) == [0, 1, 2, 3] and started(capfd) == [3]
    assert started(capfd, "other/VOC2012") == [0, 1, 2, 3]


def test_another_command_or_another_version_is_started(root: Path, capfd, monkeypatch) -> None:
    started(capfd)
    other = [PLAN[0], Step((*PLAN[1].arguments, "run/stage1/more"), 2.0, PLAN[1].makes), *PLAN[2:]]
    assert started(capfd, plan=other) == [1, 2, 3] and started(capfd, plan=other) == [3]
    monkeypatch.setattr("stages.done.provenance", lambda: {"commit": "another"})
    assert started(capfd, plan=other) == [0, 1, 2, 3]


def test_a_run_that_this_one_stands_on_counts(root: Path, capfd) -> None:
    Path("first/windows").mkdir(parents=True)
    Path("first/windows/a.h5").touch()
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps({"from": str(root / "first")}))
    started(capfd)
    assert started(capfd) == [3]
    Path("first/windows/a.h5").write_text("others")
    assert started(capfd) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{", "[]", '{"steps": {"x": {"read": 1}}}', ""])
def test_a_damaged_record_starts_every_step(text: str, root: Path, capfd) -> None:
    started(capfd)
    Path("run/steps.json").write_text(text)
    assert started(capfd) == [0, 1, 2, 3] and started(capfd) == [3]


def test_what_was_touched_while_a_step_ran_starts_it_again(root: Path, capfd) -> None:
    Path("slip").write_text("data/VOC2012/JPEGImages/train_000001.jpg")
    assert started(capfd) == [0, 1, 2, 3] and not Path("slip").exists()
    assert started(capfd) == [0, 1, 2, 3] and started(capfd) == [3]


def test_a_data_set_that_the_first_step_makes(root: Path, capfd) -> None:
    """Then the run folder tells where it is."""
    first = Step((PLAN[0].arguments[0], PLAN[0].arguments[1] + "pathlib.Path('run/data.json').write_text("
                  f"""'{{"voc_root": "{root}/data/VOC2012"}}')""", *PLAN[0].arguments[2:]), 1.0, PLAN[0].makes)
    plan = [first, *PLAN[1:]]
    assert started(capfd, None, plan) == [0, 1, 2, 3] and started(capfd, None, plan) == [3]
    os.utime("data/VOC2012/JPEGImages/train_000001.jpg")
    assert started(capfd, None, plan) == [0, 1, 2, 3]


def test_only_whole_steps_are_measured(root: Path, capfd) -> None:
    """The second half of a training is no measure of a training; what it took as a whole stays known."""
    Path("run/stage1").mkdir(parents=True)
    Path("run/stage1/last.pt").touch()  # it has begun
    started(capfd)
    done = Done(Path("run"), PLAN, RECIPE, Path("data/VOC2012"), [])
    assert done.seconds().keys() == {0, 2} and all(seconds > 0 for seconds in done.seconds().values())
    Path("run/labels/a.png").unlink()
    before = done.seconds()
    assert started(capfd) == [2, 3]
    assert Done(Path("run"), PLAN, RECIPE, Path("data/VOC2012"), []).seconds() == before
