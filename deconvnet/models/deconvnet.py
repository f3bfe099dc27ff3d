"""DeconvNet, Table 2 of the paper: VGG16 up to fc7 as convolutions, and its mirror image.

    conv1_1 ... pool5, fc6, fc7 | fc6_deconv, unpool5, deconv5_1 ... deconv1_2, seg_score_voc

Batch normalisation and ReLU follow every layer but the last (section 4.1). Layers have the names of the authors'
released model with '-' replaced by '_'. A narrow network (recipe key network.width) is the same network with fewer
channels, a small one (network.input) has smaller fc6 and fc6_deconv kernels.
"""

import torch
from torch import Tensor, nn

from deconvnet import recipe as recipes
from deconvnet.models.spec import MEASURED, NONE, WINDOWS, NetworkSpec, Start, TrainingSpec
from deconvnet.models.unpooling import Pool, Unpool
from deconvnet.models.vgg16 import Vgg16Network, convolution_names, draw_weights
from deconvnet.models.whole_map import FromPixelConvTranspose2d
from deconvnet.recipe import Recipe

NAME = "deconvnet"


class DeconvNet(Vgg16Network):
    """The deconvolution network. Input N x 3 x S x S (RGB minus mean), output scores N x classes x S x S."""

    def __init__(self, recipe: recipes.Network, class_count: int) -> None:
        super().__init__(recipe.width, recipe.batch_norm, lambda: Pool(recipe.unpooling), recipe.bn_eps,
                         fc_channels=recipe.fc_channels)
        self.recipe = recipe
        coarsest = recipe.input // 32  # side of pool5, and so of fc6's kernel: 7 for 224
        self.add_fully_connected(coarsest)
        self.add_layer("fc6_deconv", FromPixelConvTranspose2d(self.fc_channels, self.channels[-1], coarsest))
        for block in (5, 4, 3, 2, 1):
            self.add_module(f"unpool{block}", Unpool(recipe.unpooling))
            own, below = self.channels[block - 1], self.channels[max(block - 2, 0)]
            names = _deconvolution_names(block)
            for name in names:  # the last layer of a block reduces the channels to those of the block below
                after = below if name == names[-1] else own
                self.add_layer(name, nn.ConvTranspose2d(own, after, 3, padding=1))
        # Table 2 gives the output layer a padding of 1, which would make it 226 x 226: an error in the table.
        self.seg_score_voc = nn.Conv2d(self.channels[0], class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, switches = images, []
        for block in (1, 2, 3, 4, 5):
            x, where = self.get_submodule(f"pool{block}")(self.block(block, x))
            switches.append(where)
        for name in ("fc6", "fc7", "fc6_deconv"):
            x = self.layer(name, x)
        for block in (5, 4, 3, 2, 1):
            x = self.get_submodule(f"unpool{block}")(x, switches.pop())
            for name in _deconvolution_names(block):
                x = self.layer(name, x)
        return self.seg_score_voc(x)

    def initialise(self, generator: torch.Generator) -> None:
        """Convolutions from N(0, conv_std), the deconvolution network with its score layer from N(0, deconv_std) [P
        6.1]; 0: He's deviation. fc6_deconv's input is a single pixel.
        """
        recipe = self.recipe

        def std_of(name: str, layer: nn.Module) -> float:
            ends = isinstance(layer, nn.ConvTranspose2d) or name == "seg_score_voc"
            return recipe.deconv_std if ends else recipe.conv_std

        draw_weights(self, std_of, generator, recipe.bn_shift, single_pixel=("fc6_deconv",))


def _deconvolution_names(block: int) -> list[str]:
    return [name.replace("conv", "deconv") for name in convolution_names()[block - 1]]


def _describe(recipe: Recipe) -> dict[str, object]:
    keys = recipe.network
    return {"width": keys.width, "input": keys.input, "unpooling": keys.unpooling, "fc_channels": keys.fc_channels}


def _trainings(recipe: Recipe) -> list[TrainingSpec]:
    """Two stages, easy examples first [P 4.2]."""
    keys = recipe.train

    def stage(number: int, start: Start | None) -> TrainingSpec:
        return TrainingSpec(
            name=f"stage{number}", title=f"stage {number}", network=NAME, examples=WINDOWS, stage=number, stream=number,
            iterations=keys.iterations[number - 1], section="train", batch=keys.batch,
            micro_batch=keys.micro_batch, validation=keys.validate_windows, solver=recipe.solver,
            bn=MEASURED if recipe.network.batch_norm else NONE, bn_start=recipe.network.bn_start, start=start)

    start = None if keys.stage2_from == "nothing" else Start("stage1", keys.stage2_from)
    return [stage(1, None), stage(2, start)]


SPECS = (NetworkSpec(
    name=NAME,
    title="DeconvNet",
    paper="DeconvNet",
    build=lambda recipe: DeconvNet(recipe.network, len(recipe.data.classes)),
    examples=lambda recipe: WINDOWS,
    trainings=_trainings,
    by_stage=True,
    describe=_describe,
    recipe_section="network",
),)
