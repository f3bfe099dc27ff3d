"""Weights on disk: safetensors files under a checksum, and torch.save files, read without running what is in them.

torch writes a CRC for each part of its zip file but does not check it when reading; this module does.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deconvnet.schemas import NetworkAbout, checked
from deconvnet.support.atomic import atomic_write
from deconvnet.support.errors import UserError

METADATA_KEY, DIGEST_KEY = "deconvnet", "sha256"  # ours, in a safetensors file's metadata


def save_safetensors(model: nn.Module, path: Path | str, metadata: dict[str, Any]) -> None:
    """Writes a model's state completely or not at all, with JSON metadata that describe how to rebuild it."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_safetensors(save_file, state, path, metadata)


def write_safetensors(save: Callable[..., None], tensors: Mapping[str, Tensor | np.ndarray], path: Path | str,
                      metadata: dict[str, Any]) -> None:
    """Writes tensors by safetensors' `save` of their kind (torch's or NumPy's), with metadata and a digest of all."""
    text = json.dumps(metadata)
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # according to the umask; safetensors would leave 0600
        try:
            save(tensors, temporary, {METADATA_KEY: text, DIGEST_KEY: _digest(tensors, text)})
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error}): free some space and run again") from None
        os.chmod(temporary, mode)


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and its metadata ({} in a file of another program).

    Those that it shares with another network's file (shared_with) are read from there. Raises UserError for a file that
    is missing, cut short, damaged or something else. Files of other programs have no digest: damage may go unnoticed.
    """
    path = existing(path)
    tensors, told = _read(path)
    about = _about(path, told)
    return tensors | _shared_tensors(path, about.get("shared")), about


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is in this file alone, after its digest was checked: copies, since the library's tensors are the file, and
    would change, or end the process, with it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
            told = file.metadata() or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _not_whole(path, error) from None
    if DIGEST_KEY in told and told[DIGEST_KEY] != _digest(tensors, told.get(METADATA_KEY, "{}")):
        raise UserError(f"{path}: damaged: its SHA-256 does not match the one stored in it: make or fetch it again")
    return tensors, told


def _shared_tensors(path: Path, shared: dict[str, Any] | None) -> dict[str, Tensor]:
    if not shared:
        return {}
    other = existing(os.path.normpath(path.parent / shared["file"]))
    tensors, told = _read(other)
    if told.get(DIGEST_KEY) != shared["digest"] or not tensors.keys() >= {*shared["tensors"]}:
        raise UserError(f"{path}: shares weights with {other}, which is another file now: fetch both again")
    return {name: tensors[name] for name in shared["tensors"]}


def shared_with(tensors: Mapping[str, Tensor], path: Path, other: Path) -> dict[str, Any] | None:
    """What to say in the metadata, under "shared", of a network's file that leaves out what `other` has: see Shared.

    tensors: of the network that is to be written to `path`. None where not one of them is the same in `other`, the file
    of another network in a folder beside that of `path`.
    """
    theirs, told = _read(existing(other))
    names = sorted(name for name, value in tensors.items() if name in theirs and torch.equal(value, theirs[name]))
    file = os.path.relpath(other, path.parent)
    return {"file": file, "digest": told[DIGEST_KEY], "tensors": names} if names else None


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Only the metadata, as read_safetensors returns it, without reading the tensors or checking the digest."""
    path = existing(path)
    try:
        with safe_open(path, framework="np") as file:
            told = file.metadata() or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _not_whole(path, error) from None
    return _about(path, told)


def _not_whole(path: Path, error: Exception) -> UserError:
    if path.suffix != ".safetensors":
        return UserError(f"{path}: not a safetensors file; expected a network's file, as network.safetensors beside a "
                         "training's checkpoints is")
    return UserError(f"{path}: not a whole safetensors file ({_first_line(error)}): make or fetch it again")


def _about(path: Path, told: dict[str, str]) -> dict[str, Any]:
    about = checked(NetworkAbout, told.get(METADATA_KEY, "{}").encode(), path,
                    f"its {METADATA_KEY!r} metadata should be a JSON object as this program writes it: make or fetch "
                    "the file again")
    return about.model_dump(exclude_unset=True)


def _digest(tensors: Mapping[str, Tensor | np.ndarray], text: str) -> str:
    """SHA-256 over the metadata's text and each tensor's name, type, shape and bytes, by name."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"\n{name} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}\n".encode())
        if isinstance(value, Tensor):
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """A state dict from a .safetensors file or, without unpickling code, from a torch.save file. Raises UserError."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        state = load_torch_file(existing(path), "cpu")
    except UserError:
        raise
    except Exception as error:  # torch and pickle raise many kinds of errors for other or truncated files
        if isinstance(error, OSError) and error.filename:  # no permission, perhaps; a truncated file's has none
            raise
        raise UserError(f"{path}: not a whole PyTorch weights file ({_first_line(error)}): fetch it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, expected a state dict (names and tensors)")
    return state


def load_torch_file(path: Path, device: torch.device | str) -> Any:
    """The content of a torch.save file, checksums verified. Raises whatever zipfile, torch and pickle raise."""
    if zipfile.is_zipfile(path):  # else the format from before 2020, which has none
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
        if damaged:
            raise ValueError(f"{damaged} in it is damaged")
    return torch.load(path, map_location=device, weights_only=True)


def existing(path: Path | str) -> Path:
    """The path, if the file exists. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return Path(path)


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]
