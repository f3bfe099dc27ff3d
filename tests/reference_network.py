"""DeconvNet's forward pass written plainly in NumPy, float64: the truth for deconvnet.models.deconvnet.

Written from the paper and Caffe's definitions of its layers, not from this project's network. Arrays are N x C x H x W.
"""

import numpy as np

BLOCKS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}  # convolutions of each block


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> np.ndarray:
    """out[o, y, x] = bias[o] + sum over i, ky, kx of weight[o, i, ky, kx] * in[i, y + ky - pad, x + kx - pad]."""
    side = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = padded.shape[2] - side + 1, padded.shape[3] - side + 1
    out = np.zeros((len(x), len(weight), height, width))
    for ky in range(side):
        for kx in range(side):
            seen = padded[:, :, ky : ky + height, kx : kx + width]
            out += np.einsum("oi,niyx->noyx", weight[:, :, ky, kx], seen)
    return out + bias[None, :, None, None]


def transposed_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> np.ndarray:
    """Each input adds weight[i, o, ky, kx] to the output at (y + ky - pad, x + kx - pad). weight: in x out x k x k."""
    side = weight.shape[2]
    height, width = x.shape[2:]
    out = np.zeros((len(x), weight.shape[1], height + side - 1, width + side - 1))
    for ky in range(side):
        for kx in range(side):
            out[:, :, ky : ky + height, kx : kx + width] += np.einsum("io,niyx->noyx", weight[:, :, ky, kx], x)
    return out[:, :, pad : out.shape[2] - pad, pad : out.shape[3] - pad] + bias[None, :, None, None]


def batch_norm(x: np.ndarray, state: dict[str, np.ndarray], name: str, eps: float, training: bool) -> np.ndarray:
    """training: with this batch's own mean and biased variance; else with the running ones."""
    if training:
        mean = np.array([x[:, channel].mean() for channel in range(x.shape[1])])
        variance = np.array([((x[:, channel] - mean[channel]) ** 2).mean() for channel in range(x.shape[1])])
    else:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    out = np.empty_like(x)
    for channel in range(x.shape[1]):
        normalised = (x[:, channel] - mean[channel]) / np.sqrt(variance[channel] + eps)
        out[:, channel] = normalised * state[f"{name}.weight"][channel] + state[f"{name}.bias"][channel]
    return out


def max_pooling(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2 x 2, stride 2: the maxima and their switches, N x C x H/2 x W/2 x 2 (row, column); the first of equals."""
    count, channels, height, width = x.shape
    out = np.zeros((count, channels, height // 2, width // 2))
    switches = np.zeros((*out.shape, 2), int)
    for n, c, y, x_ in np.ndindex(out.shape):
        best = -np.inf
        for row in (2 * y, 2 * y + 1):
            for column in (2 * x_, 2 * x_ + 1):
                if x[n, c, row, column] > best:
                    best = x[n, c, row, column]
                    switches[n, c, y, x_] = row, column
        out[n, c, y, x_] = best
    return out, switches


def unpooling(x: np.ndarray, switches: np.ndarray) -> np.ndarray:
    """Each value at its switch, zero elsewhere."""
    out = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    for n, c, y, x_ in np.ndindex(x.shape):
        row, column = switches[n, c, y, x_]
        out[n, c, row, column] = x[n, c, y, x_]
    return out


def forward(images: np.ndarray, state: dict[str, np.ndarray], eps: float, training: bool) -> np.ndarray:
    """The whole network; without BN where the state has none. state: the network's state dict as float64."""

    def layer(x: np.ndarray, operation, name: str, norm: str, pad: int) -> np.ndarray:
        x = operation(x, state[f"{name}.weight"], state[f"{name}.bias"], pad)
        if f"{norm}.weight" in state:
            x = batch_norm(x, state, norm, eps, training)
        return np.maximum(x, 0)

    x, switches = images, {}
    for block, count in BLOCKS.items():
        for i in range(1, count + 1):
            x = layer(x, convolution, f"conv{block}_{i}", f"bn{block}_{i}", 1)
        x, switches[block] = max_pooling(x)
    x = layer(x, convolution, "fc6", "bnfc6", 0)
    x = layer(x, convolution, "fc7", "bnfc7", 0)
    x = layer(x, transposed_convolution, "fc6_deconv", "fc6_deconv_bn", 0)
    for block in (5, 4, 3, 2, 1):
        x = unpooling(x, switches[block])
        for i in range(1, BLOCKS[block] + 1):
            x = layer(x, transposed_convolution, f"deconv{block}_{i}", f"debn{block}_{i}", 1)
    return convolution(x, state["seg_score_voc.weight"], state["seg_score_voc.bias"], 0)
