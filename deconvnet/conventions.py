"""The conventions that all modules share.

Images are RGB uint8, H x W x 3, until the last step before a network, which gets them minus MEAN_RGB, unscaled. Masks
and label maps are uint8, H x W; VOID means not labelled. Boxes and windows are int (x1, y1, x2, y2), 0-based,
half-open: x2 and y2 are exclusive. Scores and probabilities are float32, C x H x W. Caffe's BGR, OpenCV's (x, y, width,
height) and VOC's 1-based inclusive corners are converted where they are read.
"""

from pathlib import Path

import numpy as np

# Where no other is named.
DEFAULT_RUN = Path("runs/default")
DEFAULT_RECIPE = "tiny"
SYNTHETIC = Path("data/synthetic")  # a folder for each number of classes

PRETRAINED = Path(__file__).resolve().parent / "pretrained"  # a run folder; experiments.pretrained packs it
PACKED = {"deconvnet": "stage2", "fcn8s": "fcn8s"}  # network: its training's folder there; one of them or both

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()

VOID = 255

# ImageNet's mean as the release subtracts it, here in RGB order.
MEAN_RGB = np.array([122.675, 116.669, 104.008], np.float32)
