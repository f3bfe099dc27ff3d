"""What is installed on this machine, for records, and so that machines which work together see that it is the same."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "opencv-contrib-python", "pydensecrf2", "numpy", "scipy", "h5py")
OURS = ("deconvnet", "proposals", "crf")  # whose code works on images
ROOT = Path(__file__).resolve().parents[2]


def code_hash(root: Path) -> str:
    """A hash over this project's code in a folder: a checkout, or where pip puts packages."""
    found = hashlib.blake2b(digest_size=6)
    for path in sorted(path for package in OURS for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return found.hexdigest()


@cache
def installation() -> dict[str, str]:
    """By name: this project's code, as a hash, and the versions of libraries (not for which GPU they were built)."""
    return {"this project's code": code_hash(ROOT), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "missing"


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    return ", ".join(f"{name} {theirs.get(name, 'missing')}, not {wanted}" for name, wanted in ours.items()
                     if theirs.get(name) != wanted)
