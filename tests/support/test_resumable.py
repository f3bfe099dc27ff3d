"""Work per image that goes on where it stopped, with real worker processes."""

import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deconvnet.support.errors import LostWorker, UserError
from deconvnet.support.resumable import Arrays, make_parts, part_path, read_part, remove_parts

IDS = ["c", "a", "e", "b", "d"]


@dataclass
class Doubles:
    """Gives an array a number drawn from the id; fails for ids in `bad`; leaves a trace of each call."""

    calls: Path
    bad: tuple[str, ...] = ()
    crash: str = ""
    killed: str = ""

    def __call__(self, image_id: str) -> Arrays:
        with (self.calls / image_id).open("a") as file:
            file.write("x")
        if image_id == self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if image_id == self.crash:
            raise ZeroDivisionError("a fault of the program")
        if image_id in self.bad:
            raise UserError(f"/data/{image_id}.jpg: no good")
        return {"value": np.array([ord(image_id) * 2]), "size": np.arange(2), "none": np.zeros((0, 4), np.int32)}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def called(calls: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in calls.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_image_has_its_part_and_a_second_run_does_nothing(workers: int, calls: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "parts"
    assert make_parts(folder, IDS, Doubles(calls), workers, "stop", "test") == IDS
    assert sorted(path.name for path in folder.iterdir()) == [f"{image_id}.npz" for image_id in sorted(IDS)]
    for image_id in IDS:
        part = read_part(folder, image_id)
        assert part["value"].tolist() == [ord(image_id) * 2]
        assert part["none"].shape == (0, 4) and part["none"].dtype == np.int32
    assert make_parts(folder, IDS, Doubles(calls), workers, "stop", "test") == IDS
    assert called(calls) == dict.fromkeys(IDS, 1)
    remove_parts(folder)
    assert not folder.exists()


def test_goes_on_where_it_stopped(calls: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    make_parts(folder, ["a", "b"], Doubles(calls), 0, "stop", "test")
    (folder / ".c.4711.part.npz").write_bytes(b"half")  # what SIGKILL leaves behind: never taken for a part
    assert make_parts(folder, IDS, Doubles(calls), 1, "stop", "test") == IDS
    assert called(calls) == dict.fromkeys(IDS, 1)
    remove_parts(folder)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_names_file_and_image_and_keeps_what_is_done(workers: int, calls: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    with pytest.raises(UserError) as caught:
        make_parts(folder, IDS, Doubles(calls, bad=("b",)), workers, "stop", "test")
    assert "/data/b.jpg: no good" in str(caught.value) and "image b" in str(caught.value)
    assert "--on-error skip" in str(caught.value) and "\n" not in str(caught.value)
    done = {path.stem for path in folder.iterdir()}
    assert {"c", "a", "e"} <= done and "b" not in done
    assert make_parts(folder, IDS, Doubles(calls), workers, "stop", "test") == IDS  # the image was mended
    assert all(called(calls)[image_id] == 1 for image_id in done)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_names_each_image_and_leaves_it_out(workers: int, calls: Path, tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids = make_parts(tmp_path / "parts", IDS, Doubles(calls, bad=("b", "c")), workers, "skip", "test")
    assert ids == ["a", "e", "d"]
    for image_id in ("b", "c"):
        assert f"skipped: /data/{image_id}.jpg: no good (image {image_id})" in caplog.text
    assert "2 images skipped" in caplog.text


def test_all_left_out_is_an_error(calls: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 5 images"):
        make_parts(tmp_path / "parts", IDS, Doubles(calls, bad=tuple(IDS)), 0, "skip", "test")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_is_not_skipped(workers: int, calls: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        make_parts(tmp_path / "parts", IDS, Doubles(calls, crash="e"), workers, "skip", "test")
    assert part_path(tmp_path / "parts", "a").exists()


def test_a_killed_process_is_told_and_what_is_done_stays(calls: Path, tmp_path: Path) -> None:
    """As by the kernel, when memory runs out; --on-error skip does not hide it."""
    with pytest.raises(LostWorker, match=r"worked on images was killed: most likely.*memory.*\(--workers=N\)"):
        make_parts(tmp_path / "parts", IDS, Doubles(calls, killed="e"), 1, "skip", "test")
    done = {path.stem for path in (tmp_path / "parts").glob("[!.]*.npz")}
    assert done == {"c", "a"}
    assert make_parts(tmp_path / "parts", IDS, Doubles(calls), 1, "stop", "test") == IDS
    assert all(called(calls)[image_id] == 1 for image_id in done)


def test_a_damaged_part_is_named(calls: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    make_parts(folder, ["a"], Doubles(calls), 0, "stop", "test")
    content = part_path(folder, "a").read_bytes()
    for damaged in (b"", b"\0" * len(content), content[: len(content) // 2]):
        part_path(folder, "a").write_bytes(damaged)
        with pytest.raises(UserError, match="a.npz: damaged .*remove it"):
            read_part(folder, "a")


def test_a_part_never_runs_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", value=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        read_part(tmp_path, "a")
