"""How the arithmetic is run: memory that is kept."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deconvnet.support.workers import WorkerPool

FAULTS = """
import resource, torch
from deconvnet.recipe import Runtime
from deconvnet.runtime import prepare
prepare(torch.nn.Identity(), Runtime(), torch.device("cpu"))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):  # up to eight blocks are new ones: see keep_freed_memory
    torch.ones(1 << 24)
before = faults()
for _ in range(3):
    torch.ones(1 << 24)
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_freed_memory_is_taken_again() -> None:
    """64 MB three times more: 49,152 pages where each time is the first; hardly any where the memory stayed."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    assert int(done.stdout) < 1000


def _faults_of_thrice() -> int:
    """Pages asked for while 64 MB are taken and freed thrice, after they were once before."""
    b"x" * (1 << 26)  # NumPy's would be of huge pages, of which there are few
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_worker_keeps_the_memory_of_its_last_image() -> None:
    """49,152 pages where it does not."""
    with WorkerPool(1) as pool:
        assert pool.submit(_faults_of_thrice).result() < 1000


def _resident_after_a_large_one() -> int:
    """Bytes, after 2 GB were taken and freed."""
    np.ones(1 << 28)
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_worker_gives_back_what_a_large_image_took() -> None:
    with WorkerPool(1) as pool:
        assert pool.submit(_resident_after_a_large_one).result() < 1 << 30
