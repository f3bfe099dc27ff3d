"""Photographs a second from pixels to PNG: proposals, windows, DeconvNet, aggregation, FCN-8s, CRF (section 5).

With the networks that come with this: full width, windows of 64 x 64. The baseline is what a reader of the paper would
write: eager, float32, NCHW, one proposal at a time, batch normalisation by itself, all score maps of a photograph kept,
one process, the CRF after the networks, with all classes.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from crf.dense import CrfParameters, dense_crf
from deconvnet.conventions import MEAN_RGB, PACKED, PRETRAINED
from deconvnet.data.canvas import canvas_size, on_canvas
from deconvnet.data.palette import write_label_png
from deconvnet.data.windows import cut
from deconvnet.inference.scoring import scoring_windows
from deconvnet.models.deconvnet import DeconvNet
from deconvnet.models.network_files import load_network
from deconvnet.recipe import Recipe
from deconvnet.segmenter import Segmenter
from deconvnet.support.startup import SLEEP
from deconvnet.support.workers import WorkerPool, default_workers
from experiments.benchmarks.base import Benchmark, Settings, Variant
from experiments.benchmarks.crf import agreement
from experiments.benchmarks.photographs import photographs
from experiments.benchmarks.plain import PlainDeconvNet, maximum_of
from proposals.build import ProposalWork


def benchmark(settings: Settings) -> Benchmark:
    """The measurement."""
    images = photographs(settings, 2 if settings.quick else 12)

    def plain() -> Callable[[], list[np.ndarray]]:
        recipe = Segmenter.from_pretrained().recipe
        deconvnet, fcn = (load_network(PRETRAINED / training / "network.safetensors", kind, recipe).eval()
                          for kind, training in PACKED.items())
        assert isinstance(deconvnet, DeconvNet)
        plainly = PlainDeconvNet(deconvnet).eval()
        proposals = ProposalWork(None, recipe, None)

        @torch.no_grad()
        def labels_of(image: np.ndarray, path: Path) -> np.ndarray:
            windows = scoring_windows(proposals.propose(image)[0], recipe)
            pictures = [cv2.resize(cut(image, window, MEAN_RGB.round().astype(np.uint8)), 2 * [recipe.network.input])
                        for window in windows]
            scores = [plainly(_input(one))[0] for one in pictures]
            ours = torch.softmax(maximum_of(scores, windows, (image.shape[0], image.shape[1])), 0)
            probabilities = (ours + torch.softmax(_whole(fcn, image, recipe), 0)) / 2
            everything = replace(_crf(recipe), least_probability=0.0)
            labels = dense_crf(image, probabilities.numpy(), everything).argmax(0).astype(np.uint8)
            Image.fromarray(labels).save(path)
            return labels

        def call() -> list[np.ndarray]:
            with TemporaryDirectory() as folder:
                return [labels_of(image, Path(folder, f"{number}.png")) for number, image in enumerate(images)]

        return call

    def ours(*keys: str) -> Callable[[], Callable[[], list[np.ndarray]]]:
        def prepared() -> Callable[[], list[np.ndarray]]:
            segmenter = Segmenter.from_pretrained(device=settings.device, set=keys).load()
            pool = Kept(default_workers())
            Finalize(None, pool.end, exitpriority=100)  # before multiprocessing closes its queues

            def call() -> list[np.ndarray]:
                labels: list[np.ndarray] = []
                with TemporaryDirectory() as folder:
                    for _, result in segmenter.each(images, default_workers(), make_executor=lambda _: pool):
                        write_label_png(Path(folder, f"{len(labels)}.png"), result.labels)
                        labels.append(result.labels)
                return labels

            return call

        return prepared

    variants = (Variant("default", ours(), environment=SLEEP),
                Variant("bf16 decoder", ours("runtime.precision=bf16_decoder"), environment=SLEEP),
                Variant("bf16", ours("runtime.precision=bf16"), "bf16", SLEEP))
    return Benchmark("images", len(images), Variant("plain", plain), variants, agreement)


class Kept(WorkerPool):
    """A pool whose processes stay for the next call: a split has thousands of images for each start of them."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The labelling is over, not the measurement."""

    def end(self) -> None:
        """Ends the processes."""
        super().shutdown()


def _crf(recipe: Recipe) -> CrfParameters:
    return CrfParameters(**asdict(recipe.crf))


def _input(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32) - MEAN_RGB).permute(2, 0, 1)[None].contiguous()


def _whole(network: torch.nn.Module, image: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """FCN's scores of an image that is shrunk to its canvas where it is larger, and enlarged again."""
    height, width = image.shape[:2]
    side = recipe.fcn.canvas
    rows, columns = canvas_size(height, width, side)
    scores = network(_input(on_canvas(image, side, MEAN_RGB)))[:, :, :rows, :columns]
    return F.interpolate(scores, (height, width), mode="bilinear")[0]
