"""Networks as they score fastest against themselves as they are: batch normalisation folded; whole maps as products."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deconvnet.inference.networks import ImageScorer
from deconvnet.models.build import build_network
from deconvnet.models.folding import fold_batch_norm, lower_precision
from deconvnet.models.network_files import load_network, save_network
from deconvnet.models.whole_map import FromPixelConvTranspose2d, WholeMapConv2d
from deconvnet.recipe import Recipe
from deconvnet.recipe_files import load_recipe
from deconvnet.support.errors import UserError
from tests.narrow import NARROW, randomised

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "last"])
BN = "fcn.batch_norm=true"


def recipe(*keys: str) -> Recipe:
    return load_recipe("paper", [*NARROW, BN, "segnet.width=0.0625", "segnet.canvas=64", *keys])


def near(found: Tensor, expected: Tensor, to: float) -> None:
    found, expected = found.detach(), expected.detach()
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=to * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["deconvnet", "fcn8s", "segnet"])
def test_a_folded_network_gives_the_same_scores(kind: str) -> None:
    """In double precision, so that no switch hangs on rounding: folded and not, to 1e-10."""
    model = randomised(build_network(kind, recipe()), 3).double()
    images = 50 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    with torch.no_grad():
        expected = model(images)
        folded = fold_batch_norm(model)
        near(folded(images), expected, 1e-10)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 6, 3, padding=1), nn.ConvTranspose2d(3, 6, 3, padding=1),
                                   WholeMapConv2d(3, 6, 4), FromPixelConvTranspose2d(3, 6, 4)])
def test_each_kind_of_layer_folds_to_rounding(layer: nn.Module) -> None:
    """Against batch normalisation's formula, written out."""
    model = build_network("deconvnet", recipe())
    norm = randomised(nn.BatchNorm2d(6, eps=0.1), 5)
    model.conv1_1, model.bn1_1 = layer.eval(), norm.eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + 0.1).sqrt()
        expected = (layer(x) - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        near(fold_batch_norm(model.eval()).conv1_1(x), expected, 1e-5)


def test_scorers_fold_and_files_hold_what_was_trained(tmp_path: Path) -> None:
    """The file that a scorer opens stays as it is; one of a folded network is refused."""
    model, path = randomised(build_network("deconvnet", recipe()), 3), tmp_path / "network.safetensors"
    save_network(model, path, "deconvnet", recipe(), "measured", {})
    content = path.read_bytes()
    opened, _ = ImageScorer("deconvnet", path, recipe(), "cpu").opened
    assert not any("bn" in name for name in opened.state_dict()) and not opened.training
    assert path.read_bytes() == content
    assert load_network(path, "deconvnet", recipe()).state_dict().keys() == model.state_dict().keys()
    save_network(opened, path, "deconvnet", recipe(), "measured", {})
    with pytest.raises(UserError, match="bn1_1.weight is missing"):
        load_network(path, "deconvnet", recipe())


def test_bf16_scores_with_weights_of_its_own_type(tmp_path: Path) -> None:
    keys, path = recipe("runtime.precision=bf16"), tmp_path / "network.safetensors"
    save_network(randomised(build_network("deconvnet", keys), 3), path, "deconvnet", keys, "measured", {})
    opened, _ = ImageScorer("deconvnet", path, keys, "cpu").opened
    assert {value.dtype for value in opened.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind, first", [("deconvnet", "deconv5_1"), ("segnet", "conv5_3_D"), ("fcn8s", None)])
def test_bf16_decoder_leaves_the_switches(kind: str, first: str | None) -> None:
    """The layers from the first unpooling on are bf16's, the switches the very same, the scores near."""
    images = 50 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, lowered = (randomised(build_network(kind, recipe()), 3) for _ in range(2))
    lower_precision(lowered, "bf16_decoder")
    layers = [name for name, layer in lowered.named_children() if hasattr(layer, "weight")]
    lower = [name for name in layers if lowered.get_submodule(name).weight.dtype == torch.bfloat16]
    assert lower == (layers[layers.index(first):] if first else [])
    seen: list[Tensor] = []
    for model in (plain, lowered):
        for block in (1, 5):
            model.get_submodule(f"pool{block}").register_forward_hook(lambda _, __, out: seen.append(out[1]))
    with torch.no_grad():
        near(lowered(images).float(), plain(images), 0.05)
    assert len(seen) == 4 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])


@LAYOUTS
@pytest.mark.parametrize("count", [1, 3])
def test_a_product_is_the_convolution(layout: torch.memory_format, count: int) -> None:
    """torch's own convolutions give the same, and the same gradients."""
    torch.manual_seed(0)
    for ours, plain, side in ((WholeMapConv2d(4, 6, 3), nn.Conv2d(4, 6, 3), 3),
                              (WholeMapConv2d(4, 6, 1, bias=False), nn.Conv2d(4, 6, 1, bias=False), 1),
                              (FromPixelConvTranspose2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), 1),
                              (FromPixelConvTranspose2d(4, 6, 1, bias=False),
                               nn.ConvTranspose2d(4, 6, 1, bias=False), 1)):
        ours.to(memory_format=layout).load_state_dict(plain.state_dict())
        given = torch.randn(count, 4, side, side).requires_grad_()
        other = given.detach().clone().requires_grad_()
        found, expected = ours(given), plain(other)
        assert found.shape == expected.shape
        weights = torch.randn(expected.shape)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        near(found, expected, 1e-6)
        near(given.grad, other.grad, 1e-6)
        for own, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            near(own.grad, theirs.grad, 1e-6)
            assert own.ndim == 1 or own.grad.is_contiguous(memory_format=layout)  # or else the optimizer copies


@LAYOUTS
def test_another_map_is_convolved(layout: torch.memory_format) -> None:
    """FCN's fc6 on a whole image; the score of fc6_deconv on more than a pixel."""
    torch.manual_seed(0)
    for ours, plain, side in ((WholeMapConv2d(4, 6, 3), nn.Conv2d(4, 6, 3), 5),
                              (FromPixelConvTranspose2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), 2)):
        ours.to(memory_format=layout).load_state_dict(plain.state_dict())
        x = torch.randn(2, 4, side, side)
        near(ours(x), plain(x), 1e-6)
