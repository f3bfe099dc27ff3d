"""What runs on a Ray cluster's machines: an actor that opens the work once, and then does item after item."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import cv2

from deconvnet.support.engines import Work, attempt
from deconvnet.support.errors import UserError
from deconvnet.support.installation import difference, installation


class Worker:
    """The work in a process of the cluster."""

    def open(self, work: Work[Any, Any], folder: str, installed: Mapping[str, str]) -> UserError | None:
        """Opens the work, in the folder that the command was called in; the error for which it cannot be opened.

        installed: the command's installation.
        """
        if differs := difference(installation(), installed):
            return installed_otherwise(f"{os.uname().nodename} has {differs}")
        try:
            os.chdir(folder)  # so that paths mean here what they mean to the command
        except OSError as error:
            return UserError(f"{folder}: not there on the cluster's machine {os.uname().nodename} ({error.strerror}): "
                             "run the command in a folder that all machines share")
        self.work, self.told = work, _Told()
        logging.getLogger().addHandler(self.told)
        cv2.setNumThreads(1)
        try:
            work.open()
        except UserError as error:
            return error
        return None

    def run(self, item: Any) -> tuple[Any, list[str]]:
        """An item's result or error, and what was warned of meanwhile."""
        return attempt(self.work, item), self.told.taken()


def installed_otherwise(why: str) -> UserError:
    """The error of a machine that is not as the one that the command runs on."""
    return UserError(f"a machine of the cluster cannot do this command's work ({why}): install this project on every "
                     "machine in the same version, with the same libraries")


class _Told(logging.Handler):
    """Keeps warnings, so that the command can log them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self.lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """Those since it was last asked."""
        lines, self.lines = self.lines, []
        return lines
