"""Which windows stages 1 and 2 get, against the rules of sections 4.2 and 6.1 written as loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet.data.row_files import OBJECT, PROPOSAL, WindowRows
from deconvnet.data.voc import VocObject
from deconvnet.recipe import Windows as Keys
from proposals.select import stage1_rows, stage2_rows
from tests.reference_inference import window_about

DTYPES = {"window": np.int32, "box": np.int32, "source": np.uint8, "object": np.int32, "class_index": np.uint8,
          "overlap": np.float32, "score": np.float32}


def thing(class_index: int, *box: int) -> VocObject:
    return VocObject(class_index, np.array(box, np.int32), np.zeros((0, 0), np.uint8), 1)


def iou(one: tuple, other: tuple) -> float:
    wide = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def expected_stage2(objects: list[VocObject], boxes: list[tuple], keys: Keys) -> list[tuple]:
    """(source, box, object, class, overlap, index of the proposal) of each window."""
    rows = []
    if keys.stage2_with_stage1:
        for number, item in enumerate(objects):
            rows.append((OBJECT, tuple(item.box.tolist()), number, item.class_index, 1.0, None))
    taken = 0
    for rank, box in enumerate(boxes):  # by decreasing score
        if keys.stage2_order == "top_first" and rank >= keys.stage2_top:
            break
        best, best_iou = None, -1.0
        for number, item in enumerate(objects):
            value = iou(box, tuple(item.box.tolist()))
            if value > best_iou:
                best, best_iou = number, value
        if best is None or best_iou < keys.stage2_overlap:
            continue
        if keys.stage2_order == "overlap_first" and taken >= keys.stage2_top:
            break
        taken += 1
        rows.append((PROPOSAL, box, best, objects[best].class_index, best_iou, rank))
    return rows


def check(rows: WindowRows, expected: list[tuple], scores: np.ndarray, keys: Keys) -> None:
    for name, dtype in DTYPES.items():
        assert getattr(rows, name).dtype == dtype and len(getattr(rows, name)) == len(expected), name
    assert rows.window.shape == rows.box.shape == (len(expected), 4)
    windows = [window_about(box, keys.enlarge, keys.shape == "square") for box in rows.box]
    np.testing.assert_array_equal(rows.window, np.reshape(windows, (-1, 4)))
    for index, (source, box, number, class_index, overlap, rank) in enumerate(expected):
        assert tuple(rows.box[index]) == box
        assert (rows.source[index], rows.object[index], rows.class_index[index]) == (source, number, class_index)
        assert rows.overlap[index] == np.float32(overlap)
        assert math.isnan(rows.score[index]) if rank is None else rows.score[index] == scores[rank]


box = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(max_examples=150, deadline=None)
@given(
    things=st.lists(st.tuples(st.integers(1, 20), box), max_size=4),
    boxes=st.lists(box, max_size=25),
    top=st.integers(1, 8),
    least=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    order=st.sampled_from(["overlap_first", "top_first"]),
    with_stage1=st.booleans(),
)
def test_stage_2_is_the_rules(things: list, boxes: list, top: int, least: float, order: str, with_stage1: bool) -> None:
    keys = Keys(stage2_top=top, stage2_overlap=least, stage2_order=order, stage2_with_stage1=with_stage1)
    objects = [thing(class_index, *where) for class_index, where in things]
    scores = np.linspace(0.9, 0.1, len(boxes), dtype=np.float32)
    found = stage2_rows(objects, np.array(boxes, np.int32).reshape(-1, 4), scores, keys)
    check(found, expected_stage2(objects, boxes, keys), scores, keys)


CAT = thing(8, 0, 0, 10, 10)
BOXES = [(50, 50, 60, 60), (0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 10, 4), (0, 0, 10, 9)]  # IoU 0, 1, 0.5, 0.4, 0.9
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)


@pytest.mark.parametrize(("order", "top", "ranks"), [
    ("overlap_first", 2, [1, 2]),  # the two best of those that overlap
    ("top_first", 2, [1]),  # of the two best, the one that overlaps
    ("overlap_first", 3, [1, 2, 4]),
    ("top_first", 3, [1, 2]),
    ("overlap_first", 50, [1, 2, 4]),
    ("top_first", 50, [1, 2, 4]),
])
def test_the_two_orders_by_hand(order: str, top: int, ranks: list[int]) -> None:
    """An overlap of exactly 0.5 is enough: 'IoU >= 0.5'."""
    keys = Keys(stage2_order=order, stage2_top=top, stage2_with_stage1=False)
    found = stage2_rows([CAT], np.array(BOXES, np.int32), SCORES, keys)
    assert [tuple(one) for one in found.box] == [BOXES[rank] for rank in ranks]
    assert found.source.tolist() == [PROPOSAL] * len(ranks)
    with_stage1 = stage2_rows([CAT], np.array(BOXES, np.int32), SCORES, Keys(stage2_order=order, stage2_top=top))
    assert with_stage1.source.tolist() == [OBJECT] + [PROPOSAL] * len(ranks)  # beside the top, not among them


def test_a_proposal_belongs_to_the_object_it_covers_best() -> None:
    objects = [CAT, thing(12, 2, 0, 12, 10)]
    boxes = [(50, 50, 60, 60), (2, 0, 12, 9), (0, 0, 10, 9), (1, 0, 11, 10)]  # the first belongs to none
    found = stage2_rows(objects, np.array(boxes, np.int32), SCORES[:4], Keys(stage2_with_stage1=False))
    assert found.object.tolist() == [1, 0, 0]  # equally well: the first
    assert found.class_index.tolist() == [12, 8, 8]


def test_nothing_to_choose_from() -> None:
    no_boxes, no_scores = np.zeros((0, 4), np.int32), np.zeros(0, np.float32)
    for keys in (Keys(), Keys(stage2_with_stage1=False)):
        check(stage2_rows([], np.array(BOXES, np.int32), SCORES, keys), [], SCORES, keys)
        check(stage2_rows([], no_boxes, no_scores, keys), [], no_scores, keys)
        alone = [(OBJECT, (0, 0, 10, 10), 0, 8, 1.0, None)] if keys.stage2_with_stage1 else []
        check(stage2_rows([CAT], no_boxes, no_scores, keys), alone, no_scores, keys)
    check(stage1_rows([], Keys()), [], no_scores, Keys())


def test_stage_1_is_one_window_an_object() -> None:
    objects = [thing(8, 10, 20, 30, 50), thing(8, 0, 0, 5, 5), thing(15, 10, 20, 30, 50)]
    for keys in (Keys(), Keys(shape="square", enlarge=1.5)):
        expected = [(OBJECT, tuple(item.box.tolist()), number, item.class_index, 1.0, None)
                    for number, item in enumerate(objects)]
        check(stage1_rows(objects, keys), expected, SCORES, keys)
    assert stage1_rows(objects, Keys()).window[0].tolist() == [8, 17, 32, 53]
