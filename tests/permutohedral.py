"""The permutohedral lattice filter (Adams, Baek, Davis, 2010) in plain NumPy, as a dense matrix: truth for the tests.

Written from the paper, with the two choices of the dense CRF's code: only the lattice points that some pixel touches
exist, and the result is scaled by 1 / (1 + 2^-d).
"""

import math

import numpy as np


def lattice_kernel(features: np.ndarray) -> np.ndarray:
    """The N x N matrix by which the lattice replaces exp(-|f_i - f_j|^2 / 2); features: float N x d."""
    count, d = features.shape
    corners: dict[tuple[int, ...], int] = {}
    splats = []
    for pixel in range(count):
        for corner, weight in enclosing_simplex(features[pixel]):
            splats.append((corners.setdefault(corner, len(corners)), pixel, weight))
    splat = np.zeros((len(corners), count))
    for row, pixel, weight in splats:
        splat[row, pixel] += weight

    blurred = splat.copy()
    for axis in range(d + 1):  # along each lattice direction: 1/2, 1, 1/2
        step = np.full(d + 1, -1)
        step[axis] = d
        before = blurred
        blurred = before.copy()
        for corner, row in corners.items():
            for neighbour in (tuple(np.add(corner, step)), tuple(np.subtract(corner, step))):
                if neighbour in corners:
                    blurred[row] += before[corners[neighbour]] / 2
    return splat.T @ blurred / (1 + 2.0**-d)


def enclosing_simplex(feature: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """The d + 1 lattice corners around a feature, with its barycentric weights."""
    d = len(feature)
    # onto the hyperplane sum = 0 of d + 1 dimensions, scaled so that the blur's deviation is 1
    scaled = [feature[i] * math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    point = np.array([sum(scaled)] + [sum(scaled[i + 1:]) - (i + 1) * scaled[i] for i in range(d)])
    # nearest corner of remainder 0: round each coordinate to a multiple of d + 1, then mend the sum
    nearest = np.round(point / (d + 1)).astype(int) * (d + 1)
    excess = nearest.sum() // (d + 1)
    order = np.argsort(nearest - point, kind="stable")  # the largest difference first; of equals the first
    rank = np.empty(d + 1, int)
    rank[order] = np.arange(d + 1)
    rank += excess
    nearest[rank < 0] += d + 1
    nearest[rank > d] -= d + 1
    rank %= d + 1
    difference = np.empty(d + 1)  # sorted, largest first
    difference[rank] = (point - nearest) / (d + 1)
    weights = [1 - difference[0] + difference[d]] + [difference[d - r] - difference[d + 1 - r] for r in range(1, d + 1)]
    corners = [tuple(int(v) for v in nearest + np.where(rank <= d - r, r, r - d - 1)) for r in range(d + 1)]
    return list(zip(corners, weights, strict=True))
