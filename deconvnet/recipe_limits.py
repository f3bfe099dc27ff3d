"""What values a recipe may have: each key's own limits, and the rules for several keys together.

Limits are generous, far beyond what anyone uses, but they turn overflows, hours of waiting and terabytes of memory into
a one-line error.
"""

import dataclasses
import math
from typing import Any

from deconvnet.support.atomic import check_name
from deconvnet.support.errors import UsageError

Keys = dict[str, tuple[Any, dataclasses.Field[Any]]]  # by dotted name, as recipe_keys gives them

MOST_WEIGHTS = 1 << 33  # per network: 34 times Table 2's
MOST_PIXELS = 1 << 26  # per forward pass: 21 times the paper's 64 windows of 224 x 224
MOST_TEXT = 1 << 16  # characters per recipe file; a complete one has about 2,000
MOST_DEPTH = 20  # nesting of lists; reading time grows with its square
MOST_ALIASES = 20  # nested ones grow exponentially


def check_text(text: str) -> None:
    """Raises ValueError for YAML that would take hours or all memory to read; yaml's own errors for other faults."""
    import yaml

    if len(text) > MOST_TEXT:
        raise ValueError(f"longer than {MOST_TEXT:,} characters")
    depth = aliases = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"nested more than {MOST_DEPTH} deep")
        if aliases > MOST_ALIASES:
            raise ValueError(f"more than {MOST_ALIASES} aliases (*name)")


def check_values(keys: Keys, source: str) -> None:
    """Raises UsageError, which names source and key, for a value outside its limits or rules."""
    for name, (value, item) in keys.items():
        try:
            _check_list(value, item)
            for one in value if isinstance(value, list) else [value]:
                _check_one(one, **item.metadata)
        except ValueError as error:
            raise UsageError(f"{source}: recipe key {name} is {short(value)}; expected {error}") from None
    values = {name: value for name, (value, _) in keys.items()}
    for rule in (_check_network, _check_batches, _check_data):
        try:
            rule(values)
        except ValueError as error:
            raise UsageError(f"{source}: recipe {error}") from None


def short(value: Any) -> str:
    """A value as shown in an error."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters)"


def _check_list(value: Any, item: dataclasses.Field[Any]) -> None:
    """A list of numbers has as many as its default; one of names may have any number."""
    if not isinstance(value, list):
        return
    if any(isinstance(one, list | dict) for one in value):
        raise ValueError("a plain list, without lists in it")
    assert item.default_factory is not dataclasses.MISSING  # a list's default is made anew each time
    default = item.default_factory()
    if len(value) != len(default) and not isinstance(default[0], str):
        raise ValueError(f"{len(default)} numbers")


def _check_one(value: Any, choices: tuple[str, ...], least: float | None, most: float | None, **_: Any) -> None:
    if choices and value not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    if isinstance(value, str) and not (value.isprintable() and len(value) <= 200):
        raise ValueError("at most 200 printable characters")
    if least is not None and not value >= least:
        raise ValueError(f"at least {least:g}")
    if most is not None and not value <= most:
        raise ValueError(f"at most {most:g}" if isinstance(most, float) else f"at most {most}")


def _check_network(values: dict[str, Any]) -> None:
    side = values["network.input"]
    if side % 32:
        raise ValueError(f"key network.input is {side}; expected a multiple of 32")
    if values["windows.warp"] < side:
        raise ValueError(f"key windows.warp is {values['windows.warp']}; expected at least network.input ({side}), "
                         "which is cropped from it")
    for width, kernel, known, layers in (("network.width", side // 32, "network.input", 2),
                                         ("fcn.width", values["fcn.fc6_kernel"], "fcn.fc6_kernel", 1)):
        pool5, fc = 512 * values[width], 4096 * values[width]
        weights = layers * pool5 * fc * kernel**2 + fc**2  # fc6, its mirror image, and fc7: nearly all weights
        if weights > MOST_WEIGHTS:
            raise ValueError(f"keys {width} ({values[width]:g}) and {known} ({values[known]}) give a network of "
                             f"{weights:.3g} weights; expected at most {MOST_WEIGHTS:.3g}")


def _check_batches(values: dict[str, Any]) -> None:
    for part in (name.removesuffix(".micro_batch") for name in values if name.endswith(".micro_batch")):
        batch, passed = values[f"{part}.batch"], values[f"{part}.micro_batch"]
        if batch % passed:
            raise ValueError(f"key {part}.batch is {batch}; expected a multiple of {part}.micro_batch ({passed})")
    if values["network.batch_norm"] and values["train.micro_batch"] < 2:
        raise ValueError("key train.micro_batch is 1; expected at least 2: batch normalisation of fc6's single pixel "
                         "needs several windows")
    sides = {f"{name.partition('.')[0]}.micro_batch": name for name in values if name.endswith(".canvas")}
    for batch, side in {"train.micro_batch": "network.input", "bn_statistics.batch": "network.input",
                        "infer.window_batch": "network.input", **sides}.items():
        most = MOST_PIXELS // values[side] ** 2
        if values[batch] > most:
            raise ValueError(f"key {batch} is {values[batch]}; expected at most {most} inputs of {side} "
                             f"({values[side]}) at a time")


def _check_data(values: dict[str, Any]) -> None:
    for name in ("data.train_split", "data.val_split"):
        check_name(values[name], f"key {name}", "the name of a split list")
    classes = values["data.classes"]
    if not all(classes):
        raise ValueError("key data.classes has an empty name")
    if not 2 <= len(classes) <= 255 or len(set(classes)) < len(classes):
        raise ValueError("key data.classes needs 2 to 255 different names, background first")
