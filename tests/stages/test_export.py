"""stages.export as a user runs it, and its files in stages.infer, Segmenter, stages.inspect and plain onnxruntime."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from deconvnet import Segmenter
from deconvnet.data.synthetic import generate
from deconvnet.models.build import build_network
from deconvnet.models.network_files import save_network
from deconvnet.models.weight_files import save_safetensors
from deconvnet.recipe import recipe_to_dict
from deconvnet.recipe_files import load_recipe, save_recipe
from deconvnet.support.errors import UsageError, UserError
from stages import inspect
from stages.cli import run_command
from stages.export import main, parse
from tests.narrow import agree, labels, randomised

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["network.width=0.0625", "network.input=32", "windows.warp=36", "network.deconv_std=0", "proposals.count=40",
        "infer.proposals=5", "fcn.width=0.03125", "fcn.canvas=96"]
FILES = {"deconvnet": "stage2", "fcn8s": "fcn8s"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as after training."""
    run, recipe = tmp_path_factory.mktemp("runs") / "run", load_recipe("tiny", KEYS)
    for seed, (kind, name) in enumerate(FILES.items()):
        save_network(randomised(build_network(kind, recipe), seed), run / name / "network.safetensors", kind, recipe,
                     "measured", {})
    save_recipe(recipe, run / "recipe.yaml")
    return run


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported by a process of its own."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("exported") / "run")
    done = process("stages.export", "--run", run, "--to", "onnx")
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == 4 and "DeconvNet, N x 3 x 32 x 32 to N x 21 x 32 x 32" in told[0]  # nothing of torch's own
    assert "FCN-8s, N x 3 x 96 x 96 to N x 21 x 96 x 96" in told[2]
    assert all("onnxruntime against torch: largest difference " in line and "100.00 % of the labels" in line
               for line in told[1::2])
    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images: of the real subset where there is one."""
    real = Path(os.environ.get("DECONVNET_VOC_SUBSET", ROOT.parent / "shared/data/VOCdevkit/VOC2012")) / "JPEGImages"
    if not real.is_dir():
        real = generate(tmp_path_factory.mktemp("voc") / "voc", train=1, val=3, seed=0, side=96) / "JPEGImages"
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(real.iterdir())[:4]:
        shutil.copy(path, folder)
    return folder


def process(module: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True,
                          cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def refused(capsys: pytest.CaptureFixture, expected: int, words: str, *arguments: object) -> None:
    capsys.readouterr()
    assert run_command(parse(), main, ["--to", "onnx", *map(str, arguments)]) == expected
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line, line


@pytest.mark.slow
def test_infer_labels_as_with_torch(run: Path, photos: Path, tmp_path: Path) -> None:
    """DeconvNet alone, and the ensemble of both, by real processes."""
    onnx = run / "onnx"
    given = {"deconvnet-max": [["--weights", onnx / "deconvnet.onnx"], []],
             "deconvnet-max-fcn": [["--weights", onnx / "deconvnet.onnx", "--fcn-weights", onnx / "fcn8s.onnx",
                                    "--ensemble", "fcn"], ["--ensemble", "fcn"]]}
    for name, (exported, torchs) in given.items():
        for where, arguments in (("onnx", exported), ("torch", torchs)):
            done = process("stages.infer", "--run", run, "--images", photos, "--out", tmp_path / where, *arguments)
            assert done.returncode == 0, done.stderr
        for photo in photos.iterdir():
            expected = labels(tmp_path / "torch" / name, photo.stem)
            agree(labels(tmp_path / "onnx" / name, photo.stem), expected)
            assert len(np.unique(expected)) > 2


@pytest.mark.slow
def test_segmenter_from_the_files_alone(run: Path, photos: Path, tmp_path: Path) -> None:
    """Away from the run: recipe and classes are in the files. Pickled too."""
    for name in FILES:
        shutil.copy(run / "onnx" / f"{name}.onnx", tmp_path)
    segmenter = Segmenter.from_weights(tmp_path / "deconvnet.onnx", tmp_path / "fcn8s.onnx").load()
    expected = Segmenter.from_run(run, ensemble="fcn", device="cpu")
    assert segmenter.class_names == expected.class_names and segmenter.name == expected.name
    for photo in sorted(photos.iterdir())[:2]:
        result, known = segmenter(photo), expected(photo)
        agree(result.labels, known.labels)
        assert np.median(np.abs(result.probabilities - known.probabilities)) < 1e-5
    again = pickle.loads(pickle.dumps(segmenter))
    assert (again(photo).labels == result.labels).all()
    alone = Segmenter.from_weights(str(tmp_path / "fcn8s.onnx"), set=["crf.iterations=1"])
    agree(alone(photo).labels, Segmenter.from_run(run, "fcn8s", device="cpu")(photo).labels)


@pytest.mark.slow
def test_devices_and_recipes_that_do_not_fit_the_files(run: Path, tmp_path: Path) -> None:
    onnx = run / "onnx"
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UsageError, match=f"--device {device}: .*deconvnet.onnx is an ONNX file.* CPU"):
            Segmenter.from_weights(onnx / "deconvnet.onnx", device=device).load()
    with pytest.raises(UserError, match="exported for images of side 96; the recipe has 64"):
        Segmenter.from_weights(onnx / "fcn8s.onnx", set=["fcn.canvas=64"]).load()
    shutil.copy(run / "recipe.yaml", tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: no ONNX file of stages\.export"):
        Segmenter.from_weights(tmp_path / "other.onnx")


@pytest.mark.slow
def test_any_program_can_run_them(run: Path, photos: Path) -> None:
    """As docs/export.md shows it: a whole photograph in FCN's canvas, without torch."""
    session = onnxruntime.InferenceSession(run / "onnx" / "fcn8s.onnx", providers=["CPUExecutionProvider"])
    mean = np.array([122.675, 116.669, 104.008], np.float32)
    canvas = np.zeros((1, 3, 96, 96), np.float32)
    with Image.open(sorted(photos.iterdir())[0]) as opened:
        photo = np.array(opened.crop((0, 0, 90, 70)))
    canvas[0, :, :70, :90] = (photo - mean).transpose(2, 0, 1)
    (scores,) = session.run(["scores"], {"images": canvas})
    agree(scores[0, :, :70, :90].argmax(0), Segmenter.from_run(run, "fcn8s", device="cpu")(photo).labels)


@pytest.mark.slow
def test_a_file_of_weights(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With its recipe in it, or without one; with a key changed; and what stages.inspect shows of it."""
    weights, out = trained / "fcn8s" / "network.safetensors", tmp_path / "out"
    arguments = ["--to", "onnx", "--weights", weights, "--out", out, "--set", "fcn.canvas=64"]
    assert run_command(parse(), main, [str(one) for one in arguments]) == 0
    assert [path.name for path in out.iterdir()] == ["fcn8s.onnx"]
    capsys.readouterr()
    assert run_command(inspect.parse(), inspect.main, [str(out / "fcn8s.onnx")]) == 0
    shown = capsys.readouterr().out
    assert f"{out / 'fcn8s.onnx'}: network for onnxruntime\n" in shown and "side: 64\n" in shown
    assert '"weights": "network.safetensors"' in shown and "fcn.canvas = 64   (paper: 500)" in shown
    recipe = load_recipe("tiny", KEYS)
    model = build_network("fcn8s", recipe)
    save_safetensors(model, tmp_path / "bare.safetensors", {"kind": "fcn8s"})
    bare = ["--weights", tmp_path / "bare.safetensors", "--out", out]
    refused(capsys, 2, "carries no recipe", *bare)
    given = ["--to", "onnx", *bare, "--recipe", trained / "recipe.yaml"]
    assert run_command(parse(), main, [str(one) for one in given]) == 0


def test_wrong_use(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, weights = trained, trained / "stage2" / "network.safetensors"
    refused(capsys, 2, "--weights needs --out", "--weights", weights)
    refused(capsys, 2, "--recipe tiny: a run has its own recipe", "--run", run, "--recipe", "tiny")
    refused(capsys, 2, "not a run folder", "--run", tmp_path)
    refused(capsys, 2, "network.width", "--run", run, "--set", "network.width=0.5")
    refused(capsys, 2, "no such weights", "--weights", tmp_path / "none.safetensors", "--out", tmp_path)
    for wrong in (["--model", "deconvnet", "--weights", weights], ["--to", "torch"], ["--model", "nonsense"]):
        with pytest.raises(SystemExit, match="^2$"):
            parse().parse_args(["--to", "onnx", *map(str, wrong)])
    half = shutil.copytree(run, tmp_path / "half")
    (half / "fcn8s" / "network.safetensors").unlink()
    refused(capsys, 2, "no such weights", "--run", half)
    assert not (half / "onnx").exists()  # not even of the network that is there
    recipe = load_recipe("tiny", KEYS)
    save_network(build_network("deconvnet", recipe), half / "stage2" / "network.safetensors", "deconvnet", recipe,
                 "unmeasured", recipe_to_dict(recipe))
    refused(capsys, 1, "never measured", "--run", half, "--model", "deconvnet")
    assert not (half / "onnx").exists()
