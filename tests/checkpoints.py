"""A checkpoint's entries, for tests that do not train."""

from typing import Any

import torch


def content(**changes: Any) -> dict[str, Any]:
    """All that save_checkpoint takes, but for what changes."""
    return {"training": "stage1", "iteration": 2, "position": 8, "best": 0.5, "origin": "random numbers", "model": {},
            "descent": {"optimizer": {}, "rule": {}}, "random": torch.get_rng_state(), **changes}
