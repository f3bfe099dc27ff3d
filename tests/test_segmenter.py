"""The public API: Segmenter against an account of section 5 of its own, what it takes and gives, threads, processes."""

import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deconvnet
from deconvnet import Segmentation, Segmenter, build_network, load_recipe
from deconvnet.data.photographs import SHRUNK
from deconvnet.inference.overlays import overlay
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.network_files import save_network
from deconvnet.models.registry import NETWORKS, PARTNERS
from deconvnet.models.spec import WINDOWS
from deconvnet.models.weight_files import read_safetensors, save_safetensors
from deconvnet.recipe import recipe_to_dict
from deconvnet.support.errors import LostWorker, UsageError, UserError
from tests.narrow import KEYS, NARROW, Case, agree, copied, infer, labels, randomised
from tests.photographs import cases, write
from tests.reference_inference import crf, softmax

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND = "val_000000", "val_000001"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def runs(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: case.run(folder / name, load_recipe(name, NARROW)) for name in KEYS}


@pytest.fixture
def known_boxes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nine boxes of each image of the case, instead of EdgeBoxes'."""
    def propose(_: object, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (found,) = (name for name, known in case.images.items() if np.array_equal(known, image))
        return case.boxes[found], np.linspace(0.9, 0.1, 9, dtype=np.float32)

    monkeypatch.setattr("proposals.build.ProposalWork.propose", propose)


def picture(case: Case, name: str) -> Path:
    return case.voc / f"JPEGImages/{name}.jpg"


def same(one: Segmentation, other: Segmentation) -> None:
    """Bit for bit."""
    for name in ("labels", "probabilities", "proposals", "image"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.class_names == other.class_names


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("name", KEYS)
def test_every_step_of_section_5(runs: dict[str, Path], case: Case, name: str, rule: str, known_boxes: None) -> None:
    """Both recipes: one network, the other, the ensemble; each with and without the CRF."""
    keys, image = KEYS[name] | {"infer.aggregate": rule}, case.images[FIRST]
    plain = case.plain(FIRST, keys)
    expected = {("deconvnet", None): softmax(plain["scores"]), ("fcn8s", None): softmax(plain["fcn"]),
                ("deconvnet", "fcn"): plain["probabilities"]}
    for (model, partner), probabilities in expected.items():
        segmenter = Segmenter.from_run(runs[name], model, ensemble=partner, device="cpu", aggregate=rule)
        result = segmenter(image)
        np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-4)
        agree(result.labels, probabilities.argmax(0))
        with_crf = Segmenter.from_run(runs[name], model, partner, True, "cpu", rule)(image)
        agree(with_crf.labels, crf(image, probabilities, keys))
        assert (with_crf.labels != result.labels).any()
        assert segmenter.name == {"deconvnet": f"deconvnet-{rule}", "fcn8s": "fcn8s"}[model] + ("-fcn" if partner
                                                                                               else "")


def test_what_a_result_holds(runs: dict[str, Path], case: Case, known_boxes: None) -> None:
    image = case.images[FIRST]
    for crf_too in (False, True):
        result = Segmenter.from_run(str(runs["paper"]), ensemble="fcn", crf=crf_too, device="cpu")(image)
        height, width = image.shape[:2]
        assert result.labels.dtype == np.uint8 and result.labels.shape == (height, width)
        assert result.probabilities.dtype == np.float32 and result.probabilities.shape == (4, height, width)
        np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
        assert (result.labels == result.probabilities.argmax(0)).all() and len(np.unique(result.labels)) > 1
        assert result.class_names == ("background", "circle", "square", "star")
        np.testing.assert_array_equal(result.proposals, case.boxes[FIRST])
        np.testing.assert_array_equal(result.image, image)
        shown = overlay(image, result.labels, result.class_names)
        np.testing.assert_array_equal(result.overlay(), shown)
        np.testing.assert_array_equal(result.overlay(legend=False), shown[:height])
        areas = [(result.labels == index).mean() for index in range(4)]
        assert [one.index for one in result.found()] == [index for index in np.argsort(areas)[::-1] if areas[index]]
        for one in result.found():
            mask = result.labels == one.index
            assert one.name == result.class_names[one.index] and one.pixels == mask.sum() and one.share == mask.mean()
            assert one.mean_probability == pytest.approx(result.probabilities[one.index][mask].mean(), abs=1e-6)
    alone = Segmenter.from_run(runs["paper"], "fcn8s", device="cpu")(image)
    assert alone.proposals.shape == (0, 4) and alone.proposals.dtype == np.int32


def test_the_command_makes_the_same_labels(runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    """With EdgeBoxes' own proposals."""
    run = copied(runs["paper"], tmp_path / "run")
    (run / "proposals" / "val.h5").unlink()
    infer(run, "--ensemble", "fcn", "--crf", "--images", picture(case, FIRST), "--out", tmp_path / "out")
    segmenter = Segmenter.from_run(run, ensemble="fcn", crf=True, device="cpu")
    result = segmenter(picture(case, FIRST))
    np.testing.assert_array_equal(result.labels, labels(tmp_path / "out" / segmenter.name, FIRST))
    assert len(result.proposals) > 5 and (result.proposals[:, 2:] > result.proposals[:, :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_of_the_registry(kind: str, runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    """The command and the object know it by its spec alone: its weights, names, options, and what it sees."""
    recipe, spec = load_recipe("paper", NARROW), NETWORKS[kind]
    run = case.run(tmp_path / "run", recipe)
    network = randomised(build_network(kind, recipe), 5)
    save_network(network, run / spec.trainings(recipe)[-1].name / "network.safetensors", kind, recipe, "measured", {})
    ensemble = [] if kind in PARTNERS.values() else ["--ensemble", "fcn"]
    infer(run, "--model", kind, *ensemble, "--images", picture(case, FIRST), "--out", tmp_path / "out")
    segmenter = Segmenter.from_run(run, kind, "fcn" if ensemble else None, device="cpu")
    result = segmenter(picture(case, FIRST))
    sees_windows = spec.examples(recipe) == WINDOWS
    assert segmenter.name == kind + ("-max" if sees_windows else "") + ("-fcn" if ensemble else "")
    assert bool(len(result.proposals)) == sees_windows
    np.testing.assert_array_equal(result.labels, labels(tmp_path / "out" / segmenter.name, FIRST))


def test_a_run_is_only_read(runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    run = copied(runs["paper"], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    segmenter = Segmenter.from_run(run, ensemble="fcn", device="cpu", set=["infer.proposals=2"])
    assert segmenter.recipe.infer.proposals == 2
    segmenter(picture(case, FIRST))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.slow
def test_paths_pil_images_and_arrays(runs: dict[str, Path], case: Case) -> None:
    segmenter, path = Segmenter.from_run(runs["paper"], device="cpu"), picture(case, FIRST)
    first = segmenter(path)
    with Image.open(path) as opened:
        same(segmenter(opened), first)
    for one in (str(path), Image.fromarray(first.image), first.image, np.asfortranarray(first.image)):
        same(segmenter(one), first)
    image = first.image
    read_only = image.copy()
    read_only.flags.writeable = False
    same(segmenter(read_only), first)
    for wrong, words in ((Path("none.png"), "none.png: no such image"), (image[..., 0], "shape"),
                         (image.astype(float), "float64"), (image[:0], "shape"), (image.tolist(), "a list"),
                         (np.dstack([image, image[..., :1]]), "shape"),
                         (Image.fromarray(image[..., 0].astype(np.float32)), "32-bit floating point"),
                         (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "20000x20000 is too large")):
        with pytest.raises(UserError, match=words) as error:
            segmenter(wrong)
        assert "\n" not in str(error.value)
    small = Segmenter.from_run(runs["paper"], device="cpu", set=["infer.most_gigabytes=0.001"])
    for large in (path, image):
        with pytest.raises(UserError, match="infer.most_gigabytes=0.001"):
            small(large)


@pytest.mark.slow
def test_photographs_of_every_kind(runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labelled as the 8-bit RGB picture that each shows; each conversion is said once, with the first that needs it."""
    caplog.set_level(logging.INFO)
    segmenter, found = Segmenter.from_run(runs["paper"], "fcn8s", device="cpu"), [*cases(), *cases()[5:9]]
    for name, _, seen, sentences, error in found:
        path = write(tmp_path, found)[name]
        result = segmenter(path)
        assert result.conversions == sentences and result.labels.shape == seen.shape[:2]
        if not error:
            np.testing.assert_array_equal(result.image, seen)
            np.testing.assert_array_equal(result.labels, segmenter(seen).labels)
        with Image.open(path) as opened:
            assert segmenter(opened).conversions == sentences
    told = [record.getMessage() for record in caplog.records if "not mentioned again" in record.getMessage()]
    kinds = {sentence for _, _, _, sentences, _ in found for sentence in sentences}
    assert len(told) == len(kinds) and all(sum(kind in line for line in told) == 1 for kind in kinds)
    assert "grey.jpg: grey; all three colours get its values" in "\n".join(told)


@pytest.mark.slow
def test_a_large_photograph_is_labelled_smaller(runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    """As its smaller self is; the labels alone are of full size, turned as the photograph is."""
    image = case.images[FIRST]
    large = Image.fromarray(image).resize((image.shape[1] * 3, image.shape[0] * 3), Image.Resampling.NEAREST)
    side = max(image.shape)
    segmenter = Segmenter.from_run(runs["paper"], ensemble="fcn", crf=True, device="cpu",
                                   set=[f"infer.most_side={side}"])
    exif = Image.Exif()
    exif[0x0112] = 8
    large.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    for given in (large, np.array(large), tmp_path / "turned.png"):
        for result in (segmenter(given), next(segmenter.segment_many([given], 1))):
            small = segmenter(result.image)
            assert result.image.shape == image.shape and np.abs(result.image.astype(int) - image).mean() < 4
            assert result.labels.shape == (large.height, large.width) and small.labels.shape == image.shape[:2]
            np.testing.assert_array_equal(result.probabilities, small.probabilities)
            np.testing.assert_array_equal(result.proposals, small.proposals)
            assert (result.labels[1::3, 1::3] == small.labels).mean() > 0.999  # at the centres of the smaller pixels
            assert SHRUNK.format(side) in result.conversions and result.seconds > 0
            assert result.overlay(legend=False).shape == image.shape
            assert sum(one.pixels for one in result.found()) == result.labels.size
    whole = Segmenter.from_run(runs["paper"], "fcn8s", device="cpu", set=["infer.most_side=0"])(large)
    assert whole.image.shape[:2] == whole.labels.shape == (large.height, large.width) and not whole.conversions
    tight = [f"infer.most_side={side}", f"infer.most_gigabytes={whole.labels.size * 50 / 1e9}"]
    assert Segmenter.from_run(runs["paper"], "fcn8s", device="cpu", set=tight)(large).labels.shape == whole.labels.shape
    with pytest.raises(UserError, match="label it smaller .infer.most_side. or, where there is the memory"):
        Segmenter.from_run(runs["paper"], "fcn8s", device="cpu", set=["infer.most_side=0", tight[1]])(large)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_used_is_left_out(runs: dict[str, Path], case: Case, tmp_path: Path, workers: int) -> None:
    (tmp_path / "cut.png").write_bytes(b"no image")
    segmenter = Segmenter.from_run(runs["paper"], "fcn8s", crf=True, device="cpu")
    given, left_out = [tmp_path / "cut.png", case.images[FIRST], Path("none.png"), case.images[SECOND]], []
    found = [*segmenter.each(given, workers, lambda image, error: left_out.append((image, str(error))))]
    assert [image for image, _ in found] == given[1::2]
    for image, result in found:
        same(result, segmenter(image))
    assert [image for image, _ in left_out] == given[::2] and all(str(image) in text for image, text in left_out)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_many_images_keep_their_order(runs: dict[str, Path], case: Case, workers: int, known_boxes: None) -> None:
    """Drawn as they are asked for: none but those at work, and the same as one by one."""
    segmenter = Segmenter.from_run(runs["paper"], ensemble="fcn", crf=True, device="cpu")
    order, drawn = [FIRST, SECOND, "train_000000", SECOND, FIRST, FIRST, SECOND], []

    def images() -> Iterator[np.ndarray]:
        for name in order:
            drawn.append(name)
            yield case.images[name]

    found = segmenter.segment_many(images(), workers)
    assert not drawn
    first = next(found)
    assert len(drawn) <= (1 if workers == 0 else 4)
    expected = {name: segmenter(case.images[name]) for name in case.images}
    for name, one in zip(order, [first, *found], strict=True):
        same(one, expected[name])
    assert not multiprocessing.active_children()


def test_many_images_and_what_goes_wrong(runs: dict[str, Path], case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter.from_run(runs["paper"], "fcn8s", crf=True, device="cpu")
    found = segmenter.segment_many([case.images[FIRST], Path("none.png"), case.images[FIRST]])
    next(found)
    with pytest.raises(UserError, match="none.png"):
        next(found)
    with pytest.raises(UsageError, match="workers -1"):
        segmenter.segment_many([], -1)

    def killed(*_: object) -> Iterator[tuple[str, np.ndarray]]:
        raise BrokenProcessPool("dense CRF of a: its process was killed")

    monkeypatch.setattr("crf.pool.CrfPool.posteriors", killed)
    with pytest.raises(LostWorker, match="dense CRF of a: its process was killed: most likely the machine ran out"):
        next(segmenter.segment_many([case.images[FIRST]], 1))


@pytest.mark.slow
def test_threads_share_one(runs: dict[str, Path], case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a web server's: each gets its own image's result, and one at a time is in the network."""
    expected = {name: Segmenter.from_run(runs["paper"], ensemble="fcn", crf=True, device="cpu")(image)
                for name, image in case.images.items()}
    forward, inside, most, opened = DeconvNet.forward, [], [], []

    def watched(self: DeconvNet, pictures: torch.Tensor) -> torch.Tensor:
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.01)  # long enough for another thread to come in, if it may
        result = forward(self, pictures)
        inside.pop()
        return result

    monkeypatch.setattr(DeconvNet, "forward", watched)
    monkeypatch.setattr("deconvnet.runtime.choose_device", lambda name: opened.append(name) or torch.device("cpu"))
    segmenter = Segmenter.from_run(runs["paper"], ensemble="fcn", crf=True, device="cpu")
    names = [*case.images] * 4
    with ThreadPoolExecutor(6) as pool:
        for name, found in zip(names, pool.map(segmenter, [case.images[name] for name in names]), strict=True):
            same(found, expected[name])
    assert max(most) == 1 and len(opened) == 2  # each of the two networks was opened once
    with ThreadPoolExecutor(2) as pool:  # several images, with CRF processes, from a thread
        work = [pool.submit(lambda: [*segmenter.segment_many([case.images[FIRST]], 1)]) for _ in range(2)]
        for one in work:
            same(one.result()[0], expected[FIRST])


def label_elsewhere(segmenter: Segmenter, image: Path, folder: Path) -> tuple[Segmentation, int]:
    """In a worker process: another working folder."""
    os.chdir(folder)
    return segmenter(image), os.getpid()


@pytest.mark.slow
def test_it_goes_to_a_worker_process(runs: dict[str, Path], case: Case, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled before or after it was used, with paths relative to this process's folder; without the weights."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as conftest.py has it here: sums over more threads round otherwise
    monkeypatch.chdir(runs["paper"].parent)
    segmenter = Segmenter.from_run("paper", ensemble="fcn", crf=True, device="cpu")
    fresh = pickle.dumps(segmenter)
    here = segmenter(picture(case, FIRST))
    assert len(fresh) < 10_000 and len(pickle.dumps(segmenter)) < 10_000
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for one in (segmenter, pickle.loads(fresh)):
            there, process = pool.submit(label_elsewhere, one, picture(case, FIRST), tmp_path).result()
            same(there, here)
            assert process != os.getpid()


def test_weights_stand_alone(runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    """Away from the run: the file carries recipe and class names; each network's own section is its own file's."""
    image, run = case.images[FIRST], runs["released"]
    network = shutil.copy(run / "stage2/network.safetensors", tmp_path / "deconvnet.safetensors")
    alone = Segmenter.from_weights(network, device="cpu")
    assert alone.class_names == ("background", "circle", "square", "star") and alone.recipe.name == "released"
    same(alone(image), Segmenter.from_run(run, device="cpu")(image))
    wide = load_recipe("paper", [*NARROW, "fcn.width=0.03125", "infer.proposals=1"])
    partner = tmp_path / "fcn8s.safetensors"
    save_network(build_network("fcn8s", wide), partner, "fcn8s", wide, "running", {})
    both = Segmenter.from_weights(network, partner, crf=True, aggregate="sum", device="cpu", set=["crf.iterations=3"])
    assert both.name == "deconvnet-sum-fcn-crf" and both.recipe.crf.iterations == 3
    assert both.recipe.fcn.width == 0.03125 and both.recipe.infer.proposals == 5
    assert both(image).labels.shape == image.shape[:2]
    assert Segmenter.from_weights(partner, device="cpu", set="crf.iterations=2").name == "fcn8s"


def test_weights_that_do_not_do(runs: dict[str, Path], case: Case, tmp_path: Path) -> None:
    recipe, network = load_recipe("paper", NARROW), runs["paper"] / "stage2/network.safetensors"
    torch.save(case.states["fcn8s"] | {"conv1_1.weight": case.states["fcn8s"]["conv1_1.weight"].flip(1)},
               tmp_path / "fcn8s.pth")
    for weights, partner, words in (
        (tmp_path / "none.safetensors", None, "no such weights"),
        (network, tmp_path / "none.safetensors", "none.safetensors: no such weights"),
        (network, network, "no partner of 'deconvnet'"),
        (tmp_path / "fcn8s.pth", None, "carries no recipe: give one"),
    ):
        with pytest.raises(UsageError, match=words):
            Segmenter.from_weights(weights, partner, device="cpu")
    (tmp_path / "text.safetensors").write_text("no network")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Segmenter.from_weights(tmp_path / "text.safetensors")
    (tmp_path / "last.pt").write_text("a checkpoint, say")
    with pytest.raises(UserError, match="last.pt: not a safetensors file; expected .* network.safetensors"):
        Segmenter.from_weights(tmp_path / "last.pt")
    published = Segmenter.from_weights(tmp_path / "fcn8s.pth", recipe=recipe, device="cpu")
    expected = softmax(case.plain(FIRST, KEYS["paper"])["fcn"])
    np.testing.assert_allclose(published(case.images[FIRST]).probabilities, expected, atol=1e-4)
    with pytest.raises(UserError, match="width = 0.0625; the recipe has 1.0"):
        Segmenter.from_weights(network, recipe="paper", device="cpu", set=[NARROW[0]]).load()
    tensors, about = read_safetensors(network)
    del about["recipe"]["crf.iterations"]
    model = build_network("deconvnet", recipe)
    save_safetensors(model, tmp_path / "lacks.safetensors", about)
    with pytest.raises(UsageError, match="lacks.safetensors: its recipe has no crf.iterations"):
        Segmenter.from_weights(tmp_path / "lacks.safetensors")
    assert tensors and about["recipe"].keys() < recipe_to_dict(recipe).keys()


@pytest.mark.slow
def test_runs_and_choices_that_do_not_do(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["paper"]
    for wrong, words in (
        ({"run": tmp_path}, "not a run folder"), ({"model": "alexnet"}, "expected one of deconvnet, "),
        ({"ensemble": "crf"}, "expected one of fcn, or none"), ({"model": "fcn32s"}, "no such weights"),
        ({"model": "fcn8s", "ensemble": "fcn"}, "fcn8s itself"), ({"aggregate": "least"}, "infer.aggregate"),
        ({"set": ["network.width=0.5"]}, "network.width"), ({"set": ["infer.none=1"]}, "unknown recipe key"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            Segmenter.from_run(**{"run": run, **wrong})
        assert "\n" not in str(error.value)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match=device):
            Segmenter.from_run(run, device=device).load()
    with pytest.raises(UsageError, match="none.yml.gz"):
        Segmenter.from_run(run, device="cpu", edge_model=tmp_path / "none.yml.gz").load()
    assert Segmenter.from_run(run, "fcn8s", device="cpu", edge_model=tmp_path / "none.yml.gz").load()  # needs no boxes
    assert Segmenter.from_run(run, set="infer.proposals=3").recipe.infer.proposals == 3  # one key as a string
    with pytest.raises(UsageError, match="takes several images"):
        Segmenter.from_run(run).segment_many("photo.jpg")
    with pytest.raises(UsageError, match="network 'alexnet': expected one of deconvnet, "):
        build_network("alexnet", load_recipe("paper"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(runs: dict[str, Path], case: Case, known_boxes: None) -> None:
    here, there = (Segmenter.from_run(runs["paper"], ensemble="fcn", device=device)(case.images[FIRST])
                   for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-4)
    agree(there.labels, here.labels)


def test_the_package_says_what_is_public() -> None:
    assert sorted(deconvnet.__all__) == ["Segmentation", "Segmenter", "build_network", "load_recipe"]
    assert {*deconvnet.__all__} <= {*dir(deconvnet)}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = deconvnet.nothing


@pytest.mark.slow
@pytest.mark.parametrize("module", ["deconvnet", "deconvnet.segmenter", "stages.infer"])
def test_no_torch_before_it_is_needed(module: str) -> None:
    """The CRF's processes import these: torch would take seconds and hundreds of megabytes in each."""
    command = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
