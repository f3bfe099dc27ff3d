"""Peak memory of what takes most of it: `python -m tests.peak_memory CASE SIZE` prints what a process takes for it.

objects N       the objects of N squares in a mask of 2000 x 2000 (500 nuclei, 30000 specks)
crf M           the dense CRF, 21 classes, of M megapixels of something like a photograph; the probabilities count too
scores M        the labels of M megapixels, 21 classes, from one window that holds the whole image
"""

import sys
from pathlib import Path

import cv2
import numpy as np

CLASSES = 21


def photograph(megapixels: float) -> np.ndarray:
    """Blobs of several sizes, mostly grey, and a little noise: RGB uint8 H x W x 3, H : W about 3 : 4.

    As many colours in a neighbourhood as photographs of VOC have: the CRF's lattice grows with them.
    """
    random, width = np.random.default_rng(0), round((megapixels * 4e6 / 3) ** 0.5)
    height, picture = width * 3 // 4, 128.0
    for step, channels in ((8, 1), (32, 1), (64, 3)):
        blobs = random.normal(0, 25, (height // step + 2, width // step + 2, channels)).astype(np.float32)
        larger = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = picture + larger.reshape(height, width, channels)
    noise = random.normal(0, 1.5, (height, width, 1))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def objects(count: float) -> None:
    """The objects of a mask of squares."""
    from deconvnet.data.voc import _components

    step = int((2000 * 2000 / count) ** 0.5)
    mask = np.zeros((2000, 2000), np.uint8)
    for number in range(int(count)):
        y, x = (place * step for place in divmod(number, 2000 // step))
        mask[y : y + step // 2, x : x + step // 2] = 1 + number % 2
    assert len(_components(mask, 1)) == count


def crf(megapixels: float) -> None:
    """One mean-field iteration, as in a process of the pool."""
    from crf.dense import CrfParameters, dense_crf

    image = photograph(megapixels)
    probabilities = np.full((CLASSES, *image.shape[:2]), 1 / CLASSES, np.float32)
    dense_crf(image, probabilities, CrfParameters(iterations=1)).argmax(axis=0)


def scores(megapixels: float) -> None:
    """One network's scores, as stages.infer makes labels of them."""
    import torch

    from deconvnet.data.windows import enlarge
    from deconvnet.inference.ensemble import softmax
    from deconvnet.inference.scoring import score_windows
    from deconvnet.recipe import Recipe

    image, recipe = photograph(megapixels), Recipe()
    height, width = image.shape[:2]
    windows = enlarge(np.array([[0, 0, width, height]]), recipe.windows.enlarge, recipe.windows.shape)

    def network(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean(1, keepdim=True).repeat(1, CLASSES, 1, 1)

    softmax(score_windows(network, image, windows, recipe, torch.device("cpu")).numpy()).argmax(0)


def memory(field: str) -> int:
    """What this process holds (VmRSS) or at most held (VmHWM), in bytes. From Linux's /proc."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


if __name__ == "__main__":
    case = {one.__name__: one for one in (objects, crf, scores)}[sys.argv[1]]
    case(10 if case is objects else 0.01)  # what is imported is not counted
    before = memory("VmRSS")
    case(float(sys.argv[2]))
    print(f"{(memory('VmHWM') - before) / 1e6:.0f} MB")
