"""The ensemble of two networks (section 5.2), and softmax."""

import numpy as np
import torch


def softmax(scores: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 C x H x W, of scores C x H x W."""
    return torch.softmax(torch.from_numpy(np.asarray(scores, np.float32)), dim=0).numpy()


def ensemble(scores: np.ndarray, partner: np.ndarray, rule: str) -> np.ndarray:
    """Class probabilities of the two networks together, from their scores (C x H x W): DeconvNet's and FCN's, say.

    rule: 'mean' of the two probability maps [P 5.2]; 'product': softmax of scores * max(0, the partner's scores) [R].
    """
    if scores.shape != partner.shape:
        raise ValueError(f"score maps of different shapes: {scores.shape} and {partner.shape}")
    if rule == "mean":
        total = softmax(scores)
        total += softmax(partner)
        total /= 2
        return total
    product = np.maximum(0, np.asarray(partner, np.float32))
    product *= np.asarray(scores, np.float32)
    return softmax(product)
