"""Training examples: what is cropped, in which order, and that both depend on seed and position alone."""

from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from deconvnet.data.canvas import canvas_size, on_canvas
from deconvnet.data.columns import COLUMNS
from deconvnet.data.examples import ImageCanvases, WindowCrops, crop
from deconvnet.data.row_files import Rows, read_rows, write_rows
from deconvnet.data.synthetic import generate
from deconvnet.data.voc import VocFolder
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.runtime import network_input
from deconvnet.support.errors import UserError
from deconvnet.training.loading import load
from deconvnet.training.sampling import Batches, epoch_order, positions
from proposals.build import build_windows
from proposals.select import stage1_rows
from tests.row_files import attributes

WARP, INPUT = 36, 32
SPARE = WARP - INPUT


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("tiny", ["network.input=32", f"windows.warp={WARP}"])


def encoded(array: np.ndarray) -> np.ndarray:
    return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].ravel()


@pytest.fixture(scope="module")
def coded_windows(tmp_path_factory) -> Rows:
    """A materialized file of three windows whose pixels say where they are: R = x, G = y, B = row, label = x + 40."""
    ys, xs = np.mgrid[:WARP, :WARP].astype(np.uint8)
    pictures = [encoded(np.dstack([xs, ys, np.full_like(xs, row)])) for row in range(3)]
    labels = [encoded(xs + 40) for _ in range(3)]
    row = {name: np.zeros((3, *column.shape), column.kind) for name, column in COLUMNS["windows"].items()}
    row["window"][:] = [[-2, 3, 40, 50], [0, 0, 9, 9], [1, 1, 5, 5]]
    row["box"][:], row["class_index"][:] = [1, 1, 5, 5], 1
    part = {"size": np.array([60, 60], np.int32), **row}
    for name, items in (("picture", pictures), ("labels", labels)):
        part[name], part[f"{name}_length"] = np.concatenate(items), np.array([len(item) for item in items])
    path = tmp_path_factory.mktemp("coded") / "windows.h5"
    write_rows(path, ["first"], [part], attributes("windows", stage=2, classes=[f"class {n}" for n in range(99)]))
    return read_rows(path, "windows")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("voc"), train=8, val=2, seed=0, side=96)


@pytest.fixture(scope="module")
def voc(synthetic, recipe) -> VocFolder:
    return VocFolder(synthetic, recipe.data.classes)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory, voc, recipe) -> Rows:
    """Stage 1 windows of the synthetic set, not materialized."""
    ids = voc.image_ids("train")
    parts = [{"size": np.array(voc.read_mask(one).shape, np.int32),
              **vars(stage1_rows(voc.objects(one), recipe.windows))} for one in ids]
    path = tmp_path_factory.mktemp("stage1") / "windows.h5"
    write_rows(path, ids, parts, attributes("windows"))
    return read_rows(path, "windows")


def place(picture: torch.Tensor) -> tuple[int, int, bool]:
    """Top, left and flip of a crop of coded_windows, read off its pixels."""
    left, right = int(picture[0, 0, 0]), int(picture[0, 0, -1])
    return int(picture[1, 0, 0]), min(left, right), right < left


def test_random_crops_cover_every_place_and_both_directions(coded_windows, recipe):
    examples = WindowCrops(coded_windows, None, recipe, True, (0, 1, 2))
    seen = Counter()
    for position in range(1500):
        picture, labels, row = examples[position, position % 3]
        assert picture.shape == (3, INPUT, INPUT) and labels.shape == (INPUT, INPUT)
        assert row == position % 3 and (picture[2] == row).all()
        assert torch.equal(labels, picture[0] + 40)  # flipped and cropped alike
        assert (picture[0].int().diff(dim=1).abs() == 1).all() and (picture[1].int().diff(dim=0) == 1).all()
        seen[place(picture)] += 1
    expected = {(top, left, flip) for top in range(SPARE + 1) for left in range(SPARE + 1) for flip in (False, True)}
    assert set(seen) == expected
    assert max(seen.values()) < 3 * 1500 / len(expected)  # no place is favoured


def test_examples_depend_on_seed_and_position_alone(coded_windows, recipe):
    one = WindowCrops(coded_windows, None, recipe, True, (0, 1, 2))
    first = [place(one[position, 0][0]) for position in range(50)]
    torch.manual_seed(5)
    np.random.seed(5)
    again = WindowCrops(coded_windows, None, recipe, True, (0, 1, 2))
    assert [place(again[position, 0][0]) for position in reversed(range(50))] == first[::-1]
    assert [place(again[position, 2][0]) for position in range(50)] == first  # whatever the row
    other = WindowCrops(coded_windows, None, recipe, True, (1, 1, 2))
    assert [place(other[position, 0][0]) for position in range(50)] != first


def test_validation_takes_the_centre_unflipped(coded_windows, recipe):
    examples = WindowCrops(coded_windows, None, recipe, False, (0, 1, 2))
    assert {place(examples[position, 1][0]) for position in range(5)} == {(SPARE // 2, SPARE // 2, False)}


def mirrored(seed: tuple[int, ...], row: int) -> bool:
    """The draw that mirrors a validation window, as documented: of (seed, row)."""
    return np.random.default_rng([*seed, row]).integers(2) == 1


def test_validation_on_whole_windows(stage1, voc):
    """[R] An image's pixels, padded by hand, straight to 32 x 32; the position does not matter."""
    keys = ["network.input=32", "windows.warp=36", "train.validate_crop=whole", "windows.stage1_labels=all"]
    examples = WindowCrops(stage1, voc, load_recipe("tiny", keys), False, (7, 2, 1))
    flips = Counter()
    for row, (index, (x1, y1, x2, y2)) in enumerate(zip(stage1.image, stage1.columns["window"] + 200, strict=True)):
        image, mask = voc.read_pair(stage1.image_ids[index])
        wide = np.stack([np.pad(image[..., c], 200, constant_values=(123, 117, 104)[c]) for c in range(3)], axis=2)
        expected = cv2.resize(wide[y1:y2, x1:x2], (32, 32), interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(np.pad(mask, 200, constant_values=255)[y1:y2, x1:x2], (32, 32),
                            interpolation=cv2.INTER_NEAREST)
        flip = mirrored((7, 2, 1), row)
        if flip:
            expected, labels = expected[:, ::-1], labels[:, ::-1]
        for position in (0, 5):
            found = examples[position, row]
            np.testing.assert_array_equal(found[0].permute(1, 2, 0), expected)
            np.testing.assert_array_equal(found[1], labels)
            assert found[2] == row
        flips[flip] += 1
    assert min(flips[True], flips[False]) >= 3


def test_validation_on_whole_windows_that_were_materialized(coded_windows, recipe):
    """The stored 36 x 36 pixels are warped once more: x and y are stretched by 36 / 32, nothing is cut off."""
    whole = load_recipe("tiny", ["network.input=32", f"windows.warp={WARP}", "train.validate_crop=whole"])
    examples = WindowCrops(coded_windows, None, whole, False, (0, 1, 2))
    centres = (np.arange(INPUT) + 0.5) * WARP / INPUT - 0.5
    for row in range(3):
        picture, labels, _ = examples[0, row]
        if mirrored((0, 1, 2), row):
            picture, labels = picture.flip(2), labels.flip(1)
        assert np.abs(picture[0].numpy() - centres[None, :]).max() < 0.75  # cv2 rounds weights, then values
        assert np.abs(picture[1].numpy() - centres[:, None]).max() < 0.75
        assert (labels == torch.from_numpy(np.floor(np.arange(INPUT) * WARP / INPUT) + 40)).all()
    assert {mirrored((0, 1, 2), row) for row in range(3)} == {True, False}


@pytest.mark.parametrize("flip", [False, True])
def test_crop_by_loops(flip):
    random = np.random.default_rng(0)
    picture, labels = random.integers(0, 256, (9, 9, 3), np.uint8), random.integers(0, 256, (9, 9), np.uint8)
    cropped, cropped_labels = crop(picture, labels, 2, 1, 6, flip)
    for y in range(6):
        for x in range(6):
            from_x = 1 + (5 - x if flip else x)
            assert cropped[:, y, x].tolist() == picture[2 + y, from_x].tolist()
            assert cropped_labels[y, x] == labels[2 + y, from_x]


def test_stage_1_labels_are_the_objects_own(stage1, voc, recipe):
    """Each window's labels: its own class, background, void; nothing of the objects around it."""
    examples = WindowCrops(stage1, voc, recipe, False, (0,))
    everything = WindowCrops(stage1, voc, load_recipe("tiny", ["windows.stage1_labels=all"]), False, (0,))
    more = 0
    for row in range(len(examples)):
        _, labels = examples.cut(row)
        own = int(stage1.columns["class_index"][row])
        assert set(np.unique(labels)) <= {0, own, 255} and (labels == own).any()
        more += len(np.unique(everything.cut(row)[1])) > len(np.unique(labels))
    assert more  # some windows do hold other objects


def test_window_id_names_image_and_box(coded_windows, recipe):
    assert WindowCrops(coded_windows, None, recipe, False, (0,)).example_id(0) == "first[-2,3,40,50]"


def test_windows_without_crops_need_images(stage1, recipe):
    with pytest.raises(UserError, match="has no stored crops.*--voc-root"):
        WindowCrops(stage1, None, recipe, False, (0,))


def test_a_damaged_crop_names_file_and_row(tmp_path, coded_windows, recipe):
    path = tmp_path / "damaged.h5"
    path.write_bytes(coded_windows.path.read_bytes())
    with h5py.File(path, "r+") as file:
        start, stop = coded_windows.crops["picture"][1:3]
        file["picture"][start + 40 : stop] = 0
    examples = WindowCrops(read_rows(path, "windows"), None, recipe, False, (0,))
    examples[0, 0]
    with pytest.raises(UserError, match=r"damaged\.h5: the crop of row 1 is damaged"):
        examples[0, 1]


@settings(max_examples=60, deadline=None)
@given(classes=st.lists(st.integers(1, 6), min_size=1, max_size=60), seed=st.integers(0, 10_000))
def test_an_epoch_is_balanced(classes, seed):
    """Every class as often as the most frequent one; within a class no row more than once oftener than another."""
    classes = np.array(classes)
    order = epoch_order(classes, "repeat", (seed,))
    most = np.bincount(classes).max()
    assert set(np.bincount(classes[order])) <= {0, most}
    times = np.bincount(order, minlength=len(classes))
    for one in np.unique(classes):
        own, rows = times[classes == one], (classes == one).sum()
        assert own.min() >= most // rows and own.max() <= -(-most // rows)


@given(classes=st.lists(st.integers(1, 6), min_size=1, max_size=60), seed=st.integers(0, 10_000))
def test_an_unbalanced_epoch_is_a_permutation(classes, seed):
    assert sorted(epoch_order(np.array(classes), "none", (seed,))) == list(range(len(classes)))


def test_epochs_and_seeds_differ():
    classes = np.repeat([1, 2], 20)
    one = list(positions(classes, "repeat", (0,), 0, 80))
    assert [row for _, row in one[:40]] != [row for _, row in one[40:]]
    assert sorted(row for _, row in one[:40]) == sorted(row for _, row in one[40:]) == list(range(40))
    assert one != list(positions(classes, "repeat", (1,), 0, 80))


@settings(max_examples=40, deadline=None)
@given(
    classes=st.lists(st.integers(1, 4), min_size=1, max_size=20),
    balance=st.sampled_from(["repeat", "none"]),
    start=st.integers(0, 130),
)
def test_positions_go_on_from_anywhere(classes, balance, start):
    whole = list(positions(np.array(classes), balance, (3,), 0, 150))
    assert [position for position, _ in whole] == list(range(150))
    assert list(positions(np.array(classes), balance, (3,), start, 150)) == whole[start:]


def test_batches():
    items = [(position, 10 * position) for position in range(7)]
    assert list(Batches(iter(items), 3)) == [items[:3], items[3:6], items[6:]]
    assert list(Batches(items[:6], 3)) == [items[:3], items[3:6]]
    assert list(Batches([], 3)) == []


def test_workers_change_nothing(stage1, voc, recipe):
    examples = WindowCrops(stage1, voc, recipe, True, (0, 1))
    items = list(positions(stage1.columns["class_index"], "repeat", (0,), 0, 22))
    state = torch.get_rng_state()
    alone, by_two = (list(load(examples, items, 4, workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)  # a resumed training makes its loaders at other times
    assert [len(batch[2]) for batch in alone] == [4, 4, 4, 4, 4, 2]
    for one, other in zip(alone, by_two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.cat([batch[2] for batch in alone]).tolist() == [row for _, row in items]


@pytest.mark.parametrize("labels", ["object", "all"])
def test_images_are_decoded_once_and_their_windows_stay_the_same(stage1, voc, labels, monkeypatch):
    """Three epochs, by one process and by two: the pixels of a dataset that decodes each image for each window."""
    keys = ["network.input=32", f"windows.warp={WARP}", f"windows.stage1_labels={labels}"]
    items = list(positions(stage1.columns["class_index"], "repeat", (0,), 0, 3 * len(stage1.image)))
    plain = WindowCrops(stage1, voc, load_recipe("tiny", [*keys, "train.decoded_gigabytes=0"]), True, (0, 1))
    expected = list(load(plain, items, 5, 0))
    some = 4 * int(stage1.sizes[:3].prod(1).sum())  # bytes of the first three images
    for gigabytes, workers in ((16.0, 0), (16.0, 2), (some / 1e9, 0)):
        recipe = load_recipe("tiny", [*keys, f"train.decoded_gigabytes={gigabytes}"])
        examples, read = WindowCrops(stage1, voc, recipe, True, (0, 1)), Counter()
        read_pair = voc.read_pair
        monkeypatch.setattr(voc, "read_pair", lambda one, read=read, real=read_pair: read.update([one]) or real(one))
        found = list(load(examples, items, 5, workers))
        monkeypatch.undo()
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        if labels == "all" and not workers:
            kept = stage1.image_ids if gigabytes == 16 else stage1.image_ids[:3]
            assert {read[one] for one in kept} == {1}
            assert gigabytes == 16 or max(read.values()) > 1


def test_validation_keeps_nothing_beside_the_last_images(stage1, voc, recipe, monkeypatch):
    monkeypatch.setattr("deconvnet.support.shared_blocks.tempfile.TemporaryFile", None)
    WindowCrops(stage1, voc, recipe, False, (0,))[0, 0]
    with pytest.raises(TypeError):
        WindowCrops(stage1, voc, recipe, True, (0,))


class Unreadable(Dataset):
    """A data set whose second image cannot be read."""

    def __getitem__(self, item: tuple[int, int]):
        if item[1] == 1:
            raise UserError("b.jpg: cut short")
        return torch.zeros(3, 2, 2), torch.zeros(2, 2), item[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_loading_is_told_as_it_is(workers):
    """torch itself would make one text of it, with the tracebacks of both processes."""
    batches = load(Unreadable(), [(0, 0), (1, 0), (2, 0), (3, 1)], 2, workers)
    assert next(batches)[2].tolist() == [0, 0]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == "b.jpg: cut short"


def test_network_input_is_rgb_minus_mean():
    """The release's BGR mean (104.008, 116.669, 122.675), turned to RGB; nothing is scaled."""
    picture = torch.tensor([[[[200]], [[100]], [[0]]]], dtype=torch.uint8)
    found = network_input(picture)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.flatten(), [200 - 122.675, 100 - 116.669, -104.008], rtol=1e-6)


def test_canvas_pads_bottom_and_right(voc, recipe):
    image_id = voc.image_ids("train")[0]
    image, mask = voc.read_pair(image_id)
    height, width = mask.shape
    examples = ImageCanvases(voc, [image_id], 128, False, (0,))
    picture, labels, index = examples[0, 0]
    assert index == 0 and examples.example_id(0) == image_id
    np.testing.assert_array_equal(picture[:, :height, :width].numpy().transpose(1, 2, 0), image)
    np.testing.assert_array_equal(labels[:height, :width].numpy(), mask)
    assert (labels[height:] == 255).all() and (labels[:, width:] == 255).all()
    assert (picture[:, height:] == torch.tensor([123, 117, 104])[:, None, None]).all()
    flips = {bool((ImageCanvases(voc, [image_id], 128, True, (0,))[position, 0][1] == labels.flip(1)).all())
             for position in range(20)}
    assert flips == {True, False}


def test_larger_images_are_shrunk_onto_the_canvas():
    """200 x 100 on 50: 50 x 25; a mask keeps its labels, a picture is averaged."""
    mask = np.zeros((200, 100), np.uint8)
    mask[:, 50:] = 7
    placed = on_canvas(mask, 50, 255)
    assert canvas_size(200, 100, 50) == (50, 25)
    assert canvas_size(30, 20, 50) == (30, 20)
    assert canvas_size(1000, 1, 50) == (50, 1)
    assert (placed[:, :12] == 0).all() and (placed[:, 13:25] == 7).all() and (placed[:, 25:] == 255).all()
    checks = np.zeros((200, 100, 3), np.uint8)
    checks[::2] = 200
    assert (on_canvas(checks, 50, 0)[:, :25] == 100).all()



def test_another_data_set_of_the_same_ids_is_refused(tmp_path):
    """Same names, other pictures: neither an IndexError nor another object's labels."""
    recipe = load_recipe("tiny", ["network.input=32", "windows.warp=36", "data.least_object_pixels=1"])
    made, other = (generate(tmp_path / name, train=2, val=1, seed=seed, side=96) for name, seed in (("a", 0), ("b", 1)))
    run = RunFolder(tmp_path / "run", recipe, made)
    build_windows(run, "train", 1, False, 0, "stop")
    rows = read_rows(run.windows(1, "train"), "windows")
    crops = WindowCrops(rows, VocFolder(other, recipe.data.classes), recipe, True, (0,))
    with pytest.raises(UserError, match="another data set|other objects"):
        for row in range(len(crops)):
            crops[0, row]
