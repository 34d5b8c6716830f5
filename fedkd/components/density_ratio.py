"""How likely an input is among a client's own, next to being anywhere: a ratio of densities."""

import numpy as np
import torch
from torch import Tensor

AUXILIARY = 250  # points anywhere, as in the code of Selective-FD


def density_ratio(
    own: Tensor, there: Tensor, asked: Tensor, low: Tensor, high: Tensor, width: float
) -> Tensor:
    r"""Kernel-based unconstrained least-squares importance fitting (KuLSIF), in closed form.

    Takafumi Kanamori, Taiji Suzuki, Masashi Sugiyama. "Statistical Analysis of Kernel-Based
    Least-Squares Density-Ratio Estimation". Machine Learning 2012.
    https://doi.org/10.1007/s10994-011-5266-3

        r(z) = \sum_i \alpha_i k(z, u_i) + 1/(m \lambda) \sum_j k(z, x_j),
        \alpha = -(K / n + \lambda I)^{-1} K_{ux} 1 / (n m \lambda),    \lambda = n^{-1/2}

    of m own inputs x_j and n points u_i, uniform between two bounds in each coordinate, with
    k(a, b) = exp(-|a - b|^2 / 2 width^2). The points are always the same.

    Shapes:
        own: (M, D), of which count those that are `there`, (M,) of 0 and 1; asked: (Q, D); low,
        high: (); gives (Q,).
    """
    count, shrink = AUXILIARY, AUXILIARY**-0.5
    drawn = np.random.default_rng(0).random((count, own.shape[-1]))
    points = low + (high - low) * torch.from_numpy(drawn).to(own)
    members = there.sum().clamp(min=1)
    unit = torch.eye(count, dtype=own.dtype, device=own.device)
    matrix = _kernel(points, points, width) / count + shrink * unit
    right = _kernel(points, own, width) @ there / (count * members * shrink)
    alpha = -torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)
    near = _kernel(asked, own, width) @ there / (members * shrink)
    ratio: Tensor = _kernel(asked, points, width) @ alpha + near
    return ratio


def masked_quantile(values: Tensor, there: Tensor, share: float) -> Tensor:
    """The quantile of those values that are there, between two of them; -inf of none.

    Shapes:
        values, there: (M,); gives ().
    """
    last = (there.sum() - 1).clamp(min=0)
    ordered = values.masked_fill(there == 0, torch.inf).sort().values
    place = share * last
    below = place.floor().long().unsqueeze(0)
    above = torch.minimum(below + 1, last.long().unsqueeze(0))
    first, second = ordered.gather(0, below), ordered.gather(0, above)
    between = first + (place - below) * (second - first)
    return torch.where(there.sum() > 0, between, -torch.inf).squeeze(0)


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    squares = a.square().sum(dim=-1, keepdim=True) + b.square().sum(dim=-1) - 2 * a @ b.mT
    return (-squares.clamp(min=0) / (2 * width**2)).exp()
