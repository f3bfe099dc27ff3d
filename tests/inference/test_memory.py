"""What cannot fit into memory is refused, in a line and before it is decoded; what is predicted is what is taken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deconvnet.data.images import read_label_png, read_rgb, read_size
from deconvnet.data.voc import VocFolder
from deconvnet.inference.memory import bytes_a_pixel, check_memory
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UserError
from tests.peak_memory import photograph
from tests.photographs import header
from tests.stages.test_infer_command import folder, infer, networks, pngs, refused, voc  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("error")
def test_images_and_masks_that_are_too_large_are_not_decoded(tmp_path: Path) -> None:
    for read, colour in ((read_rgb, 2), (read_size, 2), (read_label_png, 3)):
        path = header(tmp_path / "a.png", 13_000, 13_000, colour)  # 169 megapixels, just under Pillow's limit
        with pytest.raises(UserError, match=rf"{path}: 13000x13000 is too large; .* 50 megapixels: shrink it"):
            read(path)
        with pytest.raises(UserError, match=rf"{path}: over .* pixels is too large; .* 50 megapixels: shrink it"):
            read(header(path, 20_000, 20_000, colour))
        with pytest.raises(UserError, match="5001x10000 is too large"):
            read(header(path, 5001, 10_000, colour))
    assert read_size(header(tmp_path / "a.png", 5000, 10_000)) == (10_000, 5000)


def test_a_mask_that_is_too_large_in_a_data_set(voc: Path, tmp_path: Path) -> None:  # noqa: F811
    own = shutil.copytree(voc, tmp_path / "voc")
    path = sorted((own / "SegmentationClass").glob("*.png"))[0]
    header(path, 13_000, 13_000, 3)
    with pytest.raises(UserError, match=rf"{path}: 13000x13000 is too large"):
        VocFolder(own, load_recipe("tiny").data.classes).read_pair(path.stem)


TIGHT, SQUARE = "windows.shape=tight", "windows.shape=square"


@pytest.mark.parametrize(("networks", "crf", "classes", "key", "expected"), [
    (["fcn8s"], False, 21, SQUARE, 40 + 2 * 84),
    (["deconvnet"], False, 21, TIGHT, 40 + (1 + 1.44) * 84),  # the map, and a window 1.2 times as wide and as high
    (["deconvnet"], False, 21, SQUARE, 40 + (1 + 1.44 * 4 / 3) * 84),
    (["deconvnet", "fcn8s"], False, 21, SQUARE, 40 + 4 * 84),
    (["deconvnet", "fcn8s"], False, 2, "windows.enlarge=2", 40 + 5 * 8),
    (["deconvnet"], True, 21, TIGHT, 300 + 10 * 84),
    (["deconvnet"], True, 21, "windows.enlarge=4", 40 + 17 * 84),
    (["fcn8s"], True, 2, TIGHT, 300 + 10 * 8),
])
def test_what_a_pixel_takes(networks: list, crf: bool, classes: int, key: str, expected: float) -> None:  # noqa: F811
    names = ",".join(f"c{number}" for number in range(classes))
    recipe = load_recipe("paper", [f"data.classes=[{names}]", key])
    assert bytes_a_pixel((300, 400), recipe, networks, crf) == pytest.approx(expected)
    assert bytes_a_pixel((400, 300), recipe, networks, crf) == pytest.approx(expected)


def test_the_limit_is_in_the_line(tmp_path: Path) -> None:
    """4000 x 3000 with the CRF: 12 million times 300 + 10 x 84 bytes."""
    path, recipe = header(tmp_path / "photo.png", 4000, 3000), load_recipe("paper")
    check_memory(path, recipe, ["deconvnet", "fcn8s"], crf=False)
    line = (f"{path}: 4000x3000 is 12.0 megapixels; with 21 classes and --crf that takes 13.7 GB of memory, and "
            "infer.most_gigabytes=5 allows 4.4 megapixels: shrink the image, leave out --crf or, where there is the "
            "memory, --set infer.most_gigabytes=15")
    with pytest.raises(UserError) as error:
        check_memory(path, recipe, ["deconvnet"], crf=True)
    assert str(error.value) == line
    check_memory(path, load_recipe("paper", ["infer.most_gigabytes=14"]), ["deconvnet"], crf=True)
    header(path, 6000, 4000)
    with pytest.raises(UserError, match="24.0 megapixels; with 21 classes that takes .*: shrink the image or, where"):
        check_memory(path, recipe, ["deconvnet"], crf=False)
    check_memory(path, load_recipe("paper", ["data.classes=[background,nucleus]"]), ["deconvnet"], crf=False)


@pytest.mark.slow
def test_one_image_that_is_too_large_costs_no_other(folder: Path, voc: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    """It is told before the first image is labelled, and what was labelled before stays."""
    images = sorted((voc / "JPEGImages").glob("*"))[:2]
    large, out = header(tmp_path / "large.png", 7000, 7000), tmp_path / "out"
    own_size = ("--set", "infer.most_side=0")
    assert infer(folder, "--images", *images, "--out", out, *own_size) == 0
    before = pngs(out / "deconvnet-max")
    assert len(before) == 2
    capsys.readouterr()
    refused(capsys, infer(folder, "--images", *images, large, "--out", out, *own_size), 1, large, "49.0 megapixels",
            "21 classes", "infer.most_gigabytes=5", "label it smaller (infer.most_side)")
    assert pngs(out / "deconvnet-max") == before
    new = tmp_path / "new"
    refused(capsys, infer(folder, "--images", images[0], large, "--out", new, *own_size), 1, large, "49.0 megapixels")
    assert not pngs(new / "deconvnet-max")

    # the same for a split, and --crf takes more: 96 x 96 pixels of 300 + 10 x 84 bytes are 10.5 MB
    limit = ("--set", "infer.most_gigabytes=0.005")
    refused(capsys, infer(folder, "--crf", *limit), 1, "leave out --crf", "infer.most_gigabytes=0.005")
    assert not list(folder.glob("scores/*/*/*"))
    assert infer(folder, *limit) == 0 and infer(folder, "--crf") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("case", "megapixels", "crf"), [("crf", 0.15, True), ("scores", 1, False)])
def test_what_is_predicted_is_taken(case: str, megapixels: float, crf: bool) -> None:
    """Of photographs; a process of its own, since the most that was ever held is all that the system tells."""
    command = [sys.executable, "-m", "tests.peak_memory", case, str(megapixels)]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    taken = float(result.stdout.split()[0]) * 1e6
    size = photograph(megapixels).shape[:2]
    predicted = size[0] * size[1] * bytes_a_pixel(size, load_recipe("paper"), ["deconvnet"], crf)
    assert 0.7 * predicted < taken < 1.3 * predicted, (taken / size[0] / size[1], predicted / size[0] / size[1])
