"""What the project needs to know of a network: the contract for each entry of NETWORKS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.recipe import UNIT, Recipe, Solver

if TYPE_CHECKING:
    from torch import Tensor, nn

WINDOWS, IMAGES = "windows", "images"  # what a network sees
MEASURED, RUNNING, NONE = "measured", "running", "none"  # where BN's statistics for inference come from


@dataclass(frozen=True)
class Start:
    """A training starts from another one's checkpoint.

    training: the other one's name. checkpoint: 'best' or 'last'. fill: copies its state into a network of another kind;
    None: both are of the same kind.
    """

    training: str
    checkpoint: str
    fill: "Callable[[Any, dict[str, Tensor]], None] | None" = None


@dataclass(frozen=True)
class TrainingSpec:
    """One training: its examples, its length, and its initial weights.

    name: its folder in the run. title: in messages. network: of NETWORKS. examples: WINDOWS or IMAGES. stage: of the
    windows; selects the entry of solver.lr_step. stream: separates its random numbers from other trainings'.
    section: of the recipe, which holds iterations, batch and micro_batch. validation: number of validation examples,
    drawn once; 0: all. bn: MEASURED after the training [R], RUNNING averages, or NONE. bn_start: UNIT or
    PRESERVE. start: None: the weights file that is given, else random weights.
    """

    name: str
    title: str
    network: str
    examples: str
    stage: int
    stream: int
    iterations: int
    section: str
    batch: int
    micro_batch: int
    validation: int
    solver: Solver
    bn: str
    bn_start: str = UNIT
    start: Start | None = None

    @property
    def iterations_key(self) -> str:
        """The recipe key of its length."""
        return f"{self.section}.iterations"


def _no_canvas(_: Recipe) -> int:
    raise TypeError("a network that sees windows has no canvas")


@dataclass(frozen=True)
class NetworkSpec:
    """A network that the commands can train, use for inference, and put into the table.

    name: on the command line (--model) and in file names. title: in tables. paper: its table row in the paper's Table
    1. build: a network of the recipe's shape; it has `initialise(generator)`, which draws its weights, and maps
    pictures N x 3 x H x W (RGB minus the mean) to scores N x classes x H x W. examples: what it sees, WINDOWS or
    IMAGES. canvas: side of the square canvas for whole images (IMAGES). trainings: in order; inference uses the last
    one's network. by_stage: its trainings are started one by one (--stage), since each takes days. describe: what
    distinguishes two networks of this name; stored in their files. recipe_section: its own section of the recipe.
    in_table: whether it has a table row of its own; a step towards another network does not. published: readers of
    other programs' weights files, by suffix.
    """

    name: str
    title: str
    build: "Callable[[Recipe], nn.Module]"
    examples: Callable[[Recipe], str]
    trainings: Callable[[Recipe], list[TrainingSpec]]
    describe: Callable[[Recipe], dict[str, Any]]
    recipe_section: str
    canvas: Callable[[Recipe], int] = _no_canvas
    by_stage: bool = False
    paper: str | None = None
    in_table: bool = True
    published: "dict[str, Callable[[Path, Recipe], dict[str, Tensor]]]" = field(default_factory=dict)

    def side(self, recipe: Recipe) -> int:
        """The side of the square that it sees: a window, or the canvas that a whole image stands on."""
        return recipe.network.input if self.examples(recipe) == WINDOWS else self.canvas(recipe)

    def scores_name(self, recipe: Recipe, aggregate: str) -> str:
        """deconvnet-max, fcn8s: the name of its label maps; with the aggregation if it sees windows."""
        return f"{self.name}-{aggregate}" if self.examples(recipe) == WINDOWS else self.name
