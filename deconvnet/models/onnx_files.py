"""A network in an ONNX file that stages.export wrote, run by onnxruntime in torch's place.

The file ends with a seal, the SHA-256 of all bytes before it. Two protobuf messages in a row read as one, and the seal
is a message with a single entry of metadata: so every ONNX reader takes the whole file, and damage is found without
reading the model.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deconvnet.models.weight_files import METADATA_KEY, existing
from deconvnet.schemas import OnnxAbout, checked
from deconvnet.support.errors import UserError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIX = ".onnx"
IMAGES, SCORES = "images", "scores"  # the names of the graph's input and output
_SEAL = b"rJ\n\x06sha256\x12@"  # an entry (r) of 74 bytes (J): its key of 6 bytes, its value of 64 (@), which follow
_DIGITS = 64


def seal(content: bytes) -> bytes:
    """What is written behind a model's bytes: their SHA-256, the value of one more of its metadata."""
    return _SEAL + hashlib.sha256(content).hexdigest().encode()


def check_packages(*names: str) -> None:
    """Raises UserError, which says what to install, where one of these packages is missing: they are optional."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise UserError(f"ONNX files need {' and '.join(missing)}, not installed here: pip install -c constraints.txt "
                        "-e '.[export]'")


class OnnxNetwork(nn.Module):
    """Called as the network that it was made of: N x 3 x S x S (RGB minus the mean) to N x C x S x S, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises UserError for one that stages.export did not write, or a damaged one."""
        super().__init__()
        self.session = _open(path, optimised=True)
        self.about = _about(path, self.session)

    def forward(self, images: Tensor) -> Tensor:
        (scores,) = self.session.run([SCORES], {IMAGES: images.float().contiguous().numpy()})
        return torch.from_numpy(scores)


def read_about(path: Path) -> dict[str, Any]:
    """What the file says of its network. Raises UserError, as OnnxNetwork."""
    return _about(path, _open(path, optimised=False))


def _open(path: Path, optimised: bool) -> "InferenceSession":
    check_packages("onnxruntime")
    _check_seal(existing(path))
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised too
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimised:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class of their own
        raise UserError(f"{path}: onnxruntime cannot open it ({' '.join(str(error).split())[:200]}): another "
                        "version, perhaps? Export it again") from None


def _check_seal(path: Path) -> None:
    length = path.stat().st_size - len(_SEAL) - _DIGITS
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(1 << 22, length))):
            digest.update(block)
            length -= len(block)
        found = file.read()
    if not found.startswith(_SEAL):
        raise UserError(f"{path}: no ONNX file of stages.export, or cut short: only those are read; export it again")
    if found != _SEAL + digest.hexdigest().encode():
        raise UserError(f"{path}: damaged: its SHA-256 does not match the one stored in it: export it again")


def _about(path: Path, session: "InferenceSession") -> dict[str, Any]:
    told = session.get_modelmeta().custom_metadata_map
    about = checked(OnnxAbout, told.get(METADATA_KEY, "{}").encode(), path,
                    f"its {METADATA_KEY!r} metadata should be a JSON object of stages.export: export it again")
    return about.model_dump(exclude_unset=True)
