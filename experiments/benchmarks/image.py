"""A photograph of VOC's size from its windows to its score map: 50 windows of 224 x 224, full width (section 5.1).

What it is there for beside `scoring` is the memory. The baseline keeps the score maps of all windows, each as large as
the photograph, and takes their maximum at the end.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from deconvnet.conventions import MEAN_RGB
from deconvnet.data.windows import cut
from deconvnet.inference.resizing import resize_picture
from deconvnet.inference.scoring import score_windows, scoring_windows
from deconvnet.models.folding import fold_batch_norm, lower_precision
from deconvnet.runtime import network_input, prepare
from experiments.benchmarks.base import Benchmark, Settings, Variant, shaped
from experiments.benchmarks.photographs import photographs
from experiments.benchmarks.plain import PlainDeconvNet, maximum_of
from experiments.benchmarks.scoring import agreement, network
from proposals.build import ProposalWork


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    image = photographs(settings, 1)[0]
    recipe = shaped(settings)
    windows = scoring_windows(ProposalWork(None, recipe, None).propose(image)[0], recipe)

    def plain() -> Callable[[], Tensor]:
        plainly = PlainDeconvNet(network(settings)[0]).eval().to(settings.device)
        outside = MEAN_RGB.round().astype(np.uint8)

        @torch.no_grad()
        def call() -> Tensor:
            pictures = [resize_picture(cut(image, one, outside), recipe.network.input, "bilinear") for one in windows]
            scores = [plainly(network_input(one[None].to(settings.device)))[0].cpu() for one in pictures]
            return maximum_of(scores, windows, (image.shape[0], image.shape[1]))[None]

        return call

    def ours(precision: str) -> Callable[[], Callable[[], Tensor]]:
        def prepared() -> Callable[[], Tensor]:
            model, keys = network(settings)
            keys.runtime.precision, device = precision, torch.device(settings.device)
            opened = prepare(lower_precision(fold_batch_norm(model), precision), keys.runtime, device)
            return lambda: score_windows(opened, image, windows, keys, device)[None].cpu()

        return prepared

    return Benchmark("images", 1, Variant("plain", plain),
                     (Variant("default", ours("fp32")), Variant("bf16", ours("bf16"), "bf16")), agreement)
