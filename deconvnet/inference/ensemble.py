"""The ensemble of two networks (section 5.2), and softmax."""

import numpy as np
import torch


def softmax(scores: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 C x H x W, of scores C x H x W."""
    return torch.softmax(torch.from_numpy(np.asarray(scores, np.float32)), dim=0).numpy()


def ensemble(deconvnet: np.ndarray, fcn: np.ndarray, rule: str) -> np.ndarray:
    """Class probabilities of the two networks together, from their scores (C x H x W).

    rule: 'mean' of the two probability maps [P 5.2]; 'product': softmax of scores * max(0, FCN's scores) [R].
    """
    if deconvnet.shape != fcn.shape:
        raise ValueError(f"score maps of different shapes: {deconvnet.shape} and {fcn.shape}")
    if rule == "mean":
        total = softmax(deconvnet)
        total += softmax(fcn)
        total /= 2
        return total
    product = np.maximum(0, np.asarray(fcn, np.float32))
    product *= np.asarray(deconvnet, np.float32)
    return softmax(product)
