"""SegNet through the commands: trained as its keys say, scored on whole images or windows, a row of the table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deconvnet.data.synthetic import generate
from deconvnet.models.weight_files import read_safetensors
from experiments import figures, reproduce
from stages import bn_statistics, build_proposals, evaluate, infer, train
from stages.cli import run_command
from tests import training_truth as truth
from tests.models.test_segnet import by_hand
from tests.reference_inference import MEAN

pytestmark = pytest.mark.slow
SIDE = 96
KEYS = ("windows.warp=36", "network.input=32", "segnet.width=0.0625", "segnet.canvas=128", "segnet.iterations=3",
        "segnet.batch=4", "segnet.micro_batch=2", "segnet.lr=0.02", "bn_statistics.batches=2", "bn_statistics.batch=3",
        "train.validate_every=2", "train.workers=0", "proposals.count=50", "infer.score_type=float32")


def run_all(root: Path, *keys: str) -> Path:
    voc = generate(root / "voc", train=4, val=2, seed=0, side=SIDE)
    run = root / "run"
    settings = [word for one in (*KEYS, *keys) for word in ("--set", one)]
    assert run_command(build_proposals.parse(), build_proposals.main,
                       ["--run", str(run), "--recipe", "tiny", "--voc-root", str(voc), *settings]) == 0
    assert run_command(train.parse(), train.main, ["--run", str(run), "--model", "segnet"]) == 0
    assert run_command(infer.parse(), infer.main, ["--run", str(run), "--model", "segnet"]) == 0
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_all(tmp_path_factory.mktemp("segnet"))


def test_it_is_trained_as_its_keys_say(run: Path) -> None:
    start = json.loads((run / "segnet" / "trace.json").read_text())["starts"][0]
    assert start["from"].startswith("random numbers") and start["bn_statistics"]["batches"] == 2
    with (run / "segnet" / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["iteration"] for line in lines] == ["2", "3"] and {float(line["rate"]) for line in lines} == {0.02}
    checkpoint = torch.load(run / "segnet" / "last.pt", weights_only=True)
    assert checkpoint["position"] == 3 * 4
    groups = checkpoint["descent"]["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.9} and 5e-4 in {group["weight_decay"] for group in groups}
    about = read_safetensors(run / "segnet" / "network.safetensors")[1]
    assert about["kind"] == "segnet" and about["bn"] == "measured" and about["width"] == 0.0625


def test_its_statistics_are_measured_again_by_their_command(run: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture) -> None:
    """What the training measured, where nothing is changed; over fewer images others, and the same weights."""
    def measured(*options: str) -> int:
        return run_command(bn_statistics.parse(), bn_statistics.main, ["--run", str(run), *options])

    trained = read_safetensors(run / "segnet" / "network.safetensors")[0]
    for options, alike in (((), True), (("--set", "bn_statistics.batches=1"), False)):
        assert measured("--model", "segnet", "--to", str(tmp_path / "again.safetensors"), *options) == 0
        again, about = read_safetensors(tmp_path / "again.safetensors")
        same = {name: torch.equal(value, again[name]) for name, value in trained.items() if "num_batches" not in name}
        assert all(one or "running_" in name for name, one in same.items()) and all(same.values()) == alike
        assert about["kind"] == "segnet" and about["origin"]["bn_statistics"]["training"] == "segnet"
    capsys.readouterr()
    for options, word in ((("--model", "segnet", "--stage", "1"), "no stages"),
                          (("--model", "fcn8s"), "FCN-8s"), ((), "--stage 2` makes them")):
        assert measured(*options) == 2
        assert word in capsys.readouterr().err.splitlines()[-1]


def test_a_label_map_is_the_networks_written_out(run: Path) -> None:
    """The image on its canvas, the network by torch's functions, the best class of each of its pixels."""
    state, _ = read_safetensors(run / "segnet" / "network.safetensors")
    folder = Path(json.loads((run / "data.json").read_text())["voc_root"])
    for path in sorted((run / "predictions" / "val" / "segnet").glob("*.png")):
        image = np.asarray(Image.open(folder / "JPEGImages" / f"{path.stem}.jpg"), np.float32)
        canvas = np.zeros((128, 128, 3), np.float32)
        canvas[: image.shape[0], : image.shape[1]] = image - MEAN
        picture = torch.from_numpy(canvas.transpose(2, 0, 1).copy())[None]
        scores = by_hand(state, picture)[0, :, : image.shape[0], : image.shape[1]].numpy()
        labels = np.asarray(Image.open(path))
        best = np.sort(scores, 0)
        clear = best[-1] - best[-2] > 1e-3
        assert clear.mean() > 0.9 and (labels == scores.argmax(0))[clear].all()


def test_it_has_its_row_and_its_pictures(run: Path, capsys: pytest.CaptureFixture) -> None:
    voc = json.loads((run / "data.json").read_text())["voc_root"]
    assert run_command(evaluate.parse(), evaluate.main, [
        "--predictions", str(run / "predictions" / "val" / "segnet"), "--voc-root", voc, "--split", "val"]) == 0
    assert run_command(reproduce.parse(), reproduce.main, [str(run)]) == 0
    assert "SegNet" in capsys.readouterr().out
    with (run / "report" / "table1.csv").open() as file:
        line = next(line for line in csv.DictReader(file) if (line["row"], line["class"]) == ("SegNet", "mean"))
    metrics = json.loads((run / "predictions" / "val" / "segnet" / "metrics.json").read_text())
    assert float(line["this_run"]) == pytest.approx(100 * metrics["mean_iou"]) and not line["paper_voc2012_test"]
    described = json.loads((run / "report" / "table1.json").read_text())["run"]["Training, segnet"]
    assert described.startswith("width 0.0625, canvas 128; 3 of 3 iterations of 4 images")
    assert run_command(figures.parse(), figures.main, [str(run)]) == 0
    assert (run / "report" / "sheet.png").is_file() and (run / "report" / "figures" / "training.png").is_file()


def test_with_windows_it_sees_what_deconvnet_sees(tmp_path: Path) -> None:
    run = run_all(tmp_path, "segnet.examples=windows")
    voc = Path(json.loads((run / "data.json").read_text())["voc_root"])
    windows = truth.Windows(run / "windows" / "stage2-train.h5", voc, 36, 32)
    rows = truth.drawn_rows(windows.classes.tolist(), True, (0, truth.ORDER, 20), 0, 4)
    trace = json.loads((run / "segnet" / "trace.json").read_text())["starts"][0]
    passes = trace["iterations"][0]["passes"]
    assert [row for one in passes for row in one["rows"]] == rows
    for one in passes:
        assert one["windows"] == [windows.name(row) for row in one["rows"]]
        pictures, labels = windows.batch(one["rows"], one["positions"], (0, truth.CROP, 20))
        assert (one["pictures"], one["labels"]) == (truth.digest(pictures), truth.digest(labels))
    assert len(list((run / "predictions" / "val" / "segnet-max").glob("*.png"))) == 2
    assert run_command(reproduce.parse(), reproduce.main, [str(run)]) == 0
    described = json.loads((run / "report" / "table1.json").read_text())["run"]["Training, segnet"]
    assert described.startswith("width 0.0625; 3 of 3 iterations of 4 windows")
