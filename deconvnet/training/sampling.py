"""The order in which a training sees its examples, class balance included [P 6.1].

What a training sees at position p (the p-th example since its start) depends on the seed and p alone, so a resumed
training continues with exactly the examples it would have seen.
"""

from collections.abc import Iterator

import numpy as np


def epoch_order(classes: np.ndarray, balance: str, seed: tuple[int, ...]) -> np.ndarray:
    """The dataset indices of one epoch in random order.

    classes: each example's class. balance 'repeat' [P 6.1]: the examples of each class, in random order, are repeated
    until the class has as many as the most frequent one; so in an epoch all examples of a class occur equally often,
    give or take one.
    """
    random = np.random.default_rng(list(seed))
    if balance == "none":
        return random.permutation(len(classes))
    present, counts = np.unique(classes, return_counts=True)
    repeated = [np.resize(random.permutation(np.flatnonzero(classes == one)), counts.max()) for one in present]
    return random.permutation(np.concatenate(repeated))


def positions(classes: np.ndarray, balance: str, seed: tuple[int, ...], start: int,
              stop: int) -> Iterator[tuple[int, int]]:
    """(position, index) for positions start .. stop - 1 of an endless sequence of epochs."""
    epoch, order = -1, np.empty(0, np.int64)
    length = len(epoch_order(classes, balance, (*seed, 0)))
    for position in range(start, stop):
        if position // length != epoch:
            epoch = position // length
            order = epoch_order(classes, balance, (*seed, epoch))
        yield position, int(order[position % length])


class Batches:
    """A batch sampler over given (position, index) pairs."""

    def __init__(self, items: Iterator[tuple[int, int]] | list[tuple[int, int]], size: int) -> None:
        self.items, self.size = items, size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = []
        for item in self.items:
            batch.append(item)
            if len(batch) == self.size:
                yield batch
                batch = []
        if batch:
            yield batch
