"""The recipe: one typed object that holds every choice of a run.

Defaults here are the paper's. A recipe file (YAML) changes some of them, `--set key=value` changes more. Everything in
which the paper [P] and the authors' released code [R] differ is a key, never an `if` on a name; each key's note says
where its values come from ([I]: inferred; no mark: our own choice).

Each key also says what it shapes: which of a run's results depend on it directly, not only through other results. What
may change within a run, and what has become stale, is derived from this alone.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from deconvnet.conventions import VOC_CLASSES

# What keys can shape, in the order in which a run makes it.
PROPOSALS, WINDOWS, CHECKPOINTS = "proposals", "windows", "checkpoints"
NETWORKS = "networks"  # a training's final network.safetensors, with measured BN statistics
SCORES, WINDOW_SCORES = "scores", "window scores"  # saved score maps: of any network; of one that sees windows
ENSEMBLE_LABELS, CRF_LABELS = "ensemble labels", "CRF labels"  # label maps
THINGS = (PROPOSALS, WINDOWS, CHECKPOINTS, NETWORKS, SCORES, WINDOW_SCORES, ENSEMBLE_LABELS, CRF_LABELS)
NOTHING: tuple[str, ...] = ()  # speed, how often it is saved, length: a longer training continues from the shorter one

VERSION = 8  # of recipes: raised by one whenever keys are added
MANY = 10**9  # for plain counts: iterations, pixels
MOST_BOXES = 200_000
MOST_BATCH = 1 << 16
MOST_SIDE = 4096
UNIT, PRESERVE = "unit", "preserve"
BN_START = (
    "batch normalisation at the start; unit: scale 1, shift 0 (torch's; network.bn_shift changes it); preserve: where "
    "VGG16's weights are read, each layer's starts with the scale and shift that undo it, measured on training "
    "examples, so that at first the layers compute what VGG16 computes (our choice)")
TRUNK_LR = ("learning rate of VGG16's 13 convolutions (with their BN), as a multiple: 1 [P, R]; 0 freezes them, and "
            "nothing is computed for them backwards")


def key(default: Any, note: str, choices: tuple[str, ...] = (), least: float | None = None,
        most: float | None = None, shapes: tuple[str, ...] | None = None, added: int = 1, before: Any = None) -> Any:
    """A recipe key: default, a note with its origin, and what values are allowed (of a list: each number in it).

    most: far beyond what anyone uses, but small enough for any machine to handle. shapes: of THINGS; None: those of its
    section. added: the VERSION that introduced it; older recorded recipes are read as if they had the value `before`,
    the earlier behaviour; None: that is the default.
    """
    metadata = {"note": note, "choices": choices, "least": least, "most": most, "shapes": shapes, "added": added,
                "before": default if before is None else before}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Data:
    """The data set."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS,)
    format: str = key("voc", "how its folder is laid out; voc: as PASCAL VOC's [P 6.1]", choices=("voc",),
                      shapes=(WINDOWS, CHECKPOINTS), added=3)
    classes: list[str] = key(VOC_CLASSES, "class names, index 0 is background; VOC 2012's 21 [P 6.1]",
                             shapes=(WINDOWS, CHECKPOINTS))
    train_split: str = key("train_aug", "training split: VOC 2012 with SBD's labels [P 6.1]")
    val_split: str = key("val", "validation split, evaluated by default")
    least_object_pixels: int = key(16, "objects with fewer labelled pixels get no window", least=1, most=MANY,
                                   shapes=(WINDOWS,))


@dataclass
class Proposals:
    """Boxes that may hold an object; edge maps and EdgeBoxes [P 5, 6.1]."""

    shapes: ClassVar[tuple[str, ...]] = (PROPOSALS,)
    source: str = key(
        "edge_boxes",
        "edge_boxes [P 6.1]; grid: boxes of fixed sizes all over the image, at most count: the baseline that a "
        "source has to beat",
        choices=("edge_boxes", "grid"),
        added=3,
    )
    edges: str = key(
        "auto",
        "structured: Dollar's structured forest [P, R: it is EdgeBoxes' own]; gradient: built in; auto: structured "
        "when its model file is given",
        choices=("auto", "structured", "gradient"),
    )
    count: int = key(2000, "boxes per image [P 6.1]", least=1, most=MOST_BOXES)
    alpha: float = key(0.65, "EdgeBoxes: step of the sliding window search, as an IoU [EdgeBoxes' default]", least=0.1,
                       most=0.9)
    beta: float = key(0.75, "EdgeBoxes: IoU of non-maximum suppression [EdgeBoxes' default]", least=0.1, most=1)
    eta: float = key(1.0, "EdgeBoxes: adaptation rate of that suppression [EdgeBoxes' default]", least=0.1, most=1)
    min_score: float = key(0.01, "EdgeBoxes: boxes below this score are dropped [EdgeBoxes' default]", least=0.0,
                           most=1e3)


@dataclass
class Windows:
    """The crops taken from the images, and their labels."""

    shapes: ClassVar[tuple[str, ...]] = (WINDOWS,)
    enlarge: float = key(1.2, "a box is enlarged by this factor about its centre [P 6.1, R]", least=1.0, most=10,
                         shapes=(WINDOWS, WINDOW_SCORES))
    shape: str = key(
        "tight",
        "tight: both sides of the box enlarged [P 6.1]; square: side = enlarge * max(w, h) [R, I]",
        choices=("tight", "square"),
        shapes=(WINDOWS, WINDOW_SCORES),
    )
    outside: str = key(
        "mean",
        "colour outside the image: mean (rounded, so about 0 for the network; our choice); zero: raw 0 before the "
        "mean is subtracted [R]",
        choices=("mean", "zero"),
        shapes=(WINDOWS, WINDOW_SCORES),
    )
    warp: int = key(250, "training windows are warped to this side [P 6.1]", least=8, most=MOST_SIDE)
    resize: str = key(
        "linear",
        "resampling of images in training; linear: cv2 bilinear without antialiasing [R]; area: antialiased when "
        "shrinking",
        choices=("linear", "area"),
    )
    stage1_labels: str = key(
        "object",
        "object: only the window's own object keeps its label, all others become background [P 4.2]; all: all classes",
        choices=("object", "all"),
    )
    stage2_top: int = key(50, "proposals per image that become stage 2 windows [P 6.1]", least=1, most=MOST_BOXES)
    stage2_overlap: float = key(0.5, "minimum IoU of a stage 2 proposal with an object's box [P 4.2]", least=0.0,
                                most=1)
    stage2_order: str = key(
        "overlap_first",
        "overlap_first: the best-scored among those that overlap; top_first: those that overlap among the best-scored "
        "(the sources do not say)",
        choices=("overlap_first", "top_first"),
    )
    stage2_with_stage1: bool = key(True, "stage 2 keeps the stage 1 windows, with all classes labelled [I]")
    balance: str = key(
        "repeat",
        "repeat: windows of rare classes are repeated until all classes are equally frequent [P 6.1]; none",
        choices=("repeat", "none"),
        shapes=(CHECKPOINTS,),
    )
    encoding: str = key(
        "png", "--materialize: png (lossless) or jpeg (quality 95) for the image crops", choices=("png", "jpeg")
    )


@dataclass
class Network:
    """DeconvNet [P Table 2]."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS, SCORES)
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
    bn_start: str = key(UNIT, BN_START, choices=(UNIT, PRESERVE), shapes=(CHECKPOINTS,), added=5)
    fc_channels: int = key(4096, "channels of fc6 and fc7, before network.width [P Table 2]", least=1, most=MOST_BATCH,
                           added=5)
    deconv_std: float = key(
        0.01, "standard deviation of the Gaussian that initialises the deconvolution layers and the score layer [P "
              "6.1, R]; 0: He's", least=0.0, most=1e3
    )
    conv_std: float = key(
        0.0, "standard deviation for convolution layers without VGG16 weights; 0: He's (sqrt(2 / fan-in))", least=0.0,
        most=1e3
    )


@dataclass
class Solver:
    """Stochastic gradient descent [P 6.1]."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS,)
    lr: float = key(0.01, "initial learning rate [P 6.1, R]", least=0.0, most=1e3)
    momentum: float = key(0.9, "[P 6.1, R]", least=0.0, most=0.9999)
    weight_decay: float = key(5e-4, "[P 6.1, R]", least=0.0, most=1e3)
    decay_over_accumulation: bool = key(
        False, "divide the decay by the number of accumulated passes: false [P]; true, as Caffe's averaging does [R]"
    )
    momentum_rule: str = key(
        "torch",
        "torch: the learning rate multiplies the velocity; caffe: it is inside the velocity, so a drop acts late [R]",
        choices=("torch", "caffe"),
    )
    bias_lr: float = key(2.0, "learning rate of biases, as a multiple [R]", least=0.0, most=1e3)
    bias_decay: float = key(0.0, "weight decay of biases, as a multiple [R]", least=0.0, most=1e3)
    trunk_lr: float = key(1.0, TRUNK_LR, least=0.0, most=1e3, added=5)
    rate_rule: str = key(
        "plateau",
        "plateau: drop when validation accuracy stops rising [P 6.1]; step: drop every lr_step iterations [R]; "
        "constant",
        choices=("plateau", "step", "constant"),
    )
    lr_factor: float = key(0.1, "a drop multiplies the learning rate by this [P 6.1, R]", least=1e-9, most=1)
    lr_step: list[int] = key([9000, 10000], "rate_rule step: iterations between drops, stage 1 and stage 2 [R]",
                             least=1, most=MANY)
    lr_patience: int = key(4, "rate_rule plateau: validations without a rise before a drop", least=1, most=MANY)


@dataclass
class Train:
    """Training of DeconvNet [P 4, 6.1]."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS,)
    iterations: list[int] = key([20000, 40000], "stage 1 and stage 2 [P 6.1]", least=1, most=MANY, shapes=NOTHING)
    batch: int = key(64, "windows per iteration [P 6.1]", least=1, most=MOST_BATCH)
    micro_batch: int = key(
        64,
        "windows per forward pass, over which BN computes its statistics: 64 [P]; 8, eight passes accumulated [R]",
        least=1,
        most=MOST_BATCH,
    )
    stage2_from: str = key(
        "best",
        "stage 2 starts from stage 1's best (highest validation accuracy; the paper does not say) or last checkpoint "
        "[R: its last snapshot]; nothing: one-stage training, which the paper argues against [P 4.2]",
        choices=("best", "last", "nothing"),
        shapes=NOTHING,
    )
    validate_every: int = key(500, "iterations between validations", least=1, most=MANY)
    validate_windows: int = key(1000, "validation windows, drawn once with the seed; 0: all", least=0, most=MANY)
    validate_crop: str = key(
        "centre",
        "input of validation; centre: the centre crop of the window warped to windows.warp; whole: the window warped "
        "directly to network.input, mirrored at random, fixed by seed and window [R]",
        choices=("centre", "whole"),
    )
    checkpoint_every: int = key(500, "iterations between checkpoints", least=1, most=MANY, shapes=NOTHING)
    workers: int = key(4, "data loading processes; 0: in the training process", least=0, most=256, shapes=NOTHING)
    decoded_gigabytes: float = key(
        16.0, "windows' images are decoded once and their pixels kept during a training, at most so much of them, in a "
              "file without a name in the folder for temporary files (TMPDIR), at most half of what is free there; VOC "
              "2012 with SBD takes 9; 0: decoded for each window", least=0.0, most=1e4, shapes=NOTHING, added=8,
    )


@dataclass
class BnStatistics:
    """BN statistics, measured after training with frozen weights [R]."""

    shapes: ClassVar[tuple[str, ...]] = (NETWORKS,)
    batches: int = key(501, "[R]", least=1, most=10**6)
    batch: int = key(28, "[R]", least=2, most=MOST_BATCH)
    variance: str = key("unbiased", "unbiased: torch's rule; biased [R]", choices=("unbiased", "biased"))


@dataclass
class Fcn:
    """The ensemble partner: FCN-32s, 16s, 8s (Long, Shelhamer, Darrell, CVPR 2015)."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS,)
    width: float = key(1.0, "channel counts are multiplied by this; 1: VGG16", least=1 / 64, most=16)
    canvas: int = key(
        500, "images are padded at the bottom and right to this side; larger ones are shrunk [R]", least=32,
        most=MOST_SIDE, shapes=(CHECKPOINTS, SCORES)
    )
    fc6_kernel: int = key(7, "kernel of fc6; conv1_1's padding follows: 16 * (k - 1) + 4, 100 for 7", least=3, most=63)
    fc_channels: int = key(4096, "channels of fc6 and fc7, before fcn.width; as published", least=1, most=MOST_BATCH,
                           shapes=(CHECKPOINTS, SCORES), added=5)
    batch_norm: bool = key(False, "false: as published; true: makes training without ImageNet weights possible")
    bn_start: str = key(UNIT, BN_START, choices=(UNIT, PRESERVE), added=5)
    scaled_skips: bool = key(
        False,
        "pool4 and pool3 are multiplied by 0.01 and 0.0001 before they are scored: false [the paper]; true [the later "
        "voc-fcn8s-atonce], which admits higher learning rates",
        shapes=(CHECKPOINTS, SCORES),
        added=5,
    )
    staged: bool = key(True, "train 32s, then 16s from it, then 8s (as published); false: 8s directly")
    iterations: list[int] = key([20000, 10000, 10000], "32s, 16s, 8s; directly: only the last one", least=1,
                                most=MANY, shapes=NOTHING)
    batch: int = key(20, "images per iteration", least=1, most=MOST_BATCH)
    micro_batch: int = key(1, "images per forward pass", least=1, most=MOST_BATCH)
    lr: float = key(1e-4, "as published for VGG16", least=0.0, most=1e3)
    momentum: float = key(0.9, "as published", least=0.0, most=0.9999)
    weight_decay: float = key(5e-4, "as published", least=0.0, most=1e3)
    trunk_lr: float = key(1.0, TRUNK_LR, least=0.0, most=1e3, added=5)
    lr_step: int = key(0, "iterations of a training between drops of its rate to a tenth; 0: never, as published",
                       least=0, most=MANY, added=5)
    validate_images: int = key(200, "validation images, drawn once with the seed; 0: all", least=0, most=MANY)


@dataclass
class SegNet:
    """A network for comparison: SegNet (Badrinarayanan, Handa, Cipolla, 2015)."""

    shapes: ClassVar[tuple[str, ...]] = (CHECKPOINTS,)
    examples: str = key("images", "images: whole ones, as published; windows: those of DeconvNet's stage 2",
                        choices=("images", "windows"), shapes=(CHECKPOINTS, SCORES), added=4)
    width: float = key(1.0, "channel counts are multiplied by this; 1: VGG16", least=1 / 64, most=16,
                       shapes=(CHECKPOINTS, SCORES), added=4)
    canvas: int = key(480, "images are padded at the bottom and right to this side; larger ones are shrunk", least=32,
                      most=MOST_SIDE, shapes=(CHECKPOINTS, SCORES), added=4)
    iterations: int = key(40000, "of its only training", least=1, most=MANY, shapes=NOTHING, added=4)
    batch: int = key(12, "images or windows per iteration, as published", least=2, most=MOST_BATCH, added=4)
    micro_batch: int = key(4, "images or windows per forward pass, over which BN computes its statistics", least=2,
                           most=MOST_BATCH, added=4)
    bn_start: str = key(UNIT, BN_START, choices=(UNIT, PRESERVE), added=5)
    lr: float = key(0.1, "learning rate, as published", least=0.0, most=1e3, added=4)
    trunk_lr: float = key(1.0, TRUNK_LR, least=0.0, most=1e3, added=5)
    momentum: float = key(0.9, "as published", least=0.0, most=0.9999, added=4)
    weight_decay: float = key(5e-4, "of the authors' Caffe solver", least=0.0, most=1e3, added=4)
    validate: int = key(200, "validation images or windows, drawn once with the seed; 0: all", least=0, most=MANY,
                        added=4)


@dataclass
class Runtime:
    """How the arithmetic is run, not what is computed."""

    shapes: ClassVar[tuple[str, ...]] = NOTHING
    precision: str = key(
        "fp32", "fp32; tf32 (CUDA); bf16: autocast; bf16_decoder: for labelling, bf16 from the first unpooling on, so "
                "that the switches are fp32's (trainings take it as fp32)",
        choices=("fp32", "tf32", "bf16", "bf16_decoder"), shapes=(SCORES,))
    channels_last: bool = key(True, "memory layout of the network: channels last are faster on CPU and in bf16")
    compile: bool = key(False, "torch.compile")


@dataclass
class Infer:
    """From windows to a score map [P 5]."""

    shapes: ClassVar[tuple[str, ...]] = (WINDOW_SCORES,)
    proposals: int = key(50, "windows per image, by objectness [P 6.1]", least=1, most=MOST_BOXES)
    least_side: int = key(
        0, "windows with a shorter side are skipped before the best are chosen: 0 [P]; 112 [R]", least=0, most=MANY
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
        shapes=(ENSEMBLE_LABELS,),
    )
    window_batch: int = key(8, "windows per forward pass: 8 on a CPU; 50 and more on a GPU", least=1, most=MOST_BATCH,
                            shapes=NOTHING)
    score_type: str = key("float16", "type of the saved score maps", choices=("float16", "float32"), shapes=(SCORES,))
    most_gigabytes: float = key(
        5.0, "memory for one image's score maps; larger images are rejected. 21 classes: 13 megapixels, 4.4 with the "
             "CRF, each of whose processes may use as much", least=0.001, most=1e4,
        shapes=NOTHING,
    )
    most_side: int = key(
        1000, "photographs (--images, Segmenter) with a longer side are labelled at this one, and their labels "
              "enlarged; 0: at their own size. The images of a split always are at their own [P]", least=0, most=MANY,
        shapes=NOTHING, added=6,
    )


@dataclass
class Crf:
    """The dense CRF (Kraehenbuehl, Koltun, NIPS 2011) [parameters from R; the paper gives none]."""

    shapes: ClassVar[tuple[str, ...]] = (CRF_LABELS,)
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
    least_probability: float = key(
        0.1, "classes that are nowhere in the image as probable as this, nor anywhere the most probable one, take no "
             "part and get 0; 0: all take part. For speed: 99.99 % of the labels stay the same", least=0.0, most=1.0,
        added=7, before=0.0,
    )


@dataclass
class Recipe:
    """Every choice of a run."""

    name: str = key("paper", "shown in logs and tables", shapes=NOTHING)
    seed: int = key(0, "for everything random", least=0, most=2**63 - 1, shapes=(CHECKPOINTS,))
    data: Data = field(default_factory=Data)
    proposals: Proposals = field(default_factory=Proposals)
    windows: Windows = field(default_factory=Windows)
    network: Network = field(default_factory=Network)
    solver: Solver = field(default_factory=Solver)
    train: Train = field(default_factory=Train)
    bn_statistics: BnStatistics = field(default_factory=BnStatistics)
    fcn: Fcn = field(default_factory=Fcn)
    segnet: SegNet = field(default_factory=SegNet)
    runtime: Runtime = field(default_factory=Runtime)
    infer: Infer = field(default_factory=Infer)
    crf: Crf = field(default_factory=Crf)


def recipe_keys(recipe: Recipe | None = None) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Every key by its dotted name, with its value in `recipe` (default: the paper's) and its field."""
    return {name: (value, item) for name, value, item, _ in _walk(recipe or Recipe())}


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any], tuple[str, ...]]]:
    """Every key: dotted name, value, field, what it shapes."""
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{item.name}.")
        else:
            own = item.metadata["shapes"]
            yield prefix + item.name, value, item, node.shapes if own is None else own


def shapes(recipe: Recipe | None = None) -> dict[str, tuple[str, ...]]:
    """What each key shapes, of THINGS, by its dotted name."""
    return {name: shaped for name, _, _, shaped in _walk(recipe or Recipe())}


def shaping(recipe: Recipe, *things: str) -> dict[str, Any]:
    """The keys that shape any of `things` themselves, with their values."""
    return {name: value for name, value, _, shaped in _walk(recipe) if set(shaped) & set(things)}


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every key's value by dotted name, as checkpoints and HDF5 files store it."""
    return {name: value for name, (value, _) in recipe_keys(recipe).items()}


def recipe_difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two dotted recipes differ, with both values (None if one lacks it)."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def with_added_keys(recorded: dict[str, Any], version: int = 1) -> dict[str, Any]:
    """A dotted recipe recorded in a file, with the keys added since that version as they were before."""
    added = {name: item.metadata["before"] for name, (_, item) in recipe_keys().items()
             if item.metadata["added"] > version}
    return {**added, **recorded}
