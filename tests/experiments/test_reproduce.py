"""`python -m experiments.reproduce`: the paper's numbers, a run's own, means and differences against NumPy."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from deconvnet.conventions import VOC_CLASSES
from deconvnet.evaluation.metrics import ConfusionMatrix
from deconvnet.evaluation.rows import Row, infer_command, paper_rows, table_rows
from deconvnet.recipe import recipe_to_dict
from deconvnet.recipe_files import load_recipe, save_recipe
from experiments.reproduce import main, parse
from experiments.table1 import paper_table
from stages.cli import run_command

FOLDERS = ["fcn8s", "deconvnet-max", "deconvnet-max-crf", "deconvnet-max-fcn", "deconvnet-max-fcn-crf"]


def reproduce(*arguments: object) -> int:
    return run_command(parse(), main, list(map(str, arguments)))


def score_row(run: Path, folder: str, classes: list[str], seed: int, absent: tuple[str, ...] = (),
              split: str = "val") -> ConfusionMatrix:
    """Writes what stages.evaluate would for random label maps; `absent` classes occur nowhere."""
    random = np.random.default_rng(seed)
    present = [index for index, name in enumerate(classes) if name not in absent]
    matrix = ConfusionMatrix(classes)
    truth = random.choice(present, (2, 50, 60)).astype(np.uint8)
    right = random.random(truth.shape) < 0.6
    for number, (own, keep) in enumerate(zip(truth, right, strict=True)):
        matrix.add(np.where(keep, own, random.choice(present, own.shape)).astype(np.uint8), own, str(number))
    path = run / "predictions" / split / folder / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"split": split, **matrix.summary()}))
    return matrix


def make_run(root: Path, overrides: list[str] | None = None) -> Path:
    root.mkdir()
    save_recipe(load_recipe("tiny", overrides or []), root / "recipe.yaml")
    (root / "run.json").write_text(json.dumps({"commit": "abc123", "packages": {}}))
    (root / "data.json").write_text(json.dumps({"voc_root": "/some/where/data/VOC2012"}))
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def table(run: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (run / "report" / "table1.csv").open(newline="") as file:
        return {(line["row"], line["class"]): line for line in csv.DictReader(file)}


def test_paper_means_derive_from_their_own_columns() -> None:
    paper = paper_table()
    for row in paper_rows("max"):
        numbers = paper[row.paper]
        assert np.mean([numbers[name] for name in VOC_CLASSES]) == pytest.approx(numbers["mean"], abs=0.051), row.title
    assert [paper[row.paper]["mean"] for row in paper_rows("max")] == [62.2, 69.6, 70.5, 71.7, 72.5]
    assert paper["EDeconvNet+CRF"]["cat"] == 86.1 and paper["FCN8s"]["background"] == 91.2


def test_all_rows_beside_the_paper(run: Path, capsys: pytest.CaptureFixture) -> None:
    matrices = [score_row(run, folder, VOC_CLASSES, seed) for seed, folder in enumerate(FOLDERS)]
    assert reproduce(run, "--subset-classes", "cat,dog") == 0
    out = capsys.readouterr().out
    lines = table(run)
    for row, matrix in zip(paper_rows("max"), matrices, strict=True):
        hits = np.diag(matrix.counts)
        iou = 100 * hits / (matrix.counts.sum(0) + matrix.counts.sum(1) - hits)
        theirs = paper_table()[row.paper]
        expected = dict(zip(VOC_CLASSES, iou, strict=True)) | {
            "mean": iou.mean(), "subset mean": (iou[VOC_CLASSES.index("cat")] + iou[VOC_CLASSES.index("dog")]) / 2}
        theirs["subset mean"] = (theirs["cat"] + theirs["dog"]) / 2
        for name, value in expected.items():
            line = lines[row.title, name]
            assert float(line["this_run"]) == pytest.approx(value, abs=1e-9), (row.title, name)
            assert float(line["paper_voc2012_test"]) == pytest.approx(theirs[name], abs=1e-9)
            assert float(line["difference"]) == pytest.approx(value - theirs[name], abs=1e-9)
        assert f"{theirs['cat']:.1f} {expected['cat']:.1f} {expected['cat'] - theirs['cat']:+.1f}" in out
    assert "different tasks" in out and "paper (VOC 2012 test)" in out and "Not run" not in out
    assert "stage 2: not trained in this run folder" in out
    assert (run / "report" / "table1.md").read_text() in out
    written = json.loads((run / "report" / "table1.json").read_text())
    assert len(written["table"]) == 5 * 23 and written["not_run"] == {}
    assert written["images"]["DeconvNet"] == 2
    assert written["pixel_accuracy"]["DeconvNet"] == pytest.approx(
        100 * np.diag(matrices[1].counts).sum() / matrices[1].counts.sum())
    share = 100 * matrices[0].counts[0].sum() / matrices[0].counts.sum() / 21
    assert written["background_only"] == pytest.approx(share)
    assert f"nothing but background would have a mean of {share:.1f} here" in out


def test_missing_rows_come_with_their_commands(run: Path, capsys: pytest.CaptureFixture) -> None:
    score_row(run, "fcn8s", VOC_CLASSES, 0)
    (run / "predictions/val/deconvnet-max").mkdir()  # predicted, not scored
    assert reproduce(run) == 0
    out = capsys.readouterr().out
    assert out.count("not run") == 4
    evaluate = f"python -m stages.evaluate --run {run} --predictions %s --split val"
    assert f"- DeconvNet: `{evaluate % 'deconvnet-max'}`" in out
    assert (f"- EDeconvNet+CRF: `python -m stages.infer --run {run} --aggregate max --ensemble fcn --crf --split val "
            f"&& {evaluate % 'deconvnet-max-fcn-crf'}`") in out
    assert table(run)["DeconvNet", "mean"]["this_run"] == "" and table(run)["DeconvNet", "mean"]["difference"] == ""


def test_another_split(run: Path) -> None:
    score_row(run, "fcn8s", VOC_CLASSES, 0)
    matrix = score_row(run, "fcn8s", VOC_CLASSES, 1, split="test")
    assert reproduce(run, "--split", "test") == 0
    line = table(run)["FCN-8s", "mean"]
    assert float(line["this_run"]) == pytest.approx(100 * matrix.mean_iou(), abs=1e-9)
    assert line["this_run_on"] == "test"


def test_absent_classes_are_left_out_of_the_mean_and_named(run: Path, capsys: pytest.CaptureFixture) -> None:
    matrix = score_row(run, "fcn8s", VOC_CLASSES, 0, absent=("sofa", "train"))
    assert reproduce(run) == 0
    assert float(table(run)["FCN-8s", "mean"]["this_run"]) == pytest.approx(100 * matrix.mean_iou(), abs=1e-9)
    assert "truth and prediction lack them (in one row at least): sofa, train." in capsys.readouterr().out


def test_what_the_run_used_is_read_from_its_files(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "stage1").mkdir()
    for name in ("stage2", "fcn8s"):
        (run / name).mkdir()
        (run / name / "log.csv").write_text("iteration,rate,loss,pixel_accuracy,validation_loss,"
                                             "validation_accuracy,validation_mean_iou,images_per_second\n")
    (run / "stage1/log.csv").write_text(
        "iteration,rate,loss,pixel_accuracy,validation_loss,validation_accuracy,validation_mean_iou,images_per_second\n"
        "20,0.01,2.5,0.3,,,,100\n200,0.001,1.25,0.5,1.3,0.5125,0.125,100\n220,0.001,1.2,0.5,,,,100\n"
        "240,0.0")  # a kill cut the last line
    recipe = load_recipe("tiny")
    planned = recipe.train
    assert reproduce(run) == 0
    out = capsys.readouterr().out
    assert (f"stage 1: 220 of {planned.iterations[0]:,} iterations of {planned.batch} windows, learning rate 0.01 to "
            "0.001, loss 1.200; validation pixel accuracy 51.2, mean IoU 12.5") in out
    assert f"stage 2: 0 of {planned.iterations[1]:,} iterations" in out
    (line,) = (line for line in out.splitlines() if line.startswith("- Training, fcn8s"))
    assert "width 0.125, fc6_kernel 3" in line and f"canvas 128; 0 of {recipe.fcn.iterations[2]:,} iterations" in line
    assert "data/VOC2012" in out and "commit abc123" in out
    assert "/some/where" not in (out.partition("## Not run")[0])  # a place on this machine says nothing to a reader


def test_keys_that_inference_was_given_are_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("deconvnet-max", "deconvnet-max-crf"):
        score_row(run, folder, VOC_CLASSES, 0)
    own = recipe_to_dict(load_recipe(run / "recipe.yaml"))
    used = {name: value for name, value in own.items() if name.startswith(("infer.", "crf.", "runtime."))}
    (run / "predictions/val/deconvnet-max/settings.json").write_text(json.dumps({"recipe": used}))
    (run / "predictions/val/deconvnet-max-crf/settings.json").write_text(json.dumps(
        {"recipe": used | {"crf.iterations": 3, "infer.aggregate": "max"}}))
    assert reproduce(run) == 0
    assert "- Otherwise than the recipe: DeconvNet+CRF: crf.iterations = 3\n" in capsys.readouterr().out


def test_rows_of_different_networks_are_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Stage 1's network labelled before stage 2's was there; FCN's is the same everywhere."""
    made = {"fcn8s": (["fcn8s-9"], ["fcn8s"]), "deconvnet-max": (["deconvnet-max-1"], ["stage1"]),
            "deconvnet-max-fcn": (["deconvnet-max-2", "fcn8s-9"], ["stage2", "fcn8s"])}
    for folder, (scores, trained) in made.items():
        score_row(run, folder, VOC_CLASSES, 0)
        (run / "predictions/val" / folder / "settings.json").write_text(json.dumps({
            "settings": {"scores": scores},
            "weights": [f"/some/where/{name}/network.safetensors" for name in trained]}))
    assert reproduce(run) == 0
    out = capsys.readouterr().out
    assert "- Otherwise than the recipe: DeconvNet: weights stage1/network.safetensors\n" in out
    assert "DeconvNet on deconvnet-max-1; EDeconvNet on deconvnet-max-2\n" in out
    assert "Rows of different networks" in out and "/some/where" not in out.partition("## Not run")[0]


def test_a_recipe_that_lost_a_key_is_refused(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Else the report would tell the paper's value."""
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text("".join(line for line in text.splitlines(True) if "count:" not in line))
    assert reproduce(run) != 0
    assert "proposals.count" in capsys.readouterr().err


def test_other_classes_have_no_paper_columns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    classes = ["background", "cat", "tree"]
    run = make_run(tmp_path / "own", [f"data.classes=[{','.join(classes)}]"])
    score_row(run, "deconvnet-sum", classes, 3)
    assert reproduce(run, "--aggregate", "sum") == 0
    out = capsys.readouterr().out
    assert "paper (VOC" not in out and "different tasks" not in out and "not VOC's 21" in out
    assert table(run)["DeconvNet", "tree"]["paper_voc2012_test"] == "" != table(run)["DeconvNet", "tree"]["this_run"]
    assert reproduce(run, "--server-result", "fcn8s=x.csv") == 2


def test_a_server_result_is_the_same_task(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def server_file(lines: list[str]) -> Path:
        (tmp_path / "server.csv").write_text("\n".join(["class,iou", *lines]) + "\n")
        return tmp_path / "server.csv"

    path = server_file([f"{name},{50 + index}" for index, name in enumerate(VOC_CLASSES)])
    assert reproduce(run, "--server-result", f"deconvnet-max={path}") == 0
    out = capsys.readouterr().out
    assert float(table(run)["DeconvNet", "mean"]["difference"]) == pytest.approx(60 - 69.6, abs=1e-9)
    assert "Not so DeconvNet: from the VOC 2012 test server" in out
    assert "DeconvNet" not in json.loads((run / "report/table1.json").read_text())["different_tasks"]
    assert reproduce(run, *(part for row in FOLDERS for part in ("--server-result", f"{row}={path}"))) == 0
    assert "different tasks" not in capsys.readouterr().out
    for lines in (["cat,50"], [f"{name},500" for name in VOC_CLASSES], ["cat,many"]):
        assert reproduce(run, "--server-result", f"fcn8s={server_file(lines)}") == 1
        assert capsys.readouterr().err.startswith(f"error: {path}: ")


def test_errors_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(word: str, *arguments: object) -> None:
        assert reproduce(*arguments) != 0
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and word in err, err

    refused("recipe.yaml", tmp_path / "nothing")
    (run / "data.json").write_text("{")
    refused("data.json: damaged", run)
    (run / "data.json").unlink()
    refused("'lion'", run, "--subset-classes", "lion")
    refused("ROW=FILE", run, "--server-result", "server.csv")
    refused(f"stages.infer --run {run} --split tset` makes them", run, "--split", "tset")
    assert not (run / "report").exists()
    path = run / "predictions/val/fcn8s/metrics.json"
    score_row(run, "fcn8s", ["background", "cat"], 0)
    refused("run stages.evaluate again", run)
    for content, word in (("{", "Invalid JSON"), ("[]", "run stages.evaluate again"), ('{"split": "val"}', "images")):
        path.write_text(content)
        refused(word, run)
    matrix = ConfusionMatrix(VOC_CLASSES)
    path.write_text(json.dumps({"split": "train", **matrix.summary()}))
    refused("split 'train'", run)


def test_a_network_that_the_paper_has_not_is_a_row_without_its_number(run: Path) -> None:
    for seed, folder in enumerate(FOLDERS):
        score_row(run, folder, VOC_CLASSES, seed)
    matrix = score_row(run, "segnet", VOC_CLASSES, 9)
    assert reproduce(run) == 0
    line = table(run)["SegNet", "mean"]
    hits = np.diag(matrix.counts)
    iou = hits / (matrix.counts.sum(0) + matrix.counts.sum(1) - hits)
    assert float(line["this_run"]) == pytest.approx(100 * iou.mean()) and line["paper_voc2012_test"] == ""
    written = json.loads((run / "report" / "table1.json").read_text())
    assert len(written["table"]) == 6 * 22 and "Training, segnet" not in written["run"]
    (run / "segnet").mkdir()
    assert reproduce(run) == 0
    written = json.loads((run / "report" / "table1.json").read_text())
    assert written["run"]["Training, segnet"].startswith("width 0.125, canvas 128; not trained")


def test_rows_are_where_stages_infer_puts_them() -> None:
    assert [row.folder for row in paper_rows("max")] == FOLDERS
    assert table_rows("max")[:5] == paper_rows("max")
    assert table_rows("max")[5:] == [
        Row("SegNet", None, "segnet", ("--model", "segnet", "--aggregate", "max"), ("segnet",))]
    windows = load_recipe("tiny", ["segnet.examples=windows"])
    assert [row.folder for row in table_rows("sum", windows)[5:]] == ["segnet-sum"]
    assert infer_command(table_rows("sum")[2], Path("r"), "val") == (
        "-m stages.infer --run r --aggregate sum --ensemble none --crf --split val").split()
