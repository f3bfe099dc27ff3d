"""FCN-32s, 16s and 8s on VGG16 (Long, Shelhamer, Darrell, CVPR 2015): the ensemble's partner.

    VGG16 with fc6, fc7 as convolutions -> score_fr -> upscore32 -> crop                                     32s
    score_fr -> upscore2 + score_pool4 (cropped) -> upscore16 -> crop                                        16s
    score_fr -> upscore2 + score_pool4 (cropped) -> upscore_pool4 + score_pool3 (cropped) -> upscore8 -> crop 8s

Layers have the names of the published Caffe nets. As there, conv1_1 is padded enough for fc6 to fit into any image (100
for its 7x7 kernel), pooling rounds sizes up, score layers are initialised to zero, upsampling to bilinear
interpolation. As in the paper the last upsampling stays bilinear while the others learn (the Caffe files published
later fix them all). With fcn.scaled_skips pool4 and pool3 are scaled down before they are scored, as in the later "at
once" files: VGG16's activations there are in the hundreds, with which a learning rate that suits score_fr diverges.

Without batch normalisation (the published nets) dropout of 0.5 follows fc6 and fc7. With it, which lets the
network train from random weights, there is no dropout: the statistics at test time would no longer match.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deconvnet import recipe as recipes
from deconvnet.models.spec import IMAGES, NONE, RUNNING, NetworkSpec, Start, TrainingSpec
from deconvnet.models.vgg16 import VGG16_BLOCKS, Vgg16Network, draw_weights
from deconvnet.models.weight_files import read_state
from deconvnet.models.weights import load_into
from deconvnet.recipe import Recipe, Solver
from deconvnet.support.errors import UsageError, UserError

STRIDES = (32, 16, 8)
DROPOUT = 0.5
LEAST_FC6_KERNEL = 3  # a smaller one would need negative crops
SKIPS = {32: (), 16: ("score_pool4",), 8: ("score_pool4", "score_pool3")}  # score layers besides score_fr
UPSAMPLINGS = {32: ("upscore32",), 16: ("upscore2", "upscore16"), 8: ("upscore2", "upscore_pool4", "upscore8")}
SKIP_SCALES = {"score_pool4": 0.01, "score_pool3": 0.0001}  # of voc-fcn8s-atonce
FACTORS = {"upscore2": 2, "upscore_pool4": 2, "upscore8": 8, "upscore16": 16, "upscore32": 32}


class Fcn(Vgg16Network):
    """FCN-32s, 16s or 8s. Input N x 3 x H x W (RGB minus mean, any size), output scores N x classes x H x W."""

    score_fr: nn.Conv2d

    def __init__(self, stride: int, class_count: int, recipe: recipes.Fcn, conv_std: float = 0.0) -> None:
        """stride: 32, 16 or 8, of the finest scores; conv_std: of randomly initialised convolutions, 0 for He's. Raises
        UsageError for an fc6 kernel that cannot be aligned."""
        kernel = recipe.fc6_kernel
        if kernel < LEAST_FC6_KERNEL:
            raise UsageError(f"recipe key fcn.fc6_kernel is {kernel}; expected at least {LEAST_FC6_KERNEL}")
        super().__init__(recipe.width, recipe.batch_norm, lambda: nn.MaxPool2d(2, ceil_mode=True),
                         first_padding=border_padding(kernel), fc_channels=recipe.fc_channels)
        self.stride, self.class_count, self.conv_std = stride, class_count, conv_std
        self.skip_scales = SKIP_SCALES if recipe.scaled_skips else dict.fromkeys(SKIP_SCALES, 1.0)
        self.offsets = crop_offsets(stride, kernel)
        self.add_fully_connected(kernel)
        self.dropout = nn.Dropout(DROPOUT)
        inputs = {"score_fr": self.fc_channels, "score_pool4": self.channels[3], "score_pool3": self.channels[2]}
        for name in ("score_fr", *SKIPS[stride]):
            self.add_module(name, nn.Conv2d(inputs[name], class_count, 1))
        for name in UPSAMPLINGS[stride]:
            factor = FACTORS[name]
            layer = nn.ConvTranspose2d(class_count, class_count, 2 * factor, stride=factor, bias=False)
            self.add_module(name, layer)
        self.get_submodule(UPSAMPLINGS[stride][-1]).requires_grad_(False)
        self.initialise_head()

    def initialise(self, generator: torch.Generator) -> None:
        """VGG16's convolutions from N(0, conv_std); the layers after fc7 as published."""
        draw_weights(self, lambda name, layer: self.conv_std, generator)
        self.initialise_head()

    def initialise_head(self) -> None:
        """Score layers to zero, upsampling to bilinear interpolation."""
        for name in ("score_fr", *SKIPS[self.stride]):
            for parameter in self.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
        for name in UPSAMPLINGS[self.stride]:
            with torch.no_grad():
                self.get_parameter(f"{name}.weight").copy_(bilinear_weight(self.class_count, FACTORS[name]))

    def forward(self, images: Tensor) -> Tensor:
        x, pools = images, {}
        for block in (1, 2, 3, 4, 5):
            x = self.get_submodule(f"pool{block}")(self.block(block, x))
            pools[f"score_pool{block}"] = x
        for name in ("fc6", "fc7"):
            x = self.layer(name, x)
            if not self.batch_norm:
                x = self.dropout(x)
        x = self.score_fr(x)
        for upsampling, skip in zip(UPSAMPLINGS[self.stride], SKIPS[self.stride], strict=False):
            fine = getattr(self, skip)(pools[skip] * self.skip_scales[skip])
            x = _add_cropped(getattr(self, upsampling)(x), fine, self.offsets[skip])
        x = getattr(self, UPSAMPLINGS[self.stride][-1])(x)
        first, (height, width) = self.offsets["output"], images.shape[-2:]
        return x[..., first : first + height, first : first + width].contiguous()


def border_padding(fc6_kernel: int) -> int:
    """conv1_1's padding: the smallest with which fc6 (stride 32) fits into a 1 x 1 image and crops are >= 0; 100 for 7.
    """
    return 16 * (fc6_kernel - 1) + 4


def crop_offsets(stride: int, fc6_kernel: int) -> dict[str, int]:
    """Offset of each crop, in both directions: {"score_pool4": 5, "score_pool3": 9, "output": 31} for 8, 7.

    Every map is tracked as step and start: the centre of its cell i lies at image coordinate step * i + start.
    A convolution (kernel k, padding p) moves start by step * ((k - 1) / 2 - p), a 2x2 pooling moves it by
    step / 2 and doubles step, an upsampling by f (kernel 2f) divides step by f, then moves start by
    -step * (2f - 1) / 2. A crop keeps the cells whose centres agree.
    """
    step, start = 1.0, 1.0 - border_padding(fc6_kernel)
    starts = {}
    for block in range(1, len(VGG16_BLOCKS) + 1):
        start += step / 2
        step *= 2
        starts[f"score_pool{block}"] = start
    start += step * (fc6_kernel - 1) / 2
    offsets = {}
    for upsampling, skip in zip(UPSAMPLINGS[stride], (*SKIPS[stride], "output"), strict=True):
        step /= FACTORS[upsampling]
        start -= step * (2 * FACTORS[upsampling] - 1) / 2
        if skip == "output":
            offsets[skip] = int(-start)
        else:
            offsets[skip] = int((start - starts[skip]) / step)
    return offsets


def bilinear_weight(channels: int, factor: int) -> Tensor:
    """A ConvTranspose2d weight, channels x channels x 2f x 2f, that upsamples each channel by f bilinearly.

    The rule of Caffe's BilinearFiller for the even kernels used here: 1 - |i / f - c|, c = (2f - 1) / 2f; with
    stride f that is linear interpolation between the centres of the cells.
    """
    centre = (2 * factor - 1) / (2 * factor)
    profile = 1 - np.abs(np.arange(2 * factor) / factor - centre)
    weight = np.zeros((channels, channels, 2 * factor, 2 * factor), np.float32)
    weight[range(channels), range(channels)] = np.outer(profile, profile)
    return torch.from_numpy(weight)  # torch's own arithmetic would import its compiler on the meta device: seconds


def fcn_from_shallower(target: Fcn, source_state: dict[str, Tensor]) -> None:
    """Initialises a 16s from a trained 32s's state, or an 8s from a 16s's: all shared tensors are copied.

    The new score layer is initialised to zero, new upsampling to bilinear. Raises UserError for a state of another
    network.
    """
    if target.stride == 32:
        raise ValueError("FCN-32s is the first step: nothing comes before it")
    source_stride = 2 * target.stride
    own = target.state_dict()
    known = set(UPSAMPLINGS[source_stride]) | {"score_fr", *SKIPS[source_stride]}
    new = {name for name in (*SKIPS[target.stride], *UPSAMPLINGS[target.stride]) if name not in known}
    shared = {name: value for name, value in own.items() if name.split(".")[0] not in new}
    for name, value in shared.items():
        if name not in source_state:
            raise UserError(f"FCN-{target.stride}s from FCN-{source_stride}s: the source has no {name}")
        if source_state[name].shape != value.shape:
            raise UserError(
                f"FCN-{target.stride}s from FCN-{source_stride}s: {name} is {tuple(source_state[name].shape)}, "
                f"expected {tuple(value.shape)}: both must have the same recipe"
            )
    target.initialise_head()
    target.load_state_dict({name: source_state[name] for name in shared}, strict=False)


def _add_cropped(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    """coarse + the part of `fine` that begins at `offset`.

    As large as coarse; only with an fc6 kernel of 3 can `fine` be a cell or two smaller, beyond the image.
    """
    height = min(coarse.shape[-2], fine.shape[-2] - offset)
    width = min(coarse.shape[-1], fine.shape[-1] - offset)
    return coarse[..., :height, :width] + fine[..., offset : offset + height, offset : offset + width]


def load_fcn8s(path: Path | str, recipe: recipes.Fcn | None = None) -> dict[str, Tensor]:
    """Reads wkentaro's fcn8s_from_caffe.pth: our names, but BGR input, so conv1_1's channels are reversed.

    recipe: of the network to load them into, the published one by default. Raises UserError, as load_into.
    """
    state = read_state(Path(path))
    bias = state.get("score_fr.bias")
    if not isinstance(bias, Tensor) or bias.is_nested or bias.ndim != 1 or not 2 <= len(bias) <= 255:
        raise UserError(f"{path}: score_fr.bias is missing, or does not have 2 to 255 classes: expected wkentaro's "
                        "fcn8s_from_caffe.pth")
    with torch.device("meta"):  # a network of shapes only, to check against
        network = Fcn(8, len(bias), recipe or recipes.Fcn())
    load_into(network, state, source=str(path))
    return {name: value.flip(1) if name == "conv1_1.weight" else value for name, value in state.items()}


def _trainings(stride: int) -> Callable[[Recipe], list[TrainingSpec]]:
    """32s, 16s, 8s, each from the previous one [as published]; without fcn.staged only the last."""

    def trainings(recipe: Recipe) -> list[TrainingSpec]:
        keys = recipe.fcn
        solver = Solver(lr=keys.lr, momentum=keys.momentum, weight_decay=keys.weight_decay, lr_factor=0.1,
                        rate_rule="step" if keys.lr_step else "constant", lr_step=[keys.lr_step or 1],
                        trunk_lr=keys.trunk_lr)
        strides = [one for one in STRIDES if one >= stride] if keys.staged else [stride]
        return [TrainingSpec(
            name=f"fcn{one}s", title=f"FCN-{one}s", network=f"fcn{one}s", examples=IMAGES, stage=1,
            stream=10 + STRIDES.index(one), iterations=keys.iterations[STRIDES.index(one)],
            section="fcn", batch=keys.batch, micro_batch=keys.micro_batch,
            validation=keys.validate_images, solver=solver, bn=RUNNING if keys.batch_norm else NONE,
            bn_start=keys.bn_start,
            start=Start(f"fcn{2 * one}s", "last", fcn_from_shallower) if one != strides[0] else None,
        ) for one in strides]

    return trainings


def _spec(stride: int) -> NetworkSpec:
    return NetworkSpec(
        name=f"fcn{stride}s",
        title=f"FCN-{stride}s",
        paper="FCN8s" if stride == 8 else None,
        build=lambda recipe: Fcn(stride, len(recipe.data.classes), recipe.fcn, recipe.network.conv_std),
        examples=lambda recipe: IMAGES,
        canvas=lambda recipe: recipe.fcn.canvas,
        trainings=_trainings(stride),
        describe=lambda recipe: {"width": recipe.fcn.width, "fc6_kernel": recipe.fcn.fc6_kernel,
                                 "fc_channels": recipe.fcn.fc_channels, "scaled_skips": recipe.fcn.scaled_skips},
        recipe_section="fcn",
        in_table=stride == 8,
        published={".pth": lambda path, recipe: load_fcn8s(path, recipe.fcn)} if stride == 8 else {},
    )


SPECS = tuple(_spec(stride) for stride in STRIDES)
