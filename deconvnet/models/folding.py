"""Batch normalisation folded into the convolution before it, for scoring: one pass over each map fewer.

In evaluation batch normalisation is y = a x + b for each channel, a = scale / sqrt(variance + eps); so a goes into the
convolution's weights and b into its bias. The scores are the same up to rounding.
"""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
