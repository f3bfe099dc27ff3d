"""What stages.infer really did, against an account of its own: the score files against NumPy's networks and
aggregation, the label maps against softmax, ensemble and pydensecrf calls written here and in reference_inference."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deconvnet.models.deconvnet import DeconvNet
from deconvnet.recipe_files import load_recipe
from tests.narrow import KEYS, NARROW, Case, agree, close, copied, infer, labels, saved, setting
from tests.reference_inference import crf, softmax, together

VAL = ("val_000000", "val_000001")
CRF = {"crf.gaussian_sxy": 1.5, "crf.gaussian_weight": 9, "crf.bilateral_sxy": 4, "crf.bilateral_srgb": 60,
       "crf.bilateral_weight": 20, "crf.iterations": 2}


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("wiring"))


@pytest.fixture(scope="module")
def made(case: Case, tmp_path_factory) -> dict[str, Path]:
    """A run of each recipe, in which nothing was inferred."""
    folder = tmp_path_factory.mktemp("made")
    return {name: case.run(folder / name, load_recipe(name, NARROW)) for name in KEYS}


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path) -> Path:
    """The paper's."""
    return copied(made["paper"], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_scores_and_every_row_of_the_table(made: dict[str, Path], case: Case, name: str, tmp_path: Path) -> None:
    """All rows, both recipes, both images: from the networks' files to the label maps."""
    run, keys = copied(made[name], tmp_path / "run"), KEYS[name]
    infer(run, "--model", "fcn8s")
    for arguments in ((), ("--crf",), ("--ensemble", "fcn"), ("--ensemble", "fcn", "--crf")):
        infer(run, "--aggregate", "max", *arguments)
    infer(run, "--model", "fcn8s", "--crf")
    rows = run / "predictions" / "val"
    assert {path.name for path in rows.iterdir()} == {
        "fcn8s", "fcn8s-crf", "deconvnet-max", "deconvnet-max-crf", "deconvnet-max-fcn", "deconvnet-max-fcn-crf"}
    for image_id in VAL:
        image, plain = case.images[image_id], case.plain(image_id, keys)
        scores, fcn = saved(run, "deconvnet-max", image_id), saved(run, "fcn8s", image_id)
        assert scores.dtype == fcn.dtype == np.float16
        close(scores, plain["scores"])
        close(fcn, plain["fcn"])
        scores, fcn = scores.astype(float), fcn.astype(float)  # from here on the command works with what it saved
        both = together(scores, fcn, keys)
        for row, probabilities in {"fcn8s": softmax(fcn), "deconvnet-max": softmax(scores),
                                   "deconvnet-max-fcn": both}.items():
            agree(labels(rows / row, image_id), probabilities.argmax(0))
            agree(labels(rows / f"{row}-crf", image_id), crf(image, probabilities, keys))
    # What would be noticed: the picture upside down, flatter scores, the two networks exchanged.
    scores, fcn = (saved(run, network, VAL[0]).astype(float) for network in ("deconvnet-max", "fcn8s"))
    found, image = labels(rows / "deconvnet-max-crf", VAL[0]), case.images[VAL[0]]
    for wrong in (crf(image[::-1], softmax(scores), keys), crf(image, softmax(scores / 2), keys)):
        assert (found == wrong).mean() < 0.98
    exchanged = together(fcn, scores, keys).argmax(0)
    assert name == "paper" or (labels(rows / "deconvnet-max-fcn", VAL[0]) == exchanged).mean() < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    {"infer.proposals": 2}, {"infer.least_side": 60}, {"infer.resize": "matlab"}, {"infer.outside": "start_zero"},
    {"infer.aggregate": "sum"}, {"infer.aggregate": "mean"},
], ids=str)
def test_each_key_of_infer_alone(run: Path, case: Case, change: dict) -> None:
    infer(run, *setting(change))
    rule = change.get("infer.aggregate", "max")
    for image_id in VAL:
        found = saved(run, f"deconvnet-{rule}", image_id)
        close(found, case.plain(image_id, KEYS["paper"] | change)["scores"])
        assert np.abs(found - case.plain(image_id, KEYS["paper"])["scores"]).max() > 0.05
        agree(labels(run / f"predictions/val/deconvnet-{rule}", image_id), softmax(found.astype(float)).argmax(0))


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_aggregate_as_an_option(run: Path, case: Case, rule: str) -> None:
    infer(run, "--aggregate", rule)
    close(saved(run, f"deconvnet-{rule}", VAL[0]),
          case.plain(VAL[0], KEYS["paper"] | {"infer.aggregate": rule})["scores"])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"windows.enlarge": 1.6}, {"windows.shape": "square"}, {"windows.outside": "zero"},
                                    {"network.bn_eps": 0.3}, {"fcn.canvas": 208}], ids=str)
def test_each_key_that_a_run_is_made_with(case: Case, tmp_path: Path, change: dict) -> None:
    run = case.run(tmp_path / "run", load_recipe("paper", [*NARROW, *setting(change)[1::2]]))
    infer(run, "--ensemble", "fcn")
    plain, usual = (case.plain(VAL[1], keys) for keys in (KEYS["paper"] | change, KEYS["paper"]))
    for network, part in (("deconvnet-max", "scores"), ("fcn8s", "fcn")):
        close(saved(run, network, VAL[1]), plain[part])
    assert "fcn.canvas" in change or np.abs(plain["scores"] - usual["scores"]).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("change", [{name: value} for name, value in CRF.items()] + [{"crf.normalization": "none"}],
                         ids=str)
def test_each_key_of_the_crf(run: Path, case: Case, change: dict) -> None:
    infer(run, "--crf", *setting(change))
    found = labels(run / "predictions/val/deconvnet-max-crf", VAL[0])
    probabilities = softmax(saved(run, "deconvnet-max", VAL[0]).astype(float))
    agree(found, crf(case.images[VAL[0]], probabilities, KEYS["paper"] | change))
    assert (found == crf(case.images[VAL[0]], probabilities, KEYS["paper"])).mean() < 0.995


def test_the_weights_that_are_named(run: Path, case: Case, tmp_path: Path) -> None:
    """Of either network: those given by name, else stage 2's, else, said loudly, stage 1's."""
    recipe = load_recipe("paper", NARROW)
    others = {kind: case.save(tmp_path / f"{kind}.safetensors", kind, recipe, case.others) for kind in case.others}
    plain, other = (case.plain(VAL[0], KEYS["paper"], states) for states in (case.states, case.others))
    for kind, network, part, arguments in (
        ("deconvnet", "deconvnet-max", "scores", ("--weights", others["deconvnet"])),
        ("fcn8s", "fcn8s", "fcn", ("--model", "fcn8s", "--fcn-weights", others["fcn8s"])),
    ):
        infer(run, *arguments)
        close(saved(run, network, VAL[0]), other[part])
        assert np.abs(plain[part] - other[part]).max() > 0.05, kind
    infer(run, "--ensemble", "fcn", "--weights", others["deconvnet"], "--fcn-weights", others["fcn8s"])
    both = (softmax(other["scores"]) + softmax(other["fcn"])) / 2
    agree(labels(run / "predictions/val/deconvnet-max-fcn", VAL[0]), both.argmax(0))


def test_stage_1_stands_in_for_stage_2(run: Path, case: Case, caplog) -> None:
    (run / "stage1").mkdir()
    case.save(run / "stage1/network.safetensors", "deconvnet", load_recipe("paper", NARROW), case.others)
    infer(run)
    close(saved(run, "deconvnet-max", VAL[0]), case.plain(VAL[0], KEYS["paper"])["scores"])
    for name in ("stage2", "scores"):
        (run / name).rename(run / f"old-{name}")
    infer(run)
    assert "stage 1's network labels instead" in caplog.text
    close(saved(run, "deconvnet-max", VAL[0]), case.plain(VAL[0], KEYS["paper"], case.others)["scores"])


def test_the_split_that_is_named(run: Path, case: Case) -> None:
    infer(run, "--split", "train", "--crf")
    row = run / "predictions/train/deconvnet-max-crf"
    assert [path.stem for path in row.glob("*.png")] == ["train_000000"] and not (run / "predictions/val").exists()
    scores = saved(run, "deconvnet-max", "train_000000", "train")
    close(scores, case.plain("train_000000", KEYS["paper"])["scores"])
    agree(labels(row, "train_000000"), crf(case.images["train_000000"], softmax(scores.astype(float)), KEYS["paper"]))


def test_images_are_labelled_as_the_splits_are(run: Path, case: Case, tmp_path: Path, monkeypatch) -> None:
    """With the same boxes; which boxes, when no file has them: test_proposals_without_a_file."""
    monkeypatch.setattr("proposals.build.ProposalWork.propose",
                        lambda _, image: (case.boxes[VAL[0]], np.zeros(9, np.float32)))
    picture, out = case.voc / f"JPEGImages/{VAL[0]}.jpg", tmp_path / "out"
    infer(run, "--ensemble", "fcn", "--crf", "--images", picture, "--out", out)
    expected = crf(case.images[VAL[0]], case.plain(VAL[0], KEYS["paper"])["probabilities"], KEYS["paper"])
    agree(labels(out / "deconvnet-max-fcn-crf", VAL[0]), expected)
    assert not (run / "scores").exists()


def test_overlays_are_the_image_and_its_labels_colours(run: Path, case: Case) -> None:
    """The background as it is; the colours where nothing is near of the white lines around them."""
    infer(run, "--overlay")
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])  # the devkit's first four, RGB
    for image_id in VAL:
        row, image = run / "predictions/val/deconvnet-max", case.images[image_id]
        with Image.open(row / f"overlays/{image_id}.jpg") as picture:
            assert picture.width == image.shape[1] and picture.height > image.shape[0]  # with its legend
            found = np.array(picture)[: len(image)].astype(float)
        mask = labels(row, image_id)
        same = cv2.dilate(mask, np.ones((7, 7))) == cv2.erode(mask, np.ones((7, 7)))
        expected = np.where(mask[..., None] > 0, image * 0.45 + colours[mask] * 0.55, image)
        error, if_bgr = (np.abs(cv2.blur(one - expected, (5, 5)))[same].mean() for one in (found, found[..., ::-1]))
        assert same.mean() > 0.05 and error < 1 and if_bgr > 3, (same.mean(), error, if_bgr)


def test_windows_pass_a_few_at_a_time_with_the_same_scores(run: Path, case: Case, monkeypatch) -> None:
    forward, seen = DeconvNet.forward, []

    def noted(self, pictures):
        seen.append(len(pictures))
        return forward(self, pictures)

    monkeypatch.setattr(DeconvNet, "forward", noted)
    infer(run, "--set", "infer.window_batch=2")
    assert seen == [2, 2, 1] * len(VAL)
    close(saved(run, "deconvnet-max", VAL[0]), case.plain(VAL[0], KEYS["paper"])["scores"])


def test_scores_as_float32(run: Path, case: Case) -> None:
    infer(run, "--set", "infer.score_type=float32")
    found, expected = saved(run, "deconvnet-max", VAL[0]), case.plain(VAL[0], KEYS["paper"])["scores"]
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_precision_reaches_the_network(run: Path, case: Case) -> None:
    """bf16 has 8 bits: near the scores of fp32, and further from them than rounding brings float16."""
    infer(run, "--ensemble", "fcn", "--set", "runtime.precision=bf16", "--set", "infer.score_type=float32")
    plain = case.plain(VAL[0], KEYS["paper"])
    for network, part in (("deconvnet-max", "scores"), ("fcn8s", "fcn")):
        error = np.abs(saved(run, network, VAL[0]) - plain[part])
        assert 1e-3 * np.abs(plain[part]).max() < error.max() and np.median(error) < 0.2 * plain[part].std()


def test_an_image_without_proposals_is_background(run: Path, case: Case) -> None:
    infer(run, "--set", "infer.least_side=10000")
    assert not saved(run, "deconvnet-max", VAL[0]).any()
    assert not labels(run / "predictions/val/deconvnet-max", VAL[0]).any()
