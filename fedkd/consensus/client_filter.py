"""Clients whose predictions lie apart from everybody's are left out."""

from typing import ClassVar

import torch
from torch import Tensor

from fedkd.consensus.rule import Rule
from fedkd.consensus.variance import Variance


class ClientFilter(Rule):
    r"""The mean of those who are left when outliers have gone: a filter on whole tables.

    After Hongyan Chang, Virat Shejwalkar, Reza Shokri, Amir Houmansadr. "Cronus: Robust and
    Heterogeneous Collaborative Learning with Black-Box Knowledge Transfer". 2019.
    https://arxiv.org/abs/1912.11279, whose filter is that of Ilias Diakonikolas, Gautam Kamath,
    Daniel Kane, Jerry Li, Ankur Moitra, Alistair Stewart. "Being Robust (in High Dimensions) Can Be
    Practical". ICML 2017. https://arxiv.org/abs/1703.00893

    Along the direction in which the predictions of those who are left vary most, u, each has a
    place s_k = <q_k, u>. Whoever is more than `apart` deviations (1.4826 times the median of
    |s_k - median(s)|) from the median goes, and it begins again, until nobody goes, or fewer than
    half would be left.

    Conventions: Cronus filters each example on its own, and so clients who alone know a class are
    outliers there; here a client is in or out with its whole table, in each round anew. The number
    of liars is not told: the deviations stand in the place of the paper's share. The score of a
    client is how many times it was left out.
    """

    each = True
    apart: ClassVar[float] = 6.0

    def clients(self, q: Tensor, outlying: Tensor) -> tuple[Tensor, Tensor]:
        """1 for those who are left, 0 for the others."""
        flat = q.flatten(1)
        products = (flat @ flat.T).cpu()
        kept = torch.ones(len(q), dtype=torch.bool)
        while True:
            fewer = kept & ~_outliers(products, kept, self.apart)
            if bool((fewer == kept).all()) or 2 * int(fewer.sum()) < len(q):
                break
            kept = fewer
        weights = kept.to(outlying)
        return weights, outlying + (1 - weights)


class FilteredVariance(ClientFilter, Variance):
    """The mean weighted by variance, of those whom the filter has left.

    `Variance` believes whoever is certain, and `ClientFilter` finds those who are so together; of
    two papers, the combination is ours. https://arxiv.org/abs/1912.11279
    """


def _outliers(products: Tensor, kept: Tensor, apart: float) -> Tensor:
    """Which of those kept lie apart, of the inner products (K, K) of all."""
    share = kept.to(products) / kept.sum()
    mean = products @ share
    centred = products - mean.unsqueeze(0) - mean.unsqueeze(1) + share @ mean
    values, vectors = torch.linalg.eigh(centred * kept.outer(kept))
    places = values[-1].clamp(min=0).sqrt() * vectors[:, -1]
    away = (places - places[kept].median()).abs()
    usual = 1.4826 * away[kept].median()
    nothing = 1e-7 * products.diagonal().max().sqrt()  # of equal tables, what rounding leaves
    outliers: Tensor = kept & (away > apart * usual + nothing)
    return outliers
