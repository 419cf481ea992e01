"""A source of text of known entropy: every letter depends on the two before it."""

from bisect import bisect

import numpy as np

from engine.data.values import Array

LETTERS = " abcdefghijk"
CONCENTRATION = 0.1


def transitions(seed: int) -> Array:
    """Chances of each letter after each two, shape (n_letters, n_letters, n_letters), drawn from a Dirichlet law."""
    n = len(LETTERS)
    chances: Array = np.random.default_rng((seed, 0)).dirichlet(np.full(n, CONCENTRATION), size=(n, n))
    return 0.99 * chances + 0.01 / n


def sample(seed: int, length: int) -> str:
    """A text of that source, which starts after two spaces."""
    limits = transitions(seed).cumsum(axis=2)[:, :, :-1].tolist()
    first, second, text = 0, 0, []
    for draw in np.random.default_rng((seed, 1)).random(length).tolist():
        first, second = second, bisect(limits[first][second], draw)
        text.append(LETTERS[second])
    return "".join(text)
