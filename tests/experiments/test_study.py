"""Studies: which commands they are, against lists by hand; miniature ones through the command, interrupted and
continued, with their tables held against the label maps.
"""

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deconvnet.data.images import read_label_png
from deconvnet.data.voc import VocFolder
from deconvnet.support.errors import UserError
from experiments.studies import load_study, study_names
from experiments.study import main, parse
from stages import step_runner
from stages.cli import run_command
from tests.training_runs import build

TRAINING = """
question: One stage or two?
paper: two
trains: true
set: ["train.iterations=[2,2]"]
seeds: [0, 1]
rows: [DeconvNet]
variants:
  - {name: two}
  - {name: one, set: [train.stage2_from=nothing]}
"""
LABELLING = """
question: Which maximum?
paper: max
trains: false
rows: [DeconvNet]
variants:
  - {name: max}
  - {name: sum, set: [infer.aggregate=sum]}
"""
CHOOSING = """
question: How many mean-field iterations?
paper: ten
trains: false
rows: [DeconvNet, DeconvNet+CRF]
choose: {split: train, row: DeconvNet+CRF}
variants:
  - {name: none, set: [crf.iterations=0]}
  - {name: two, set: [crf.iterations=2]}
  - {name: three, set: [crf.iterations=3]}
"""


def study(*arguments: object) -> int:
    return run_command(parse(), main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with proposals and windows of 12 images."""
    run = build(tmp_path_factory.mktemp("base"), (1, 2))
    (run.root / "data.json").write_text(json.dumps({"voc_root": str(run.voc_root)}))
    return run.root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    for name, text in (("stages", TRAINING), ("aggregate", LABELLING), ("crf", CHOOSING)):
        (root / f"{name}.yaml").write_text(text)
    return root


class Steps:
    """Stands in for run_step: the same commands, in this process; stops before one of them as Ctrl-C would."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.started: list[str] = []
        patch.setattr(step_runner, "run_step", self)

    def __call__(self, arguments: Sequence[str]) -> float:
        if len(self.started) == self.stop_before:
            raise KeyboardInterrupt
        self.started.append(" ".join(arguments))
        module = importlib.import_module(arguments[1])
        if run_command(module.parse(), module.main, list(arguments[2:])):
            raise UserError("the step failed")
        return 0.5


def mean_iou(run: Path, folder: str, voc_root: Path, split: str = "val") -> float:
    """By sets of pixels, of a run's label maps and the masks."""
    voc = VocFolder(voc_root, load_classes(run))
    pairs = [(read_label_png(run / "predictions" / split / folder / f"{one}.png"), voc.read_mask(one))
             for one in voc.image_ids(split)]
    labels, masks = (np.concatenate([pair[place].ravel() for pair in pairs]) for place in (0, 1))
    labels, masks = labels[masks != 255], masks[masks != 255]
    shares = [((labels == label) & (masks == label)).sum() / either
              for label in range(21) if (either := ((labels == label) | (masks == label)).sum())]
    return float(np.mean(shares))


def load_classes(run: Path) -> list[str]:
    return json.loads(next(run.glob("predictions/*/*/settings.json")).read_text())["classes"]


@pytest.fixture(scope="module")
def trained(base: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The training study's folder after it was interrupted, continued, and called again; what each call started."""
    to, calls = tmp_path_factory.mktemp("trained") / "to", []
    with pytest.MonkeyPatch.context() as patch:
        for stop_before, status in ((5, 130), (None, 0), (None, 0)):
            steps = Steps(patch, stop_before)
            assert study(files / "stages.yaml", "--from", base, "--to", to, "--device", "cpu") == status
            calls.append(steps.started)
    return to, calls


def test_commands_of_a_study_that_trains(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One stage has no stage 1; the first command of each run starts it on the base."""
    assert study(files / "stages.yaml", "--to", tmp_path, "--dry-run", "--voc-root", "images", "--set", "solver.lr=1",
                 "--seeds", "7", "--device", "cpu") == 0
    start = "--from T/base --set 'train.iterations=[2,2]' --set solver.lr=1"
    labelled = ["stages.infer --run T/{} --aggregate max --ensemble none --split val --device cpu",
                "stages.evaluate --run T/{} --split val"]
    assert capsys.readouterr().out.replace(str(tmp_path), "T").replace("python -m ", "").splitlines() == [
        "stages.build_proposals --run T/base --recipe demo --voc-root images",
        f"stages.train --run T/two-seed7 --stage 1 --device cpu {start} --set seed=7",
        "stages.train --run T/two-seed7 --stage 2 --device cpu",
        *(line.format("two-seed7") for line in labelled),
        f"stages.train --run T/one-seed7 --stage 2 --device cpu {start} --set train.stage2_from=nothing --set seed=7",
        *(line.format("one-seed7") for line in labelled),
    ]


def make_networks(run: Path) -> None:
    for name in ("stage2", "fcn8s"):
        (run / name).mkdir(exist_ok=True)
        (run / name / "network.safetensors").touch()


def test_commands_of_a_study_that_chooses(files: Path, base: Path, tmp_path: Path, capsys) -> None:
    """On the training split first; only the chosen one and the first see the validation split."""
    shutil.copytree(base, tmp_path / "base")
    make_networks(tmp_path / "base")
    assert study(files / "crf.yaml", "--from", tmp_path / "base", "--to", tmp_path / "to", "--dry-run") == 0
    weights = "--weights T/base/stage2/network.safetensors"
    infer = "stages.infer --run T/to/{} --aggregate max --ensemble none{} --split {} " + weights
    score = "stages.evaluate --run T/to/{} --split {}"
    start = " --from T/base --set crf.iterations={}"
    lines = capsys.readouterr().out.replace(str(tmp_path), "T").replace("python -m ", "").splitlines()
    chosen_on = [line for name, count in (("none", 0), ("two", 2), ("three", 3)) for line in (
        infer.format(name, " --crf", "train") + start.format(count), score.format(name, "train"))]
    assert lines[:6] == chosen_on and lines[6].startswith("# then for none, and for the variant with the highest")
    assert lines[7:] == [
        infer.format("none", "", "val") + start.format(0), infer.format("none", " --crf", "val"),
        score.format("none", "val"),
        infer.format("CHOSEN", "", "val") + " --from T/base", infer.format("CHOSEN", " --crf", "val"),
        score.format("CHOSEN", "val")]


def test_the_second_network_of_an_ensemble_is_the_bases_too(base: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(base, tmp_path / "base")
    make_networks(tmp_path / "base")
    assert study("ensemble", "--from", tmp_path / "base", "--to", tmp_path / "to", "--dry-run") == 0
    lines = capsys.readouterr().out.replace(str(tmp_path), "T").splitlines()
    assert lines[0] == ("python -m stages.infer --run T/to/mean --aggregate max --ensemble fcn --split val --weights "
                        "T/base/stage2/network.safetensors --fcn-weights T/base/fcn8s/network.safetensors --from "
                        "T/base --set infer.ensemble_rule=mean")


@pytest.mark.slow
def test_every_study_says_its_question_and_its_commands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert study() == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in listed] == study_names() and len(listed) >= 8
    for name in study_names():
        found = load_study(name)
        assert found.question.endswith("?") and f"{name}: {found.question}" in listed


@pytest.mark.slow
def test_interrupted_and_continued(trained: tuple[Path, list[list[str]]]) -> None:
    """Two stages, two seeds: (2 trainings + 2) each; one stage: (1 + 2) each; 14 in all. What is done is not begun."""
    _, (first, second, third) = trained
    assert len(first) == 5 and len(second) == 9 and not third
    assert not {*first} & {*second}
    assert [line.split()[3].rsplit("/")[-1] for line in second if "stages.evaluate" in line] == [
        "two-seed1", "one-seed0", "one-seed1"]


@pytest.mark.slow
def test_the_table_is_that_of_the_label_maps(trained, base: Path, capsys) -> None:
    to, _ = trained
    found = json.loads((to / "study.json").read_text())
    voc = Path(json.loads((base / "data.json").read_text())["voc_root"])
    values = {name: [mean_iou(to / f"{name}-seed{seed}", "deconvnet-max", voc) for seed in (0, 1)]
              for name in ("two", "one")}
    assert len({value for pair in values.values() for value in pair}) > 1  # else nothing is tested
    for line in found["table"]:
        own = values[line["variant"]]
        assert line["mean_iou"] == pytest.approx(np.mean(own)) and line["spread"] == pytest.approx(np.std(own, ddof=1))
    apart = [one["difference"] for one in found["table"][1]["differences"]]
    assert apart == pytest.approx(np.subtract(values["one"], values["two"])) and not found["table"][0]["differences"]
    text = (to / "study.md").read_text()
    assert f"{100 * np.mean(values['one']):.1f}" in text and f"{100 * np.std(values['one'], ddof=1):.1f} of 2" in text


@pytest.mark.slow
def test_the_record_names_each_runs_recipe_commit_and_seed(trained, base: Path) -> None:
    """And no folder of this machine: records are committed."""
    to, _ = trained
    found = json.loads((to / "study.json").read_text())
    assert [(run["variant"], run["seed"]) for run in found["runs"]] == [("two", 0), ("two", 1), ("one", 0), ("one", 1)]
    assert all(run["commit"] and run["folder"] == f"{run['variant']}-seed{run['seed']}" for run in found["runs"])
    assert {run["base"] for run in found["runs"]} == {base.name}
    assert str(to) not in (to / "study.json").read_text() and str(base) not in (to / "study.json").read_text()
    recipes = [found["recipe"] | run["recipe"] for run in found["runs"]]
    assert [recipe["train.stage2_from"] for recipe in recipes] == ["best"] * 2 + ["nothing"] * 2
    assert all(recipe["train.iterations"] == [2, 2] and recipe["network.input"] == 32 for recipe in recipes)


@pytest.mark.slow
def test_one_networks_labels_from_shared_scores(trained, files: Path, base: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A study without trainings, on two runs: the base's saved scores are read, not made again, and not touched."""
    bases = [trained[0] / "two-seed0", trained[0] / "two-seed1"]
    before = {path: path.stat().st_mtime_ns for one in bases for path in one.rglob("*")}
    steps = Steps(monkeypatch)
    assert study(files / "aggregate.yaml", "--from", *bases, "--to", tmp_path / "to", "--device", "cpu") == 0
    assert len(steps.started) == 8
    assert {path: path.stat().st_mtime_ns for one in bases for path in one.rglob("*")} == before
    links = [path for path in (tmp_path / "to/scores").rglob("*.h5") if path.is_symlink()]
    assert len(links) == 6 and all((tmp_path / "to" / name / "scores").samefile(tmp_path / "to/scores")
                                   for name in ("max-on0", "sum-on1"))
    assert len([path for path in (tmp_path / "to/scores").rglob("*.h5")]) == 12  # max: linked; sum: made
    found = json.loads((tmp_path / "to/study.json").read_text())
    voc = Path(json.loads((base / "data.json").read_text())["voc_root"])
    for name in ("max", "sum"):
        own = [mean_iou(tmp_path / "to" / f"{name}-on{number}", f"deconvnet-{name}", voc) for number in (0, 1)]
        line = next(line for line in found["table"] if line["variant"] == name)
        assert line["mean_iou"] == pytest.approx(np.mean(own))
    same = [mean_iou(one, "deconvnet-max", voc) for one in bases]
    assert found["table"][0]["mean_iou"] == pytest.approx(np.mean(same))


@pytest.mark.slow
def test_a_choice_is_made_on_training_images_alone(trained, files: Path, base: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    assert study(files / "crf.yaml", "--from", trained[0] / "two-seed0", "--to", tmp_path / "to", "--device", "cpu",
                 "--workers", 1) == 0
    found = json.loads((tmp_path / "to/study.json").read_text())
    voc = Path(json.loads((base / "data.json").read_text())["voc_root"])
    reached = {name: mean_iou(tmp_path / "to" / name, "deconvnet-max-crf", voc, "train")
               for name in ("none", "two", "three")}
    assert found["choice"]["mean_iou"] == pytest.approx(reached) and found["choice"]["images"] == 9
    best = max(reached, key=lambda name: reached[name])
    assert found["choice"]["chosen"] == best
    seen = [path.parts[-3] for path in sorted((tmp_path / "to").glob("*/predictions/val"))]
    assert seen == sorted({"none", best}) and [run["variant"] for run in found["runs"]] == list(
        dict.fromkeys(["none", best]))
    assert all("--split train" in line for line in steps.started[:6])


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (("nothing",), "study 'nothing': not one of aggregate,"),
    (("proposals",), "name it with --from RUN"),
    (("proposals", "--from", "nowhere"), "--from nowhere: not a run folder"),
    (("stages", "--from", "a", "b"), "not a run folder"),
    (("photographs",), "--vgg16 None: no such file"),
    (("stages", "--workers", "0"), "--workers 0"),
    (("stages", "--set", "solver.speed=1"), "solver.speed"),
])
def test_wrong_use(tmp_path: Path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert study(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "message"), [
    ("question: [", "not valid YAML"), ("question: a", "paper: Field required"),
    (TRAINING.replace("seeds", "sedes"), "sedes: Extra inputs"),
    (TRAINING.replace("name: one", "name: two"), "same name"),
    (TRAINING.replace("rows: [DeconvNet]", "rows: [Other]"), "row 'Other'"),
    (TRAINING.replace("stage2_from", "stage3_from"), "stage3_from"),
    (TRAINING.replace("name: one", "name: ../one"), "name"),
    (CHOOSING.replace("trains: false", "trains: true"), "choose is for studies that train nothing"),
])
def test_a_wrong_file(tmp_path: Path, capsys, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert study(tmp_path / "own.yaml", "--to", tmp_path / "to") in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
