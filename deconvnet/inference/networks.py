"""A network of the registry with its weights, as something that scores images."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconvnet.models.registry import NETWORKS
from deconvnet.models.spec import WINDOWS, NetworkSpec
from deconvnet.recipe import Recipe
from deconvnet.run_folder import RunFolder
from deconvnet.support.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

# torch is imported where it is used, not above: the CRF's processes import this module, and labels that are made of
# saved scores need no network either.


class ImageScorer:
    """One network, opened with the first image that it scores; picklable, without what was opened."""

    def __init__(self, kind: str, weights: Path, recipe: Recipe, device: str = "auto") -> None:
        """kind: of NETWORKS. device: as choose_device takes it."""
        self.kind, self.weights, self.recipe, self.device_name = kind, weights, recipe, device

    def __getstate__(self) -> dict[str, object]:
        own = {name: value for name, value in vars(self).items() if name != "opened"}
        return own | {"weights": self.weights.resolve()}  # another process may work in another folder

    @property
    def spec(self) -> NetworkSpec:
        """What the registry says of it."""
        return NETWORKS[self.kind]

    @property
    def sees_windows(self) -> bool:
        """Whether its scores are those of windows, aggregated; else of the whole image."""
        return self.spec.examples(self.recipe) == WINDOWS

    @property
    def name(self) -> str:
        """deconvnet-max, fcn8s: the network and, where it sees windows, how they are aggregated."""
        return self.spec.scores_name(self.recipe, self.recipe.infer.aggregate)

    def open(self) -> None:
        """Reads the weights. Raises UserError for a file that is no network of this recipe, UsageError for a device
        that is not there, or that does not run this file.
        """
        _ = self.opened

    @cached_property
    def opened(self) -> "tuple[nn.Module, torch.device]":
        """The network as it scores, its batch normalisation folded, on its device. Raises as open() does."""
        from deconvnet.models.folding import fold_batch_norm, lower_precision
        from deconvnet.models.network_files import load_network
        from deconvnet.models.onnx_files import SUFFIX
        from deconvnet.runtime import choose_device, prepare

        on_cpu = self.weights.suffix == SUFFIX
        if on_cpu and self.device_name not in ("auto", "cpu"):
            raise UsageError(f"--device {self.device_name}: {self.weights} is an ONNX file, and those run on the CPU: "
                             "leave --device out, or give the safetensors file that it was exported from")
        device = choose_device("cpu" if on_cpu else self.device_name)
        model = fold_batch_norm(load_network(self.weights, self.kind, self.recipe))
        runtime = self.recipe.runtime
        return prepare(lower_precision(model, runtime.precision), runtime, device), device

    def __call__(self, name: str, image: np.ndarray, boxes: Callable[[], np.ndarray]) -> np.ndarray:
        """Scores, float32 C x H x W, of an image, RGB uint8 H x W x 3.

        name: of the image, in messages. boxes: its proposals (int32 N x 4, best first), asked for where the network
        sees windows.
        """
        from deconvnet.inference.scoring import score_image, score_windows, scoring_windows

        model, device = self.opened
        if self.sees_windows:
            windows = scoring_windows(boxes(), self.recipe)
            if not len(windows):
                log.warning("%s: no proposals: all of it becomes background", name)
            scores = score_windows(model, image, windows, self.recipe, device)
        else:
            scores = score_image(model, image, self.recipe, device, self.spec.canvas(self.recipe))
        return scores.cpu().numpy()


def weights_of_run(run: RunFolder, kind: str, given: Path | None = None) -> Path:
    """The file of a network's weights: the one given, else that of its last training in the run.

    Where that training has none yet, an earlier one's, which is said loudly. Raises UsageError where there is none.
    """
    spec = NETWORKS[kind]
    trainings = [one for one in spec.trainings(run.recipe) if one.network == kind]
    found = given or run.network(trainings[-1].name)
    earlier = [one for one in trainings[:-1] if run.network(one.name).is_file()]
    if not given and not found.is_file() and earlier:
        log.warning("!!! %s: not there yet, %s's network labels instead", found, earlier[-1].title)
        found = run.network(earlier[-1].name)
    if not found.is_file():
        what = " and ".join(f"--stage {one.stage}" for one in trainings) if spec.by_stage else f"--model {kind}"
        raise UsageError(f"{found}: no such weights; `python -m stages.train --run {run.root}` with {what} makes "
                         "them, stages.import_caffe the authors'")
    return found
