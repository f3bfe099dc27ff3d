"""Both recipes made narrow and small, with random networks that score as trained ones do, and run folders of them."""

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from torch import nn

from deconvnet.data.images import read_rgb
from deconvnet.data.row_files import write_rows
from deconvnet.data.synthetic import generate
from deconvnet.data.voc import VocFolder
from deconvnet.inference.scoring import score_image, score_windows, scoring_windows
from deconvnet.models.build import build_network
from deconvnet.models.network_files import save_network
from deconvnet.recipe import Recipe, recipe_to_dict
from deconvnet.recipe_files import load_recipe, save_recipe
from stages.cli import run_command
from stages.infer import main, parse
from tests.reference_inference import PAPER, RELEASED, fcn8s, together, window_scores

CPU = torch.device("cpu")
# Five windows of nine, so that which five matters.
SIZES = {"network.input": 32, "fcn.canvas": 176, "infer.proposals": 5}
NARROW = ["data.classes=[background,circle,square,star]", "network.width=0.0625", "windows.warp=32",
          "network.deconv_std=0", "fcn.width=0.015625", *(f"{name}={value}" for name, value in SIZES.items())]
KEYS = {"paper": PAPER | SIZES, "released": RELEASED | SIZES}
ROUNDING = 2e-3  # of scores that were saved as float16, which has 11 bits
KINDS = {"deconvnet": "stage2", "fcn8s": "fcn8s"}  # and where in a run folder their files are


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Every tensor random, BN's running statistics too; scores of both signs."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean") or (name.endswith("bias") and "score" not in name):
            tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
        elif name.startswith("score") and name.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=random) / tensor.shape[1] ** 0.5)
        elif name.startswith(("score", "seg_score")):
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    return model.eval()


class Case:
    """Images, nine boxes of each, and two narrow random networks, the same weights for every recipe."""

    def __init__(self, folder: Path) -> None:
        self.voc = generate(folder / "voc", train=1, val=2, seed=3, side=160)
        self.images = {path.stem: read_rgb(path) for path in sorted(self.voc.glob("JPEGImages/*"))}
        self.boxes = {name: boxes_of(image, seed) for seed, (name, image) in enumerate(self.images.items(), 8)}
        self.first = next(iter(self.images))
        self.states = {kind: self._state(kind, seed) for seed, kind in enumerate(KINDS, 1)}
        self._fcn: dict[tuple, np.ndarray] = {}
        self.others = {kind: self._state(kind, seed) for seed, kind in enumerate(KINDS, 11)}

    def _state(self, kind: str, seed: int) -> dict[str, torch.Tensor]:
        """Scores a few nats high around zero, as trained networks' are, different from place to place."""
        recipe = load_recipe("paper", [*NARROW, "infer.proposals=1"])
        state = randomised(build_network(kind, recipe), seed).state_dict()
        if kind == "deconvnet":  # so small a variance that BN's eps matters
            for name, factor in (("conv1_1.weight", 1e-3), ("bn1_1.running_mean", 1e-3), ("bn1_1.running_var", 1e-6)):
                state[name] *= factor
        found = self.scores(recipe, kind, state)
        found = found[:, found.any(0)]  # without what the window does not cover
        last = {"deconvnet": "seg_score_voc.bias", "fcn8s": "score_pool3.bias"}[kind]
        state[last] -= torch.from_numpy(found.mean(1))
        for key, tensor in state.items():
            if key.startswith(("seg_score", "score")):
                tensor *= torch.from_numpy(2 / found.std(1)).reshape(-1, *[1] * (tensor.ndim - 1))
        return state

    def scores(self, recipe: Recipe, kind: str, state: dict[str, torch.Tensor]) -> np.ndarray:
        """A network's scores of the first image, by this project's functions."""
        model, image = network(kind, recipe, state), self.images[self.first]
        if kind == "fcn8s":
            return score_image(model, image, recipe, CPU, recipe.fcn.canvas).numpy()
        return score_windows(model, image, scoring_windows(self.boxes[self.first], recipe), recipe, CPU).numpy()

    def plain(self, image_id: str, keys: dict, states: dict | None = None) -> dict[str, np.ndarray]:
        """The same inference in NumPy: scores, FCN's scores, the ensemble's probabilities."""
        state, fcn_state = ((states or self.states)[kind] for kind in KINDS)
        image, boxes = self.images[image_id], self.boxes[image_id]
        if (image_id, keys["fcn.canvas"], id(fcn_state)) not in self._fcn:  # the slowest of it
            self._fcn[image_id, keys["fcn.canvas"], id(fcn_state)] = fcn8s(image, doubles(fcn_state),
                                                                           keys["fcn.canvas"])
        fcn = self._fcn[image_id, keys["fcn.canvas"], id(fcn_state)]
        scores = window_scores(image, boxes, keys, doubles(state))
        return {"scores": scores, "fcn": fcn, "probabilities": together(scores, fcn, keys)}

    def run(self, folder: Path, recipe: Recipe) -> Path:
        """A run folder as after training and build_proposals: recipe, data set, proposals, networks."""
        folder.mkdir(parents=True)
        save_recipe(recipe, folder / "recipe.yaml")
        (folder / "data.json").write_text(json.dumps({"voc_root": str(self.voc.resolve())}))
        for kind, name in KINDS.items():
            self.save(folder / name / "network.safetensors", kind, recipe, self.states)
        voc = VocFolder(self.voc, recipe.data.classes)
        for split in ("train", "val"):
            ids = voc.image_ids(split)
            parts = [{"size": np.array(self.images[one].shape[:2], np.int32), "boxes": self.boxes[one],
                      "scores": np.linspace(0.9, 0.1, 9, dtype=np.float32)} for one in ids]
            write_rows(folder / "proposals" / f"{split}.h5", ids, parts, {
                "format": "proposals", "edges": "gradient-v1", "opencv": "", "split": split, "shaped_by": {},
                "fingerprint": voc.fingerprint(split), "classes": voc.classes, "recipe": recipe_to_dict(recipe)},
                np.array([[blake2b(voc.image_path(one).read_bytes(), digest_size=8).hexdigest()] for one in ids], "S"))
        return folder

    def save(self, path: Path, kind: str, recipe: Recipe, states: dict) -> Path:
        """A network's file, its BN statistics as if measured."""
        save_network(network(kind, recipe, states[kind]), path, kind, recipe, "measured", {})
        return path


def network(kind: str, recipe: Recipe, state: dict[str, torch.Tensor]) -> nn.Module:
    """A network with the weights of `state`."""
    model = build_network(kind, recipe)
    model.load_state_dict(state)
    return model.eval()


def doubles(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """A state for NumPy."""
    return {name: value.double().numpy() for name, value in state.items()}


def boxes_of(image: np.ndarray, seed: int) -> np.ndarray:
    """Nine boxes; all of them cover the centre."""
    height, width = image.shape[:2]
    random = np.random.default_rng(seed)
    low, high = random.uniform(0, 0.45, (9, 2)), random.uniform(0.55, 1, (9, 2))
    return (np.concatenate([low, high], axis=1) * (width, height, width, height)).astype(np.int32)


def copied(run: Path, folder: Path) -> Path:
    """A run folder like another, without what infer made there."""
    return shutil.copytree(run, folder, ignore=shutil.ignore_patterns("scores", "predictions"))


def infer(run: Path, *arguments: object) -> None:
    """stages.infer in this process."""
    fixed = ["--run", run, "--device", "cpu", "--workers", 1]
    assert run_command(parse(), main, [str(one) for one in (*fixed, *arguments)]) == 0


def setting(keys: dict) -> list[str]:
    """--set for each key."""
    return [part for name, value in keys.items() for part in ("--set", f"{name}={value}")]


def saved(run: Path, network: str, image_id: str, split: str = "val") -> np.ndarray:
    """What is in the one score file of a network (a prefix of its folder's name) and image."""
    (path,) = (run / "scores" / split).glob(f"{network}-*/{image_id}.h5")
    with h5py.File(path) as file:
        return file["scores"][:]


def labels(folder: Path, image_id: str) -> np.ndarray:
    """A label map."""
    with Image.open(folder / f"{image_id}.png") as picture:
        return np.array(picture)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """The same scores, but for their rounding to float16."""
    assert expected.std() > 0.2 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max())


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """The same labels, but for a few pixels between two classes; ten iterations of the CRF enlarge the rounding."""
    assert found.shape == expected.shape and (found == expected).mean() > 0.998
