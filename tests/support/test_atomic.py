"""Files that are written whole or not at all, on a disk that may be full."""

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from deconvnet.support.atomic import (
    HOST,
    LONGEST_NAME,
    atomic_hdf5,
    atomic_write,
    host_code,
    remove_leftovers,
    temporary_name,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
import numpy as np
from deconvnet.support.atomic import atomic_hdf5

try:
    with atomic_hdf5(sys.argv[1]) as file:
        data = file.create_dataset("data", (0, 100), "f8", maxshape=(None, 100), chunks=(1, 100))
        for row in range(200):
            data.resize(row + 1, axis=0)
            data[row] = row
            file.attrs[f"note {row}"] = "x" * 50
except OSError as error:
    print("errno", error.errno)
"""


@pytest.mark.parametrize("suffix", [".txt", ".png", ""])
def test_a_failure_leaves_the_old_file_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"a{suffix}"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        assert temporary.suffix == (suffix or ".part") and temporary.parent == path.parent
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(path.parent) == [path.name]
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_hdf5_files_come_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((300, 70))
    with atomic_hdf5(tmp_path / "a.h5") as file:
        file["values"] = values
        file.create_dataset("packed", data=values, chunks=(10, 70), compression="lzf")
        assert not (tmp_path / "a.h5").exists()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["values"][:], values)
        np.testing.assert_array_equal(file["packed"][:], values)
    with pytest.raises(ZeroDivisionError), atomic_hdf5(tmp_path / "a.h5") as file:
        raise ZeroDivisionError
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["values"].shape == (300, 70)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    gone = [temporary_name(Path(name), 999999999) for name in ("last.pt", "2007_000033.x.h5", "LICENCE", "deadbeef.h5")]
    running = temporary_name(Path("last.pt"), os.getpid())
    elsewhere = [".last.0123abcd.999999999.part.pt", ".LICENCE.0123abcd.999999999.part"]  # by another machine
    before = [".last.999999999.part.pt", ".deadbeef.999999999.part.h5"]  # by versions that did not name the machine
    others = [running, *elsewhere, *before, ".last.part.pt", ".last.x.part.pt", "last.pt", "a.999999999.part.pt",
              ".VOC2012.part", ".hidden"]
    for name in [*gone, *others]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "no folder")
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    for name in others:
        os.utime(tmp_path / name, (1e9, 1e9))  # years ago
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted({*others} - {*elsewhere, *before})


def test_temporary_names_fit_a_file_system_and_tell_machines_apart() -> None:
    pod = "deconvnet-label-raycluster-5x2kq-gpus-worker-"
    assert host_code(pod + "8fz7k") != host_code(pod + "8fz7m") and HOST == host_code(socket.gethostname())
    name = temporary_name(Path(LONGEST_NAME * "x" + ".safetensors"), 1 << 22)  # Linux's largest process id
    assert len(name) <= 255 and HOST in name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_hdf5_file(number: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), atomic_hdf5(tmp_path / "a.h5") as file:
        file["first"] = np.arange(5)
        signal.raise_signal(number)
        file["second"] = np.arange(7)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["first"].shape == (5,) and file["second"].shape == (7,)
    assert os.listdir(tmp_path) == ["a.h5"] and signal.getsignal(number) is before


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 2048, 5000, 30_000, 100_000, 160_000])
def test_hdf5_survives_a_disk_that_is_full_at_any_point(size: int, tmp_path: Path) -> None:
    """On its own, HDF5 crashes the process when a write fails."""
    result = subprocess.run([sys.executable, "-c", WRITER, tmp_path / "a.h5"], cwd=ROOT, capture_output=True, text=True,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    assert (result.returncode, result.stdout, result.stderr) == (0, "errno 27\n", "")
    assert os.listdir(tmp_path) == []
