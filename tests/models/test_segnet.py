"""SegNet against torch's functions called one by one, and its published size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deconvnet import recipe as recipes
from deconvnet.models.build import build_network
from deconvnet.models.segnet import SegNet
from deconvnet.recipe_files import load_recipe

BLOCKS = (("conv1_1", "conv1_2"), ("conv2_1", "conv2_2"), ("conv3_1", "conv3_2", "conv3_3"),
          ("conv4_1", "conv4_2", "conv4_3"), ("conv5_1", "conv5_2", "conv5_3"))
CHANNELS = (64, 128, 256, 512, 512)


def by_hand(state: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """The network from its weights, in eval mode: each layer and each unpooling written out."""
    def layer(name: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
        if name == "conv1_1_D":
            return x
        bn = f"bn{name.removeprefix('conv')}"
        return F.relu(F.batch_norm(x, state[f"{bn}.running_mean"], state[f"{bn}.running_var"], state[f"{bn}.weight"],
                                   state[f"{bn}.bias"], eps=1e-5))

    x, kept = pictures, []
    for names in BLOCKS:
        for name in names:
            x = layer(name, x)
        size = x.shape
        x, where = F.max_pool2d(x, 2, 2, return_indices=True)
        kept.append((where, size))
    for names in reversed(BLOCKS):
        where, size = kept.pop()
        x = F.max_unpool2d(x, where, 2, 2, output_size=size)
        for name in reversed(names):
            x = layer(f"{name}_D", x)
    return x


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (32, 33)])
def test_it_is_the_paper_layer_by_layer(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    model = SegNet(recipes.SegNet(width=1 / 16), 5)
    model.initialise(generator)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "bn" in name and value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    pictures = 50 * torch.randn(2, 3, *size, generator=generator)
    with torch.no_grad():
        scores, expected = model.eval()(pictures), by_hand(model.state_dict(), pictures)
    assert scores.shape == (2, 5, *size) and scores.std() > 0
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_its_size_counted_by_hand() -> None:
    """With CamVid's 12 classes; the layer before each pooling's channels change has the fewer ones already."""
    encoder = sum(9 * before * after + after for before, after in
                  zip((3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
                      (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512), strict=True))
    decoder = sum(9 * before * after + after for before, after in
                  zip((512, 512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64),
                      (512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 12), strict=True))
    normalised = (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512) + (5 * 512 + 256 + 2 * 256 + 128 + 128 + 64 + 64)
    with torch.device("meta"):
        model = SegNet(recipes.SegNet(), 12)
    assert encoder == 14_714_688  # VGG16's convolutions
    assert sum(value.numel() for value in model.parameters()) == encoder + decoder + 2 * normalised


def test_he_deviations() -> None:
    model = build_network("segnet", load_recipe("tiny", ["segnet.width=1"]))
    for name in ("conv3_2", "conv5_1_D", "conv1_1_D"):
        weight = model.get_submodule(name).weight
        assert float(weight.detach().std()) == pytest.approx((2 / (9 * weight.shape[1])) ** 0.5, rel=0.05)
