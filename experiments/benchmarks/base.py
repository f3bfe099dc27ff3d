"""What a measurement consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deconvnet.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """How large a measurement is made, and on what."""

    quick: bool = False  # a small size, for tests and CI: ratios hold roughly, figures are not to be quoted
    device: str = "cpu"  # as torch.device takes it
    voc_root: Path | None = None  # whose val's photographs are measured on; None: generated ones


def shaped(settings: Settings) -> Recipe:
    """The paper's recipe; a narrow network for small windows if quick."""
    recipe = Recipe()
    if settings.quick:
        recipe.network.width, recipe.network.input = 0.125, 64
    return recipe


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    prepare: makes everything that is not to be timed (networks, images), and returns what is: a call of no arguments,
    whose result the measurement's `agreement` compares. precision: fp32 or bf16: which of the machine's peaks
    its floor is taken from. environment: of its process, beside what is there, as the command that it stands for
    sets it.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    precision: str = "fp32"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a call cannot do without: (floating-point operations, bytes) of each of its steps, one after the other.

    Bytes are those of fp32; in bf16 they are half as many.
    """

    steps: tuple[tuple[float, float], ...]

    @property
    def operations(self) -> float:
        """Floating-point operations in all."""
        return sum(operations for operations, _ in self.steps)


@dataclass(frozen=True)
class Benchmark:
    """A measurement: a plain baseline, as a reader of the paper would write it, beside ours.

    units: how many a call does, of `unit`: "windows", "images". variants: the first is the default path.
    agreement: of the baseline's result and a variant's, by name: "largest difference", "same labels". work: what a call
    cannot do without, for the floor.
    """

    unit: str
    units: float
    baseline: Variant
    variants: tuple[Variant, ...]
    agreement: Callable[[Any, Any], Mapping[str, float]] | None = None
    work: Callable[[], Work] | None = None
