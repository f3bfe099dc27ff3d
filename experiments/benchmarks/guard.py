"""The least ratios that CI accepts: least_ratios.yaml, beside this file, for the quick size."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.benchmarks.measuring import Measured

LEAST = Path(__file__).with_name("least_ratios.yaml")


def least_ratios(path: Path = LEAST) -> dict[str, dict[str, float]]:
    """By measurement and variant, how many times as fast as the baseline it is to be at least."""
    content: Any = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
    return content


def fallen(name: str, measured: list[Measured], least: dict[str, dict[str, float]]) -> list[str]:
    """A line for each variant of a measurement that is slower than what is asked of it.

    The fastest call of each is compared: other programs on a machine slow a call down, never speed it up.
    """
    fastest = min(measured[0].seconds)
    ratios = {one.name: fastest / min(one.seconds) for one in measured}
    return [f"{name}, {way}: {ratio:.2f} times as fast as the baseline, at least {wanted:g} is asked for"
            for way, ratio in ratios.items() if ratio < (wanted := least.get(name, {}).get(way, 0))]
