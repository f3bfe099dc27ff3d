"""Small proposals and windows files for tests, as stages.build_proposals describes them."""

from typing import Any

from deconvnet.conventions import VOC_CLASSES


def attributes(kind: str, **changes: Any) -> dict[str, Any]:
    """All attributes of a file of 'proposals' or 'windows' (stage 1), but for what changes."""
    own = {"edges": "gradient-v1"} if kind == "proposals" else {"stage": 1}
    return {"format": kind, "split": "train", "fingerprint": "0123456789abcdef", "classes": VOC_CLASSES,
            "shaped_by": {"windows.enlarge": 1.2}, "recipe": {}, **own, **changes}
