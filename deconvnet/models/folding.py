"""Networks made ready for scoring: weights in bf16, and batch normalisation folded into the convolution before it.

In evaluation batch normalisation is y = a x + b for each channel, a = scale / sqrt(variance + eps); so a goes into the
convolution's weights and b into its bias. The scores are the same up to rounding.
"""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deconvnet.models.unpooling import Unpool
from deconvnet.models.vgg16 import Vgg16Network, batch_norm_name


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Folds the network, in evaluation mode, in place, and returns it. It is then good for scoring alone.

    It has no layers of batch normalisation any more, so what is saved of it is refused when it is read as the network
    that it was. A network that is none of the registry's (an ONNX file's) is left as it is.
    """
    if not isinstance(model, Vgg16Network) or not model.batch_norm:
        return model
    children = dict(model.named_children())
    for name, layer in children.items():
        norm = children.get(batch_norm_name(name))
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(model, name, fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d)))
            delattr(model, batch_norm_name(name))
    model.batch_norm = False
    return model


def lower_precision(model: nn.Module, precision: str) -> nn.Module:
    """Weights in the type in which the network scores (recipe key runtime.precision), in place.

    bf16: all of them, as autocast would make them anew for every batch. bf16_decoder: those from the first unpooling
    on; what decides the switches stays float32. A network without unpooling then stays float32 as a whole.
    """
    if precision == "bf16":
        model.bfloat16()
    children = list(model.children())
    first = next((number for number, layer in enumerate(children) if isinstance(layer, Unpool)), len(children))
    if precision == "bf16_decoder" and first < len(children):
        for layer in children[first:]:
            layer.bfloat16()
        children[first].register_forward_pre_hook(lambda _, given: (given[0].bfloat16(), *given[1:]))
    return model
