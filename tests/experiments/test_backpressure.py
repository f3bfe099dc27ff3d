"""What experiments.backpressure says of a command's memory, and that it sees the processes that the command starts."""

import sys
from pathlib import Path

import pytest

from deconvnet.support.errors import UserError
from experiments.backpressure import summary, watched

HOLDS = """
import pathlib, sys, time
held = b"1" * 60_000_000
pathlib.Path(sys.argv[1], "a.png").touch()
pathlib.Path(sys.argv[1], ".b.1.part.png").touch()
time.sleep(1)
"""


def sample(seconds: float, images: int, driver: float, workers: float = 10, ray: float = 1) -> dict[str, float]:
    return {"seconds": seconds, "images": images, "driver": driver, "workers": workers, "ray": ray}


def test_the_start_is_left_out_and_growth_is_per_thousand_images() -> None:
    samples = [sample(0, 0, 5), sample(4, 99, 7), sample(10, 100, 20), sample(20, 500, 22), sample(30, 900, 24),
               sample(40, 1000, 90)]
    told = summary(samples, 1000)
    assert told["images_per_second"] == 40  # 800 in 20 s
    assert told["driver"] == {"least_mb": 20, "most_mb": 24, "mb_per_1000_images": 5}  # 4 MB over 800 images
    assert told["workers"] == {"least_mb": 10, "most_mb": 10, "mb_per_1000_images": 0}
    with pytest.raises(UserError, match="only 2 measurements after the start"):
        summary(samples[:4], 1000)


def test_a_commands_memory_and_its_label_maps_are_seen(tmp_path: Path) -> None:
    samples = watched([sys.executable, "-c", HOLDS, str(tmp_path)], tmp_path, 0.1)
    assert max(one["driver"] for one in samples) > 60 and samples[-1]["images"] == 1
    with pytest.raises(UserError, match="ended with 3: it went wrong"):
        watched([sys.executable, "-c", "import sys; print('it went wrong'); sys.exit(3)"], tmp_path, 0.05)
