"""FCN-32s, 16s, 8s: geometry against impulses and hand-worked numbers, bilinear weights, staged starts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvnet import recipe as recipes
from deconvnet.models.fcn import (
    SKIPS,
    UPSAMPLINGS,
    Fcn,
    bilinear_weight,
    border_padding,
    crop_offsets,
    fcn_from_shallower,
)
from deconvnet.support.errors import UsageError, UserError

NARROW = 1 / 64


def narrow(stride: int, **keys) -> Fcn:
    return Fcn(stride, 3, recipes.Fcn(width=NARROW, **keys))


def random_fcn(stride: int, seed: int = 0, **keys) -> Fcn:
    """A narrow network in which nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    model = narrow(stride, **keys)
    model.initialise(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("score"):
                parameter.normal_(0, 1, generator=generator)
    return model


def test_crops_of_the_published_nets():
    assert border_padding(7) == 100
    assert crop_offsets(32, 7) == {"output": 19}
    assert crop_offsets(16, 7) == {"score_pool4": 5, "output": 27}
    assert crop_offsets(8, 7) == {"score_pool4": 5, "score_pool3": 9, "output": 31}
    assert crop_offsets(8, 3) == {"score_pool4": 1, "score_pool3": 1, "output": 31}  # worked out by hand, padding 36


@pytest.mark.parametrize(("stride", "count"), [(32, 136_152_917), (16, 134_815_994), (8, 134_489_759)])
def test_parameter_count_at_full_width(stride, count):
    """By hand: VGG16's convolutions 14,714,688 + fc6 4096 * 25088 + 4096 + fc7 4096 * 4096 + 4096 +
    score_fr 21 * 4096 + 21 = 134,346,581; score_pool4 21 * 512 + 21, score_pool3 21 * 256 + 21;
    upsampling by f without bias: 21 * 21 * (2f)^2."""
    with torch.device("meta"):
        model = Fcn(stride, 21, recipes.Fcn())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_layer_names_are_the_published_ones():
    vgg16 = "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 conv5_1 conv5_2 conv5_3"
    head = "fc6 fc7 score_fr score_pool3 score_pool4"
    names = {f"{name}.{part}" for name in f"{vgg16} {head}".split() for part in ("weight", "bias")}
    names |= {"upscore2.weight", "upscore_pool4.weight", "upscore8.weight"}
    assert set(narrow(8).state_dict()) == names


@settings(max_examples=25, deadline=None)
@given(
    stride=st.sampled_from([32, 16, 8]),
    kernel=st.sampled_from([3, 4, 5, 7]),
    height=st.integers(1, 140),
    width=st.integers(1, 140),
)
def test_scores_have_the_size_of_the_image(stride, kernel, height, width):
    model = random_fcn(stride, fc6_kernel=kernel).eval()
    with torch.no_grad():
        scores = model(torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)))
    assert scores.shape == (1, 3, height, width)
    assert scores.isfinite().all()


def test_an_fc6_kernel_too_small_to_align_is_named():
    with pytest.raises(UsageError, match="fcn.fc6_kernel is 2; expected at least 3"):
        narrow(8, fc6_kernel=2)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(
    ("stride", "path"),
    [(32, "score_fr"), (16, "score_fr"), (16, "score_pool4"), (8, "score_fr"), (8, "score_pool4"), (8, "score_pool3")],
)
def test_scores_lie_over_the_pixels_they_come_from(stride, path, kernel):
    """Impulse test: the gradient of scores with respect to the image is centred on the pixel scored.

    All weights are ones, all activations positive, pooling is left as it is: on an image that rises from 1 very
    slowly to the right and down, a maximum is always the bottom right of its four pixels, so every pooling shifts
    by half its step to the right and down from the centre of its cell: 0.5, 1, 2, 4, 8 pixels. Averaged over the
    pixels of a whole 32 x 32 cell, the path through pool3 must therefore be off by exactly 3.5 pixels, through
    pool4 by 7.5, through fc7 by 15.5, and by nothing more: an offset wrong by one moves it by 1, 8 or 16.
    """
    model = narrow(stride, fc6_kernel=kernel).eval().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("score", "upscore")):
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                parameter.div_(max(1, parameter[0].numel()))
        getattr(model, path).weight.fill_(1.0)
    size = 33 + 32 * 19  # fc7 sees 404 pixels: none of them may lie outside
    ramp = 1 + 1e-3 * torch.arange(size, dtype=torch.float64)
    image = (ramp[:, None] + ramp[None, :]).expand(1, 3, size, size).clone().requires_grad_()
    first = 32 * 10
    model(image)[0, 0, first : first + 32, first : first + 32].sum().backward()
    mass = image.grad[0].sum(0)
    positions = torch.arange(size, dtype=torch.float64)
    shift = {"score_pool3": 3.5, "score_pool4": 7.5, "score_fr": 15.5}[path]
    for axis in (0, 1):
        marginal = mass.sum(1 - axis)
        centre = (marginal * positions).sum() / marginal.sum()
        assert centre.item() == pytest.approx(first + 15.5 + shift, abs=1e-6)


@pytest.mark.parametrize(("scaled", "pool4", "pool3"), [(False, 1, 1), (True, 0.01, 0.0001)])
def test_forward_is_the_published_nets_line_by_line(scaled, pool4, pool3):
    """FCN-8s as its prototxt reads, with numbers in place, against functional calls; and with at-once's scales."""
    model = random_fcn(8, scaled_skips=scaled).eval()
    for name, factor in (("score_pool4", pool4), ("score_pool3", pool3)):  # else what is scaled down hardly shows
        model.get_parameter(f"{name}.weight").data /= factor
    weights = model.state_dict()
    image = torch.randn(2, 3, 45, 70, generator=torch.Generator().manual_seed(1))

    def conv(x, name, padding):
        return torch.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def up(x, name, stride):
        return torch.conv_transpose2d(x, weights[f"{name}.weight"], stride=stride)

    x, pools, padding = image, [], 100
    for names in ("conv1_1 conv1_2", "conv2_1 conv2_2", "conv3_1 conv3_2 conv3_3", "conv4_1 conv4_2 conv4_3",
                  "conv5_1 conv5_2 conv5_3"):
        for name in names.split():
            x, padding = conv(x, name, padding).relu(), 1
        x = torch.max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    x = conv(conv(x, "fc6", 0).relu(), "fc7", 0).relu()
    x = up(conv(x, "score_fr", 0), "upscore2", 2)
    x = x + conv(pool4 * pools[3], "score_pool4", 0)[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = up(x, "upscore_pool4", 2)
    x = x + conv(pool3 * pools[2], "score_pool3", 0)[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    expected = up(x, "upscore8", 8)[:, :, 31 : 31 + 45, 31 : 31 + 70]
    with torch.no_grad():
        torch.testing.assert_close(model(image), expected)


@pytest.mark.parametrize("factor", [2, 3, 8, 16])
def test_bilinear_weight_is_caffes_filler(factor):
    kernel = 2 * factor
    weight = bilinear_weight(2, factor).numpy()
    for i in range(kernel):
        for j in range(kernel):  # linear in the distance from the kernel's centre, 0 one factor away from it
            value = (1 - abs(i - (kernel - 1) / 2) / factor) * (1 - abs(j - (kernel - 1) / 2) / factor)
            assert weight[0, 0, i, j] == pytest.approx(value, abs=1e-7)
            assert weight[1, 1, i, j] == weight[0, 0, i, j]
    assert not weight[0, 1].any() and not weight[1, 0].any()


@pytest.mark.parametrize("factor", [2, 8])
def test_bilinear_upsampling_of_a_ramp_is_a_ramp(factor):
    columns = torch.arange(6.0).expand(1, 1, 6, 6)
    up = torch.conv_transpose2d(columns, bilinear_weight(1, factor), stride=factor)[0, 0].numpy()
    inside = slice(factor + factor // 2, -factor - factor // 2)
    centres = (np.arange(up.shape[1]) - (2 * factor - 1) / 2) / factor
    expected = np.tile(centres, (up.shape[0], 1))
    np.testing.assert_allclose(up[inside, inside], expected[inside, inside], atol=1e-5)


def test_a_new_network_scores_zero_and_keeps_the_last_upsampling_fixed():
    for stride in (32, 16, 8):
        model = narrow(stride)
        assert not model(torch.randn(1, 3, 20, 20)).any()
        fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert fixed == [f"{UPSAMPLINGS[stride][-1]}.weight"]


def test_dropout_only_in_training_and_only_without_batch_norm():
    image = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    plain, normalised = random_fcn(8), random_fcn(8, batch_norm=True)
    torch.manual_seed(0)
    assert not torch.equal(plain.train()(image), plain(image))
    assert torch.equal(plain.eval()(image), plain(image))
    assert torch.equal(normalised.train()(image), normalised(image))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("stride", [16, 8])
def test_staged_start(stride, batch_norm):
    source, target = random_fcn(2 * stride, 1, batch_norm=batch_norm), random_fcn(stride, 2, batch_norm=batch_norm)
    with torch.no_grad():
        for name in UPSAMPLINGS[2 * stride][:-1]:  # as if learned
            getattr(source, name).weight.mul_(1.5)
    if batch_norm:
        source.train()(torch.randn(2, 3, 50, 50, generator=torch.Generator().manual_seed(0)))  # statistics move
    fcn_from_shallower(target, source.state_dict())
    before, after = source.state_dict(), target.state_dict()
    new = {16: ("score_pool4", "upscore2", "upscore16"), 8: ("score_pool3", "upscore_pool4", "upscore8")}[stride]
    for name, value in after.items():
        layer = name.split(".")[0]
        if layer not in new:
            assert torch.equal(value, before[name]), name
        elif layer.startswith("score"):
            assert not value.any()
        else:
            assert torch.equal(value, bilinear_weight(3, value.shape[-1] // 2))
    assert set(before) - set(after) == {f"{UPSAMPLINGS[2 * stride][-1]}.weight"}
    assert SKIPS[stride][-1] == new[0]


def test_staged_start_from_another_network_is_named():
    target = narrow(8)
    with pytest.raises(UserError, match="FCN-8s from FCN-16s: the source has no score_pool4.weight"):
        fcn_from_shallower(target, narrow(32).state_dict())
    with pytest.raises(UserError, match="conv1_1.weight is .* expected"):
        fcn_from_shallower(target, Fcn(16, 3, recipes.Fcn(width=1 / 16)).state_dict())


def test_it_learns():
    """A few steps on one picture whose left half is one class, the right half another."""
    torch.manual_seed(0)
    model = narrow(8, fc6_kernel=3, batch_norm=True)
    model.initialise(torch.Generator().manual_seed(0))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 20
    image[..., 32:] += 100
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[..., 32:] = 1
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    for _ in range(40):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(image), labels)
        loss.backward()
        optimiser.step()
    assert (model(image).argmax(1) == labels).float().mean() > 0.95
