"""Blocks that forked processes share: what one writes the others read; bounds, full disks, and nothing left behind."""

import multiprocessing
import os
import pickle
import tempfile

import numpy as np
import pytest

from deconvnet.support.shared_blocks import SharedBlocks

LENGTHS = [5, 8, 3]
BLOCKS = [np.arange(length, dtype=np.uint8) + 10 * length for length in LENGTHS]


def test_what_is_put_is_got() -> None:
    blocks = SharedBlocks(LENGTHS, 1e3)
    for number in (1, 0, 2):
        assert blocks.get(number) is None
        blocks.put(number, BLOCKS[number][:2].reshape(2, 1), BLOCKS[number][2:])
        np.testing.assert_array_equal(blocks.get(number), BLOCKS[number])
    np.testing.assert_array_equal(blocks.get(1), BLOCKS[1])
    with pytest.raises(ValueError, match="read-only"):
        blocks.get(1)[0] = 0


def test_forked_processes_share_them() -> None:
    blocks = SharedBlocks(LENGTHS, 1e3)
    blocks.put(0, BLOCKS[0])
    context = multiprocessing.get_context("fork")

    def child() -> None:
        if (blocks.get(0) == BLOCKS[0]).all() and blocks.get(1) is None:
            blocks.put(1, BLOCKS[1])

    process = context.Process(target=child)
    process.start()
    process.join()
    np.testing.assert_array_equal(blocks.get(1), BLOCKS[1])
    assert blocks.get(2) is None


@pytest.mark.parametrize("most, kept", [(0, 0), (4.9, 0), (5, 1), (12, 1), (13, 2), (16, 3), (1e18, 3)])
def test_the_first_that_fit_are_kept(most: float, kept: int) -> None:
    blocks = SharedBlocks(LENGTHS, most)
    for number, block in enumerate(BLOCKS):
        blocks.put(number, block)
    assert [blocks.get(number) is not None for number in range(3)] == [True] * kept + [False] * (3 - kept)


def test_never_more_than_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 26})())
    blocks = SharedBlocks(LENGTHS, 1e3)
    for number, block in enumerate(BLOCKS):
        blocks.put(number, block)
    assert [blocks.get(number) is not None for number in range(3)] == [True, True, False]


@pytest.mark.parametrize("most, free", [(26, 1000), (1e3, 52)])
def test_the_ranks_of_a_machine_share_what_may_be_kept(most: float, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them 26 bytes, of most or of half of what is free: the first two blocks each."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": free})())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    blocks = SharedBlocks(LENGTHS, most)
    for number, block in enumerate(BLOCKS):
        blocks.put(number, block)
    assert [blocks.get(number) is not None for number in range(3)] == [True, True, False]


def test_a_full_disk_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = SharedBlocks(LENGTHS, 1e3)
    blocks.put(0, BLOCKS[0])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    blocks.put(1, BLOCKS[1])
    monkeypatch.undo()
    blocks.put(2, BLOCKS[2])
    assert [blocks.get(number) for number in range(3)] == [None] * 3


def test_a_block_of_another_length_is_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match="block 1: 5 bytes"):
        SharedBlocks(LENGTHS, 1e3).put(1, BLOCKS[0])


def test_elsewhere_it_keeps_nothing() -> None:
    blocks = SharedBlocks(LENGTHS, 1e3)
    blocks.put(0, BLOCKS[0])
    again = pickle.loads(pickle.dumps(blocks))
    assert again.get(0) is None
    again.put(0, BLOCKS[0])
    assert again.get(0) is None


def test_its_file_has_no_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    blocks = SharedBlocks(LENGTHS, 1e3)
    blocks.put(0, BLOCKS[0])
    assert not list(tmp_path.iterdir())
