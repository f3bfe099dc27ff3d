"""What is to be settled before torch is imported, or while it is."""

import gc
import os
import sys
from importlib import import_module
from types import ModuleType

SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}  # of the environment, read by OpenMP when torch loads it


def import_with_torch(name: str) -> ModuleType:
    """Imports a module that imports torch. Nothing is collected meanwhile: what modules make stays, and to look for
    garbage among it again and again takes a fifth of the second that torch needs.
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        if not gc.get_freeze_count():  # else a program has frozen what it has for its own reasons
            gc.freeze()
            gc.unfreeze()  # what was made is among the oldest objects now, which are looked at least often
        gc.enable()


def let_waiting_threads_sleep() -> None:
    """Torch's threads give their cores away when they wait for each other; by themselves they keep them busy for a
    while. For a command whose network works beside the CRF's processes (docs/speed.md); alone it is slower so.

    Without effect where torch was imported before; what the user has set stays.
    """
    for name, value in SLEEP.items():
        os.environ.setdefault(name, value)
