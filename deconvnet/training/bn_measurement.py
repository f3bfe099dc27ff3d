"""BN statistics measured after training, with frozen weights, as the release does.

In training BN uses each batch's own statistics; there is no running average in Caffe's model. Afterwards batches of
training windows pass through the network once more, and the mean of their means and variances becomes what BN uses
at test time.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deconvnet.recipe import Runtime
from deconvnet.runtime import autocast, to_device
from deconvnet.support.progress import progress
from deconvnet.training.trace import bn_modes, digest, kind


@torch.no_grad()
def measure_bn_statistics(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]], count: int, variance: str,
                          runtime: Runtime, device: torch.device) -> dict[str, Any]:
    """Sets every BN layer's running_mean and running_var to the mean over batches of the batch statistics.

    batches: `count` batches as the training loads them. variance: 'biased' divides a batch's squared deviations by
    their number n [R], 'unbiased' by n - 1 (torch's rule). The weights stay as they are.
    Returns what was really done, for the record.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {layer: [torch.zeros(layer.num_features, dtype=torch.float64, device=device) for _ in range(2)]
            for layer in layers}
    correction = 1 if variance == "unbiased" else 0
    done: dict[str, Any] = {"batches": 0, "sizes": [], "correction": correction}

    def add(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)
        sums[layer][0] += values.mean(1)
        sums[layer][1] += values.var(1, correction=correction)

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    was_training = model.training
    kept = [(layer.get_buffer("running_mean").clone(), layer.get_buffer("running_var").clone()) for layer in layers]
    model.train()  # each batch is normalised with its own statistics, as in training
    try:
        for pictures, labels, _ in progress(batches, total=count, desc="BN statistics", unit="batch"):
            pictures, _ = to_device(pictures, labels, runtime, device)
            with autocast(runtime, device):
                scores = model(pictures)
            if not done["batches"]:
                done |= {"pictures": digest(pictures), "scores": kind(scores), "bn": bn_modes(model)}
            done["sizes"] = sorted({*done["sizes"], len(pictures)})
            done["batches"] += 1
    except BaseException:
        for layer, (mean, var) in zip(layers, kept, strict=True):
            layer.get_buffer("running_mean").copy_(mean)
            layer.get_buffer("running_var").copy_(var)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    for layer in layers:
        layer.get_buffer("running_mean").copy_(sums[layer][0] / done["batches"])
        layer.get_buffer("running_var").copy_(sums[layer][1] / done["batches"])
    return done
