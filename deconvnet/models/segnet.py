"""SegNet (Badrinarayanan, Handa, Cipolla, arXiv 1505.07293, 1511.00561): unpooling, no fully connected layers.

    conv1_1 ... pool5 | unpool5, conv5_3_D, conv5_2_D, conv5_1_D, unpool4 ... unpool1, conv1_2_D, conv1_1_D

VGG16's thirteen convolutions, and after each unpooling as many convolutions as before its pooling; batch normalisation
and ReLU follow every layer but the last, which gives the scores. Layers have the names of the authors' Caffe model with
'-' replaced by '_'. It is here for comparison: the paper's Table 1 does not have it.

It sees whole images, or with segnet.examples=windows the windows of DeconvNet's stage 2. Left out: the authors'
median frequency balancing of the loss, so that all networks here minimise the same loss.
"""

import torch
from torch import Tensor, nn

from deconvnet import recipe as recipes
from deconvnet.models.spec import MEASURED, NetworkSpec, TrainingSpec
from deconvnet.models.unpooling import Pool, Unpool
from deconvnet.models.vgg16 import Vgg16Network, convolution_names, draw_weights
from deconvnet.recipe import Recipe, Solver

NAME = "segnet"


class SegNet(Vgg16Network):
    """Input N x 3 x H x W (RGB minus mean, sides of at least 32), output scores N x classes x H x W."""

    def __init__(self, recipe: recipes.SegNet, class_count: int) -> None:
        super().__init__(recipe.width, True, lambda: Pool("switches"))
        for block in (5, 4, 3, 2, 1):
            self.add_module(f"unpool{block}", Unpool("switches"))
            own, below = self.channels[block - 1], self.channels[max(block - 2, 0)]
            names = _decoder_names(block)
            for name in names[:-1]:
                self.add_layer(name, nn.Conv2d(own, own, 3, padding=1))
            if block > 1:  # the last layer of a block reduces the channels to those of the block below
                self.add_layer(names[-1], nn.Conv2d(own, below, 3, padding=1))
        self.conv1_1_D = nn.Conv2d(self.channels[0], class_count, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x, pooled = images, []
        for block in (1, 2, 3, 4, 5):
            x = self.block(block, x)
            size = x.shape
            x, switches = self.get_submodule(f"pool{block}")(x)
            pooled.append((switches, size))
        for block in (5, 4, 3, 2, 1):
            x = self.get_submodule(f"unpool{block}")(x, *pooled.pop())
            for name in _decoder_names(block):
                x = self.conv1_1_D(x) if name == "conv1_1_D" else self.layer(name, x)
        return x

    def initialise(self, generator: torch.Generator) -> None:
        """He's initialisation, as the authors'."""
        draw_weights(self, lambda name, layer: 0.0, generator)


def _decoder_names(block: int) -> list[str]:
    """conv5_3_D, conv5_2_D, conv5_1_D for 5."""
    return [f"{name}_D" for name in reversed(convolution_names()[block - 1])]


def _trainings(recipe: Recipe) -> list[TrainingSpec]:
    keys = recipe.segnet
    solver = Solver(lr=keys.lr, momentum=keys.momentum, weight_decay=keys.weight_decay, rate_rule="constant",
                    trunk_lr=keys.trunk_lr)
    return [TrainingSpec(
        name=NAME, title="SegNet", network=NAME, examples=keys.examples, stage=2, stream=20,
        iterations=keys.iterations, section=NAME, batch=keys.batch, micro_batch=keys.micro_batch,
        validation=keys.validate, solver=solver, bn=MEASURED, bn_start=keys.bn_start,
    )]


SPECS = (NetworkSpec(
    name=NAME,
    title="SegNet",
    build=lambda recipe: SegNet(recipe.segnet, len(recipe.data.classes)),
    examples=lambda recipe: recipe.segnet.examples,
    canvas=lambda recipe: recipe.segnet.canvas,
    trainings=_trainings,
    describe=lambda recipe: {"width": recipe.segnet.width},
    recipe_section=NAME,
),)
