"""What several test files need: the real VOC subset where there is one, and threads kept few."""

import os
import signal
from pathlib import Path

import cv2
import pytest
import torch

SUBSET = Path(__file__).resolve().parents[2] / "shared" / "data" / "VOCdevkit" / "VOC2012"

# In a shell's background SIGINT is ignored, under nohup SIGHUP; what a test starts would ignore them too.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

torch.set_num_threads(1)  # the tests run one process a core
cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def voc_subset() -> Path:
    """The real VOC subset beside the checkout; the tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("DECONVNET_VOC_SUBSET", SUBSET))
    if not folder.is_dir():
        pytest.skip(f"no VOC subset at {folder}; DECONVNET_VOC_SUBSET names another place")
    return folder
