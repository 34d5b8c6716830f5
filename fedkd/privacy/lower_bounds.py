"""A lower bound of epsilon from many runs on either of two neighbours: an audit of a mechanism.

Milad Nasr, Jamie Hayes, Thomas Steinke, Borja Balle, Florian Tramèr, Matthew Jagielski, Nicholas
Carlini, Andreas Terzis. "Tight Auditing of Differentially Private Machine Learning". USENIX
Security 2023. https://arxiv.org/abs/2302.07956

The scoring is fixed here, before any figure is made: a release is projected onto the difference of
the pair, even runs choose the threshold, odd runs are counted at it. To choose after looking is to
find what one looks for.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedkd.privacy.accounting import check_delta

QUANTILES = np.linspace(0.02, 0.98, 49)  # of the runs that choose, where thresholds are tried
FEWEST = 20  # runs of either kind

Scores = npt.NDArray[np.float64]


class LowerBound(NamedTuple):
    """What two samples of scores prove, each with the confidence asked for.

    Attributes:
        gaussian: epsilon, if the two are as hard to tell as two normal distributions: of Gaussian
            noise, and of compositions of much noise.
        clopper_pearson: epsilon, whatever the mechanism is. It takes many more runs to say much.
        mu: the distance of the two normal distributions that `gaussian` is made of.
    """

    gaussian: float
    clopper_pearson: float
    mu: float


def projected(releases: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Scores of releases (M, ...): along the direction from the first of a pair to the second.

    Raises:
        ValueError: the two are the same, so that no release can tell them.
    """
    direction = (second.double() - first.double()).flatten()
    if not direction.any():
        raise ValueError("the two of the pair are the same; take one that a client can move")
    scores: Tensor = releases.double().flatten(1) @ (direction / direction.norm())
    return scores


def lower_bound(first: Tensor, second: Tensor, delta: float, alpha: float = 0.001) -> LowerBound:
    r"""What scores (M,) of runs on one neighbour, and on the other, prove of epsilon.

        gaussian: mu = \Phi^{-1}(1 - FPR) - \Phi^{-1}(FNR), and epsilon of mu at delta
        clopper_pearson: ln max((1 - delta - FNR) / FPR, (1 - delta - FPR) / FNR)

    FPR and FNR are upper bounds (Clopper-Pearson), each at alpha / 2, of the share of the first
    above a threshold and of the second that is not. A bound of a right mechanism is above its
    epsilon in a share alpha of audits at most.

    Raises:
        ValueError: there are fewer than `FEWEST` runs of either kind, a score is not finite, delta
            is not between 0 and 1, or alpha is not.
    """
    check_delta(delta)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it has to be between 0 and 1, e.g. 0.001")
    a, b = _checked(first), _checked(second)
    thresholds = np.quantile(np.concatenate([a[::2], b[::2]]), QUANTILES)
    tried = _rates(a[::2], b[::2], thresholds, alpha)
    by_mu = thresholds[[_mu(*tried).argmax()]]
    by_ratio = thresholds[[_ratio(*tried, delta).argmax()]]
    mu = max(0.0, float(_mu(*_rates(a[1::2], b[1::2], by_mu, alpha))[0]))
    ratio = float(_ratio(*_rates(a[1::2], b[1::2], by_ratio, alpha), delta)[0])
    return LowerBound(_epsilon(mu, delta), ratio, mu)


def _checked(scores: Tensor) -> Scores:
    if scores.ndim != 1 or len(scores) < FEWEST:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}; expected (M,) of at least {FEWEST} runs"
        )
    if not scores.isfinite().all():
        raise ValueError("a score is not finite; a run that fails is no run")
    return scores.double().cpu().numpy()


def _rates(a: Scores, b: Scores, thresholds: Scores, alpha: float) -> tuple[Scores, Scores]:
    """Upper bounds of the false-positive and of the false-negative rate, at each threshold."""
    above, below = np.sort(a).searchsorted, np.sort(b).searchsorted
    return (
        _upper(len(a) - above(thresholds, side="right"), len(a), alpha / 2),
        _upper(below(thresholds, side="right"), len(b), alpha / 2),
    )


def _upper(count: npt.NDArray[np.intp], total: int, alpha: float) -> Scores:
    """Clopper and Pearson's upper bound of a rate; 1 where all are counted."""
    from scipy import stats  # it takes a while to load, and most runs are no audits

    bound = stats.beta.ppf(1 - alpha, count + 1, np.maximum(total - count, 1))
    return np.where(count == total, 1.0, bound)


def _mu(fpr: Scores, fnr: Scores) -> Scores:
    from scipy import stats

    distance: Scores = stats.norm.isf(fpr) - stats.norm.ppf(fnr)
    return distance


def _ratio(fpr: Scores, fnr: Scores, delta: float) -> Scores:
    odds = np.maximum((1 - delta - fnr) / fpr, (1 - delta - fpr) / fnr)
    return np.log(np.maximum(odds, 1.0))


def _epsilon(mu: float, delta: float) -> float:
    """Of two normal distributions so far apart; rounded down, so that nothing is claimed."""
    if mu < 1e-3:
        return 0.0
    from dp_accounting.pld import privacy_loss_distribution as pld

    losses = pld.from_gaussian_mechanism(
        1 / mu,
        pessimistic_estimate=False,
        value_discretization_interval=1e-3 * max(1.0, mu**2),
        use_connect_dots=False,
    )
    return float(losses.get_epsilon_for_delta(delta))
