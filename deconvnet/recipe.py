"""The recipe: one typed object that holds every choice of a run.

Defaults here are the paper's. A recipe file (YAML) changes some of them, `--set key=value` changes more.
Everything in which the paper [P] and the authors' released code [R] differ is a key, never an `if` on a
name; the note beside a key says where its values come from ([I]: inferred; no mark: our own choice).
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deconvnet.conventions import VOC_CLASSES
from deconvnet.recipe_limits import check_text, check_values, short
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UsageError

RECIPE_FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "recipes"


MANY = 10**9  # of what is only counted: iterations, pixels
MOST_BOXES = 200_000
MOST_BATCH = 1 << 16
MOST_SIDE = 4096


def key(default: Any, note: str, choices: tuple[str, ...] = (), least: float | None = None,
        most: float | None = None) -> Any:
    """A recipe key: default, a note with its origin, and what values are allowed (of a list: each number in it).

    most: far beyond what anyone uses, but such that sizes and times stay within a machine's reach.
    """
    metadata = {"note": note, "choices": choices, "least": least, "most": most}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Data:
    """The data set."""

    classes: list[str] = key(VOC_CLASSES, "class names, index 0 is background; VOC 2012's 21 [P 6.1]")
    train_split: str = key("train_aug", "split that is trained on: VOC 2012 with SBD's labels [P 6.1]")
    val_split: str = key("val", "split that is validated and, by default, scored on")
    least_object_pixels: int = key(16, "objects with fewer labelled pixels make no window", least=1,
                                   most=MANY)


@dataclass
class Proposals:
    """Edge maps and EdgeBoxes [P 5, 6.1]."""

    edges: str = key(
        "auto",
        "structured: Dollar's structured forest [P, R: it is EdgeBoxes' own]; gradient: built in; auto: structured "
        "when its model file is given",
        choices=("auto", "structured", "gradient"),
    )
    count: int = key(2000, "boxes an image [P 6.1]", least=1, most=MOST_BOXES)
    alpha: float = key(0.65, "EdgeBoxes: step of the sliding window search, as an IoU [EdgeBoxes' default]", least=0.1,
                       most=0.9)
    beta: float = key(0.75, "EdgeBoxes: IoU of non-maximum suppression [EdgeBoxes' default]", least=0.1, most=1)
    eta: float = key(1.0, "EdgeBoxes: adaptation rate of that suppression [EdgeBoxes' default]", least=0.1, most=1)
    min_score: float = key(0.01, "EdgeBoxes: boxes below this score are dropped [EdgeBoxes' default]", least=0.0,
                           most=1e3)


@dataclass
class Windows:
    """What is cut from the images, and how it is labelled."""

    enlarge: float = key(1.2, "a box is enlarged by this factor about its centre [P 6.1, R]", least=1.0, most=10)
    shape: str = key(
        "tight",
        "tight: both sides of the box enlarged [P 6.1]; square: side = enlarge * max(w, h) [R, I]",
        choices=("tight", "square"),
    )
    outside: str = key(
        "mean",
        "picture outside the image: mean (rounded, so about 0 for the network; our choice); zero: raw 0 before the "
        "mean is taken off [R]",
        choices=("mean", "zero"),
    )
    warp: int = key(250, "training windows are warped to this side [P 6.1]", least=8, most=MOST_SIDE)
    resize: str = key(
        "linear",
        "picture resampling when training; linear: cv2 bilinear without antialiasing [R]; area: antialiased when "
        "shrinking",
        choices=("linear", "area"),
    )
    stage1_labels: str = key(
        "object",
        "object: only the window's own object keeps its label, all others become background [P 4.2]; all: all classes",
        choices=("object", "all"),
    )
    stage2_top: int = key(50, "proposals an image that become stage 2 windows [P 6.1]", least=1, most=MOST_BOXES)
    stage2_overlap: float = key(0.5, "least IoU of a stage 2 proposal with an object's box [P 4.2]", least=0.0,
                                most=1)
    stage2_order: str = key(
        "overlap_first",
        "overlap_first: the best-scored among those that overlap; top_first: those that overlap among the best-scored "
        "(the sources leave it open)",
        choices=("overlap_first", "top_first"),
    )
    stage2_with_stage1: bool = key(True, "stage 1 windows stay in stage 2, with all classes labelled [I]")
    balance: str = key(
        "repeat",
        "repeat: windows of rare classes are repeated until all classes are equally frequent [P 6.1]; none",
        choices=("repeat", "none"),
    )
    encoding: str = key(
        "png", "--materialize: png (lossless) or jpeg (quality 95) for the pictures", choices=("png", "jpeg")
    )


@dataclass
class Network:
    """DeconvNet [P Table 2]."""

    width: float = key(1.0, "channel counts are multiplied by this; 1: Table 2", least=1 / 64, most=16)
    input: int = key(224, "side of the network's input, a multiple of 32 [P Table 2]", least=32, most=2048)
    unpooling: str = key(
        "switches",
        "switches [P 3.2.1]; variants the paper argues against: fixed (top left), average, tile, bilinear",
        choices=("switches", "fixed", "average", "tile", "bilinear"),
    )
    batch_norm: bool = key(True, "batch normalisation after every layer but the last [P 4.1]")
    bn_eps: float = key(1e-5, "added to BN's variance: 1e-5 (not in the paper: torch's value); 1e-9 [R]", least=0.0,
                        most=1e3)
    bn_shift: float = key(0.0, "BN's initial shift: 0 (not in the paper: torch's value); 0.001 [R]", least=-1e3,
                          most=1e3)
    deconv_std: float = key(
        0.01, "deviation of the Gaussian of the deconvolution layers and of the score layer behind them [P 6.1, R]; "
        "0: He's", least=0.0, most=1e3
    )
    conv_std: float = key(
        0.0, "deviation of convolution layers that no VGG16 file fills; 0: He's (sqrt(2 / fan-in))", least=0.0,
        most=1e3
    )


@dataclass
class Solver:
    """Stochastic gradient descent [P 6.1]."""

    lr: float = key(0.01, "initial learning rate [P 6.1, R]", least=0.0, most=1e3)
    momentum: float = key(0.9, "[P 6.1, R]", least=0.0, most=0.9999)
    weight_decay: float = key(5e-4, "[P 6.1, R]", least=0.0, most=1e3)
    decay_over_accumulation: bool = key(
        False, "divide the decay by the number of accumulated passes: false [P]; true, Caffe's averaging does so [R]"
    )
    momentum_rule: str = key(
        "torch",
        "torch: the rate multiplies the velocity; caffe: the rate is inside the velocity, so a drop acts late [R]",
        choices=("torch", "caffe"),
    )
    bias_lr: float = key(2.0, "learning rate of biases, as a multiple [R]", least=0.0, most=1e3)
    bias_decay: float = key(0.0, "weight decay of biases, as a multiple [R]", least=0.0, most=1e3)
    rate_rule: str = key(
        "plateau",
        "plateau: drop when validation accuracy stops rising [P 6.1]; step: drop every lr_step iterations [R]; "
        "constant",
        choices=("plateau", "step", "constant"),
    )
    lr_factor: float = key(0.1, "a drop multiplies the rate by this [P 6.1, R]", least=1e-9, most=1)
    lr_step: list[int] = key([9000, 10000], "rate_rule step: iterations between drops, stage 1 and stage 2 [R]",
                             least=1, most=MANY)
    lr_patience: int = key(4, "rate_rule plateau: validations without a rise before a drop", least=1, most=MANY)


@dataclass
class Train:
    """The training of DeconvNet [P 4, 6.1]."""

    iterations: list[int] = key([20000, 40000], "stage 1 and stage 2 [P 6.1]", least=1, most=MANY)
    batch: int = key(64, "windows an iteration [P 6.1]", least=1, most=MOST_BATCH)
    micro_batch: int = key(
        64,
        "windows a forward pass, over which BN takes its statistics: 64 [P]; 8, eight passes accumulated [R]",
        least=1,
        most=MOST_BATCH,
    )
    stage2_from: str = key(
        "best",
        "stage 2 starts from stage 1's best (highest validation accuracy; the paper does not say) or last checkpoint "
        "[R: its last snapshot]; nothing: one-stage training, which the paper argues against [P 4.2]",
        choices=("best", "last", "nothing"),
    )
    validate_every: int = key(500, "iterations between validations", least=1, most=MANY)
    validate_windows: int = key(1000, "validation windows, drawn once with the seed; 0: all", least=0, most=MANY)
    validate_crop: str = key(
        "centre",
        "what is validated on; centre: the centre crop of the window warped to windows.warp; whole: the window warped "
        "straight to network.input, mirrored or not by a draw from seed and window [R]",
        choices=("centre", "whole"),
    )
    checkpoint_every: int = key(500, "iterations between checkpoints", least=1, most=MANY)
    workers: int = key(4, "data loading processes; 0: in the training process", least=0, most=256)


@dataclass
class BnStatistics:
    """BN statistics, measured after training with frozen weights [R]."""

    batches: int = key(501, "[R]", least=1, most=10**6)
    batch: int = key(28, "[R]", least=2, most=MOST_BATCH)
    variance: str = key("unbiased", "unbiased: torch's rule; biased [R]", choices=("unbiased", "biased"))


@dataclass
class Fcn:
    """The ensemble partner: FCN-32s, 16s, 8s (Long, Shelhamer, Darrell, CVPR 2015)."""

    width: float = key(1.0, "channel counts are multiplied by this; 1: VGG16", least=1 / 64, most=16)
    canvas: int = key(
        500, "images are padded at the bottom and right to this side; larger ones are shrunk [R]", least=32,
        most=MOST_SIDE
    )
    fc6_kernel: int = key(7, "kernel of fc6; conv1_1's padding follows: 16 * (k - 1) + 4, 100 for 7", least=3, most=63)
    batch_norm: bool = key(False, "false: as published; true: lets it train without ImageNet weights")
    staged: bool = key(True, "train 32s, then 16s from it, then 8s (as published); false: 8s at once")
    iterations: list[int] = key([20000, 10000, 10000], "32s, 16s, 8s; at once: the last one only", least=1,
                                most=MANY)
    batch: int = key(20, "images an iteration", least=1, most=MOST_BATCH)
    micro_batch: int = key(1, "images a forward pass", least=1, most=MOST_BATCH)
    lr: float = key(1e-4, "as published for VGG16", least=0.0, most=1e3)
    momentum: float = key(0.9, "as published", least=0.0, most=0.9999)
    weight_decay: float = key(5e-4, "as published", least=0.0, most=1e3)
    validate_images: int = key(200, "validation images, drawn once with the seed; 0: all", least=0, most=MANY)


@dataclass
class Runtime:
    """How the arithmetic is run; not what is computed."""

    precision: str = key("fp32", "fp32; tf32 (CUDA); bf16: autocast", choices=("fp32", "tf32", "bf16"))
    channels_last: bool = key(False, "memory layout of the network")
    compile: bool = key(False, "torch.compile")


@dataclass
class Infer:
    """From windows to a score map [P 5]."""

    proposals: int = key(50, "windows an image, by objectness [P 6.1]", least=1, most=MOST_BOXES)
    least_side: int = key(
        0, "windows with a shorter side are skipped before the best are taken: 0 [P]; 112 [R]", least=0, most=MANY
    )
    resize: str = key(
        "bilinear",
        "of windows and score maps: bilinear (cv2's, no antialiasing); matlab: imresize's antialiased bilinear [R]",
        choices=("bilinear", "matlab"),
    )
    aggregate: str = key("max", "max [P eq. 1]; sum [P eq. 2]; mean over the windows that cover a pixel",
                         choices=("max", "sum", "mean"))
    outside: str = key(
        "zero_padding",
        "max: zero_padding, a window counts as 0 outside itself [P 5.1]; start_zero: the map starts at 0, so "
        "max(0, score) everywhere [R]",
        choices=("zero_padding", "start_zero"),
    )
    ensemble_rule: str = key(
        "mean",
        "mean of the two probability maps [P 5.2]; product: scores * max(0, FCN's scores) [R]",
        choices=("mean", "product"),
    )
    window_batch: int = key(50, "windows a forward pass", least=1, most=MOST_BATCH)
    score_type: str = key("float16", "type of the saved score maps", choices=("float16", "float32"))
    most_gigabytes: float = key(
        5.0, "memory for one image's score maps; one that needs more is refused. 21 classes: 13 megapixels, 4.4 with "
        "the CRF, each of whose processes may take as much", least=0.001, most=1e4
    )


@dataclass
class Crf:
    """The dense CRF (Kraehenbuehl, Koltun, NIPS 2011) [R's parameters; the paper gives none]."""

    gaussian_sxy: float = key(3.0, "[R]", least=0.01, most=1e4)
    gaussian_weight: float = key(3.0, "[R]", least=0.0, most=1e4)
    bilateral_sxy: float = key(20.0, "[R]", least=0.01, most=1e4)
    bilateral_srgb: float = key(3.0, "[R]", least=0.01, most=1e4)
    bilateral_weight: float = key(5.0, "[R]", least=0.0, most=1e4)
    iterations: int = key(10, "mean-field iterations [R]", least=0, most=1000)
    normalization: str = key(
        "symmetric",
        "kernels: symmetric (pydensecrf's default; not in the paper); none [R]",
        choices=("symmetric", "none"),
    )


@dataclass
class Recipe:
    """Every choice of a run."""

    name: str = key("paper", "shown in logs and tables")
    seed: int = key(0, "of everything random", least=0, most=2**63 - 1)
    data: Data = field(default_factory=Data)
    proposals: Proposals = field(default_factory=Proposals)
    windows: Windows = field(default_factory=Windows)
    network: Network = field(default_factory=Network)
    solver: Solver = field(default_factory=Solver)
    train: Train = field(default_factory=Train)
    bn_statistics: BnStatistics = field(default_factory=BnStatistics)
    fcn: Fcn = field(default_factory=Fcn)
    runtime: Runtime = field(default_factory=Runtime)
    infer: Infer = field(default_factory=Infer)
    crf: Crf = field(default_factory=Crf)


def recipe_keys(recipe: Recipe | None = None) -> dict[str, tuple[Any, dataclasses.Field]]:
    """Every key by its dotted name, with its value in `recipe` (default: the paper's) and its field."""
    found: dict[str, tuple[Any, dataclasses.Field]] = {}

    def walk(node: Any, prefix: str) -> None:
        for item in dataclasses.fields(node):
            value = getattr(node, item.name)
            if dataclasses.is_dataclass(value):
                walk(value, f"{prefix}{item.name}.")
            else:
                found[prefix + item.name] = (value, item)

    walk(recipe or Recipe(), "")
    return found


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = (), complete: bool = False) -> Recipe:
    """Reads a recipe: the paper's values, then the file's, then `key=value` overrides.

    name: a recipe's name (a file of experiments/recipes) or the path of a YAML file. complete: the file must hold
    every key, as save_recipe writes it: what a run's own recipe lost must not become the paper's value unnoticed.
    Raises UsageError for an unknown recipe, an unknown key (naming the nearest), a wrong type or value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml")))
            raise UsageError(f"recipe {str(name)!r}: not one of {known}, and not a .yaml file")
    elif not path.is_file():
        raise UsageError(f"{path}: no such recipe file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        check_text(text)
        loaded = OmegaConf.create(text)
    except OSError:
        raise
    except Exception as error:  # yaml raises its own family of errors
        raise UsageError(f"{path}: not valid YAML: {_first_line(error)}") from None
    if not OmegaConf.is_dict(loaded):
        raise UsageError(f"{path}: expected `key: value` lines")
    if complete:
        lost = recipe_keys().keys() - set(_dotted(OmegaConf.to_container(loaded)))
        if lost:
            raise UsageError(f"{path}: lacks {len(lost)} recipe keys, {min(lost)} among them: cut short, or of another "
                             "version of this program; put them back, or use another --run folder")
    return _merge(_merge(Recipe(), loaded, str(path)), _parse_overrides(overrides), "--set")


def _parse_overrides(overrides: list[str] | tuple[str, ...]) -> Any:
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"--set {override[:100]}: expected key=value, for example --set solver.lr=0.001")
    try:
        for override in overrides:
            check_text(override.partition("=")[2])
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # yaml raises its own family of errors
        raise UsageError(f"--set {short(' '.join(overrides))}: a value is not valid YAML: {_first_line(error)}"
                         ) from None


def _merge(recipe: Recipe, changes: Any, source: str) -> Recipe:
    known = recipe_keys(recipe)
    for name, value in _dotted(OmegaConf.to_container(changes)).items():
        if name not in known:
            near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.0)[0]
            raise UsageError(f"{source}: unknown recipe key {short(name)}; the nearest is {near!r}; `python -m "
                             "stages.inspect recipe` lists all")
        if value == "???":  # OmegaConf's "missing", which would leave the key as it was without a word
            raise UsageError(f"{source}: recipe key {name} is '???'; expected a value")
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(recipe), changes))
    except OmegaConfBaseException as error:
        first = _first_line(error)
        if isinstance(known.get(error.full_key, (None,))[0], list):
            first = "expected a list, such as [1, 2]"
        raise UsageError(f"{source}: recipe key {error.full_key!r}: {first}") from None
    assert isinstance(merged, Recipe)
    check_values(recipe_keys(merged), source)
    return merged


def _dotted(node: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in node.items():
        values |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _first_line(error: Exception) -> str:
    text, place = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
    line = (text or "no `key: value` lines in it").splitlines()[0][:200]
    return f"{line} (line {place.line + 1})" if place else line


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes every key of a recipe as YAML."""
    with atomic_write(path) as temporary:
        OmegaConf.save(OmegaConf.structured(recipe), temporary)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every key's value by dotted name: what checkpoints and HDF5 files carry."""
    return {name: value for name, (value, _) in recipe_keys(recipe).items()}


def recipe_difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two dotted recipes differ, with both values (None where one lacks it)."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
