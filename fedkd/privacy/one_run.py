"""A lower bound of epsilon from one run on many canaries, each in it by the toss of a coin.

Thomas Steinke, Milad Nasr, Matthew Jagielski. "Privacy Auditing with One (1) Training Run". NeurIPS
2023. https://arxiv.org/abs/2305.08846

It is what can be had where a run is dear. What it cannot see: a canary moves one run by one part in
many, so a mechanism with half of its noise often passes; noise that is missing altogether does not.
`fedkd.privacy.lower_bounds` takes many runs, and sees far more.
"""

import numpy as np
from torch import Tensor

from fedkd.privacy.accounting import check_delta

GUESSED = 0.25  # of the canaries are guessed, half of them in: fixed before any figure is made
LARGEST = 100.0  # epsilon that is looked for


def lower_bound(out: Tensor, inside: Tensor, delta: float, alpha: float = 0.05) -> float:
    """What the scores of canaries that were left out (M,), and of those inside (N,), prove.

    The eighth with the highest scores is guessed to be inside, that with the lowest to be out; the
    others are not guessed. The bound is the largest epsilon under which so many right guesses, or
    more, have a chance below alpha.

    Raises:
        ValueError: there are fewer than 8 canaries, a score is not finite, delta is not between 0
            and 1, or alpha is not.
    """
    check_delta(delta)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it has to be between 0 and 1, e.g. 0.05")
    scores = np.concatenate([out.double().numpy(), inside.double().numpy()])
    if len(scores) < 8 or not np.isfinite(scores).all():
        raise ValueError(f"{len(scores)} canaries; expected 8 or more, with finite scores")
    half = int(GUESSED / 2 * len(scores))
    order = scores.argsort(kind="stable")
    is_in = np.arange(len(scores)) >= len(out)
    right = int((~is_in[order[:half]]).sum() + is_in[order[-half:]].sum())
    return proved(len(scores), 2 * half, right, delta, alpha)


def proved(canaries: int, guesses: int, right: int, delta: float, alpha: float) -> float:
    """The largest epsilon that so many right guesses refute; 0 where they refute none."""
    low, high = 0.0, LARGEST
    if chance(canaries, guesses, right, low, delta) >= alpha:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        refuted = chance(canaries, guesses, right, middle, delta) < alpha
        low, high = (middle, high) if refuted else (low, middle)
    return low


def chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    r"""An upper bound of the chance of so many right guesses, or more, under (epsilon, delta).

    P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i, where W ~ Binomial(r, 1 / (1 + e^-epsilon)),
    of m canaries, r guesses and v of them right.
    """
    from scipy import stats  # it takes a while to load, and most runs are no audits

    share = 1 / (1 + np.exp(-epsilon))
    tail = stats.binom.sf(right - 1, guesses, share)
    below = stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, share).cumsum()
    most = (below / np.arange(1, right + 1)).max() if right else 0.0
    return float(min(1.0, tail + 2 * canaries * delta * most))
