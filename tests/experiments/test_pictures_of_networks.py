"""What the figures of networks, windows and proposals show, against plain NumPy and explicit loops."""

import json
from pathlib import Path

import numpy as np
import pytest

from deconvnet.data.palette import write_label_png as write_labels
from deconvnet.data.row_files import OBJECT, read_rows
from deconvnet.models.build import build_network
from deconvnet.models.network_files import load_network, save_network
from deconvnet.recipe_files import load_recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.atomic import write_json
from experiments.figures import main, parse
from experiments.pictures.activations import decoder_layers, forward_maps, strongest
from experiments.pictures.adding import ORDERS, labels_by_count, score_proposals
from experiments.pictures.balance import windows_by_class
from experiments.pictures.object_window import object_window
from experiments.pictures.probabilities import largest_classes
from experiments.pictures.proposals_curve import about_objects, measures
from experiments.pictures.shown import NotThere, ShownRun, class_iou
from experiments.pictures.unpooling import busiest_channel, busiest_part
from experiments.pictures.windows import most_windows, spread
from experiments.records import read_run
from stages.cli import run_command
from tests import reference_network as plain
from tests.narrow import randomised
from tests.reference_inference import PAPER, window_about
from tests.reference_inference import window_scores as plain_scores
from tests.training_runs import KEYS, build

ROWS = ("fcn8s", "deconvnet-max", "deconvnet-max-crf", "deconvnet-max-fcn", "deconvnet-max-fcn-crf")
USED = 6  # proposals


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Nine training and three validation images, random networks, label maps that are not these networks'."""
    run = build(tmp_path_factory.mktemp("pictures"), (1, 2), keys=[*KEYS, f"infer.proposals={USED}",
                                                                    "proposals.count=30"])
    voc = run.voc()
    for kind, training in (("deconvnet", "stage2"), ("fcn8s", "fcn8s")):
        model = randomised(build_network(kind, run.recipe), 3)
        save_network(model, run.network(training), kind, run.recipe, "measured", {})
    for number, image_id in enumerate(voc.image_ids("val")):
        truth = voc.read_mask(image_id)
        for row, name in enumerate(ROWS):
            labels = np.where(truth == 255, 0, truth).astype(np.uint8)
            labels[:, : 10 * ((row + number) % 3)] = 0
            write_labels(run.root / "predictions" / "val" / name / f"{image_id}.png", labels)
    write_json(run.root / "run.json", {})
    write_json(run.root / "data.json", {"voc_root": str(run.voc_root)})
    return run


@pytest.fixture(scope="module")
def shown(run: RunFolder) -> ShownRun:
    return ShownRun(read_run(run.root).folder)


@pytest.fixture(scope="module")
def state(shown: ShownRun) -> dict[str, np.ndarray]:
    scorer = shown.scorer("deconvnet")
    model = load_network(scorer.weights, "deconvnet", shown.recipe)
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.slow
def test_all_figures_but_the_trainings_are_drawn(run: RunFolder) -> None:
    arguments = [str(run.root), "--only", "activations,probabilities,proposals_added,proposals_curve,windows,unpooling,"
                 "balance,proposal_recall", "--curve-images", "2"]
    assert run_command(parse(), main, arguments) == 0
    folder = run.root / "report" / "figures"
    told = {one["name"]: json.loads((folder / f"{one['name']}.json").read_text())["numbers"]
            for one in json.loads((folder / "figures.json").read_text())}
    assert len(told) == 8 and all((folder / f"{name}.svg").is_file() for name in told)
    assert told["proposals_added"]["counts"] == [1, 2, 5, USED]
    assert len(told["proposals_curve"]["images"]) == 2 and told["proposals_curve"]["counts"] == [1, 2, 3, 5, USED]
    by_size, by_score = (told["proposals_curve"][order]["mean_iou"] for order in ("size", "objectness"))
    assert by_size[-1] == by_score[-1]  # all of them: their order is nothing to the maximum


def test_activations_are_those_of_each_layer(shown: ShownRun, state: dict[str, np.ndarray]) -> None:
    """Each recorded map follows from the one before it, by plain NumPy; the last gives the scores."""
    found = object_window(shown)
    maps, scores = forward_maps(shown, found)
    before = maps["fc6_deconv"]
    eps = shown.recipe.network.bn_eps
    for block, count in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2)):
        unpooled = maps[f"unpool{block}"]
        assert unpooled.shape[1] == 2 * before.shape[1]
        parts = unpooled.reshape(len(before), before.shape[1], 2, before.shape[2], 2).transpose(0, 1, 3, 2, 4)
        np.testing.assert_array_equal(parts.reshape(*before.shape, 4).sum(3), before)  # one place each, zeros around
        before = unpooled
        for number in range(1, count + 1):
            name = f"deconv{block}_{number}"
            x = plain.transposed_convolution(before[None].astype(float), state[f"{name}.weight"],
                                             state[f"{name}.bias"], 1)
            x = plain.batch_norm(x, state, f"debn{block}_{number}", eps, False)
            close(maps[name], np.maximum(x[0], 0))
            before = maps[name]
    x = plain.convolution(before[None].astype(float), state["seg_score_voc.weight"], state["seg_score_voc.bias"], 0)
    close(scores, x[0])


def test_the_strongest_map_has_the_most_energy() -> None:
    maps = np.random.default_rng(0).normal(size=(7, 5, 5)).astype(np.float32)
    energies = []
    for channel in range(7):
        energies.append(0.0)
        for row in range(5):
            for column in range(5):
                energies[-1] += float(maps[channel, row, column]) ** 2
    assert strongest(maps) == energies.index(max(energies))


def test_layers_are_named_by_the_network(shown: ShownRun) -> None:
    model, _ = shown.scorer("deconvnet").opened
    wanted = ["fc6_deconv"]
    for block, count in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2)):
        wanted += [f"unpool{block}", *(f"deconv{block}_{number}" for number in range(1, count + 1))]
    assert decoder_layers([name for name, _ in model.named_children()]) == wanted


def test_the_window_is_the_largest_objects(shown: ShownRun) -> None:
    """Of the image of the highest mean IoU among those of several classes."""
    best, where = -1.0, ""
    for image_id, iou in zip(shown.image_ids, shown.image_iou("DeconvNet"), strict=True):
        classes = {int(label) for label in np.unique(shown.voc.read_mask(image_id))} - {0, 255}
        if len(classes) > 1 and iou > best:
            best, where = iou, image_id
    found = object_window(shown)
    objects = shown.voc.objects(where)
    largest = max(objects, key=lambda one: int(one.mask.sum()))
    assert found.image_id == where and found.class_index == largest.class_index
    assert tuple(found.window) == window_about(largest.box, 1.2, False)
    other = next(image_id for image_id in shown.image_ids if image_id != where)
    assert object_window(ShownRun(shown.run, image=other)).image_id == other


def test_unpooling_shows_one_channel_of_the_same_window(shown: ShownRun) -> None:
    found = object_window(shown)
    channel, maps = busiest_channel(shown, found)
    recorded, _ = forward_maps(shown, found)
    np.testing.assert_array_equal(maps.unpooled, recorded["unpool3"][channel])
    np.testing.assert_array_equal(maps.decoded, recorded["deconv4_3"][channel])
    pooled, switches = plain.max_pooling(maps.before[None, None].astype(float))
    np.testing.assert_array_equal(maps.pooled, pooled[0, 0])
    side = len(maps.before)
    np.testing.assert_array_equal(maps.switches, switches[0, 0, ..., 0] * side + switches[0, 0, ..., 1])
    np.testing.assert_array_equal(maps.unpooled, plain.unpooling(maps.decoded[None, None], switches)[0, 0])


def test_the_busiest_part_is_found_by_looking_at_all() -> None:
    values = np.random.default_rng(1).random((6, 9))
    sums = {(row, column): values[row : row + 4, column : column + 4].sum() for row in range(3) for column in range(6)}
    assert busiest_part(values, 4) == max(sums, key=lambda place: sums[place])
    assert busiest_part(values[:2, :2], 4) == (0, 0)


@pytest.mark.slow
def test_labels_of_the_first_proposals(shown: ShownRun, state: dict[str, np.ndarray]) -> None:
    """In both orders and for each count, against the plain aggregation of so many boxes."""
    image_id, counts = shown.image_ids[0], [1, 3, USED]
    image = shown.voc.read_image(image_id)
    boxes = read_rows(shown.run.proposals("val"), "proposals").of_image(image_id)["boxes"][:USED]
    windows = [window_about(box, 1.2, False) for box in boxes]
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows]
    by_size = sorted(range(USED), key=lambda number: (-sizes[number], number))
    scored = score_proposals(shown, image_id)
    assert list(map(tuple, scored.windows)) == windows and scored.boxes.tolist() == boxes.tolist()
    for order, name in ((by_size, "size"), (list(range(USED)), "objectness")):
        assert ORDERS[name](scored.windows).tolist() == order
        found = labels_by_count(shown, scored, np.array(order), counts)
        for count, labels in zip(counts, found, strict=True):
            keys = PAPER | {"network.input": shown.recipe.network.input, "infer.proposals": count,
                            "network.bn_eps": shown.recipe.network.bn_eps}
            wanted = plain_scores(image, boxes[order], keys, state)
            two = np.sort(wanted, axis=0)[-2:]
            clear = (two[1] - two[0] > 1e-4) | (two[1] == 0)  # equal scores: no window there, so background
            assert clear.mean() > 0.95
            np.testing.assert_array_equal(labels[clear], wanted.argmax(0)[clear])


def test_proposals_about_objects_overlap_one_by_half(shown: ShownRun) -> None:
    for image_id in shown.image_ids:
        boxes = read_rows(shown.run.proposals("val"), "proposals").of_image(image_id)["boxes"]
        objects = shown.voc.objects(image_id)
        assert about_objects(shown, image_id, boxes).tolist() == [
            number for number, one in enumerate(boxes) if max(overlap_of(one, thing.box) for thing in objects) >= 0.5]
    assert about_objects(shown, image_id, boxes[:0]).tolist() == []


def overlap_of(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    common = np.prod([max(0, min(one[2 + k], other[2 + k]) - max(one[k], other[k])) for k in (0, 1)])
    return float(common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common))


def test_the_curves_measures_are_counted() -> None:
    from deconvnet.evaluation.metrics import ConfusionMatrix

    truth = np.array([[0, 0, 0, 0, 1, 1, 2, 2, 2, 255]], np.uint8)
    found = np.array([[0, 0, 0, 1, 1, 0, 2, 1, 1, 2]], np.uint8)
    confusion = ConfusionMatrix(["background", "cat", "dog"])
    confusion.add(found, truth, "image")
    told = measures([confusion])
    # Objects: 5 pixels, of which 2 right, 1 background, 2 of another class; background: 1 of 4 invented.
    assert {name: values[0] for name, values in told.items()} == pytest.approx({
        "mean_iou": (3 / 5 + 1 / 5 + 1 / 3) / 3, "objects_right": 2 / 5, "objects_missed": 1 / 5,
        "objects_confused": 2 / 5, "background_as_object": 1 / 4})


def test_balance_repeats_each_class_until_all_are_equal() -> None:
    before, after = windows_by_class(np.array([1] * 5 + [3] * 2, np.uint8), "repeat", 4)
    assert before.tolist() == [0, 5, 0, 2] and after.tolist() == [0, 5, 0, 5]
    assert windows_by_class(np.array([1, 1, 3], np.uint8), "none", 4)[1].tolist() == [0, 2, 0, 1]


def test_windows_are_spread_by_overlap(shown: ShownRun) -> None:
    rows = shown.window_rows(2, "val")
    assert most_windows(rows) == max(rows.image_ids, key=lambda one: len(rows.of_image(one)["window"]))
    image_id = shown.image_ids[0]
    chosen = spread(rows, rows.span(image_id), 3)
    of_proposals = [number for number in range(rows.span(image_id).start, rows.span(image_id).stop)
                    if rows.columns["source"][number] != OBJECT]
    falling = sorted((float(rows.columns["overlap"][number]) for number in of_proposals), reverse=True)
    overlaps = rows.columns["overlap"][chosen].tolist()
    assert set(chosen) <= set(of_proposals) and overlaps == sorted(overlaps, reverse=True)
    assert overlaps[0] == falling[0] and overlaps[-1] == falling[-1]
    assert spread(rows, slice(0, 0), 3) == []


def test_classes_and_their_iou() -> None:
    assert largest_classes(np.array([[90, 5, 0, 7], [90, 3, 0, 7]]), 3) == [3, 1]
    labels, truth = np.array([[1, 1, 2, 1]], np.uint8), np.array([[1, 2, 2, 255]], np.uint8)
    assert class_iou(labels, truth, 1) == 1 / 2 and class_iou(labels, truth, 2) == 1 / 2
    assert np.isnan(class_iou(labels[:, :1], truth[:, :1], 2))


def test_what_is_missing_names_its_command(shown: ShownRun, tmp_path: Path) -> None:
    empty = ShownRun(RunFolder(tmp_path, load_recipe("tiny"), shown.run.voc_root))
    for asked, command in ((lambda: empty.scorer("deconvnet"), "stages.train"),
                           (lambda: empty.proposal_rows(), "stages.build_proposals --run"),
                           (lambda: empty.window_rows(1, "train"), "--split train` makes it"),
                           (lambda: empty.image_iou("EDeconvNet"), "--ensemble fcn --split val` makes them")):
        with pytest.raises(NotThere, match=command):
            asked()
