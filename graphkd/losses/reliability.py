"""Which of a teacher's labels can be relied on, and which edges they travel: what KRD draws.

Wu, Lin, Huang and Li, "Quantifying the Knowledge in GNNs for Reliable Distillation into MLPs",
ICML 2023, https://arxiv.org/abs/2306.05628.

    rho = unreliability(teacher on X, teacher on X + noise)         once
    kept = keep(rho, power, graph, generator)                       anew at each step
    losses.reliable_labels(student, teacher, graph, kept)
    power = momentum * power + (1 - momentum) * fit_power(rho, student and teacher agree)
"""

from math import exp, log

import torch
from torch import Generator, Tensor

from graphkd.graph import Graph, Part
from kdcore.losses.logarithms import negative_entropy
from kdcore.losses.precision import in_float32


@in_float32
def unreliability(logits: Tensor, noisy: Tensor) -> Tensor:
    r"""How much noise on its features changes the entropy of a node's label, at most 1.

        \rho_i = |H(softmax(noisy_i)) - H(softmax(logits_i))| / max_j |...|

    The authors draw one standard normal noise for each feature and have the teacher in evaluation
    mode. All 0 if noise changes nothing.

    Shapes:
        logits, noisy: (N, C), the teacher's on the features and on noisy ones; gives (N,).

    Raises:
        ValueError: the shapes differ or are not (N, C).
    """
    if logits.ndim != 2 or logits.shape != noisy.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, noisy ones {tuple(noisy.shape)}; expected "
            "(N, C) twice: the teacher on the same nodes with and without noise"
        )
    change = (_entropy(noisy.detach()) - _entropy(logits.detach())).abs()
    most = change.max() if len(change) else change.sum()
    return change / torch.where(most > 0, most, 1)


def keep(
    unreliable: Tensor, power: float, graph: Graph | Part, generator: Generator | None
) -> Tensor:
    r"""Draw the edges along which labels travel, each from j with probability 1 - \rho_j^power.

    Shapes:
        unreliable: (N,), 0 to 1; graph: N nodes, E edges; gives (E,), bool.

    Raises:
        ValueError: not a number from 0 to 1 for each node, or the power is not positive.
    """
    low, high = (float(unreliable.min()), float(unreliable.max())) if len(unreliable) else (0, 0)
    if unreliable.shape != (graph.num_nodes,) or not (low >= 0 and high <= 1):
        raise ValueError(
            f"unreliable has shape {tuple(unreliable.shape)} and runs from {low:g} to {high:g}; "
            f"expected a number from 0 to 1 for each of {graph.num_nodes} nodes, see unreliability"
        )
    if not power > 0:
        raise ValueError(f"power is {power}; expected a positive one, such as 1")
    source = graph.edge_index[0]
    drawn = torch.rand(len(source), generator=generator, dtype=torch.float64)
    likely = 1 - unreliable.double() ** power
    return drawn.to(source.device) < likely[source]


def fit_power(unreliable: Tensor, agree: Tensor, bins: int = 50) -> float:
    r"""The power a for which 1 - \rho^a describes best how often student and teacher agree.

    The nodes fall into bins by \rho; the share of nodes that agree in each bin, scaled to run from
    0 to 1, is fitted at the middle of the bin by least squares. Empty bins have no say. Where
    there are no two bins of different shares, the power is 1.

    Convention: the middle of a bin is right for any number of bins; the authors' code takes for
    50 bins the middles of 10.

    Shapes:
        unreliable: (N,), 0 to 1; agree: (N,), bool.

    Raises:
        ValueError: the shapes differ.
    """
    if unreliable.shape != agree.shape:
        raise ValueError(
            f"unreliable has shape {tuple(unreliable.shape)} and agree {tuple(agree.shape)}; "
            "expected a value of each for the same N nodes"
        )
    place = (unreliable * bins).long().clamp(max=bins - 1).cpu()
    total = torch.bincount(place, minlength=bins)
    agreed = torch.bincount(place, agree.double().cpu(), minlength=bins)
    share = agreed[total > 0] / total[total > 0]
    middle = (torch.arange(bins)[total > 0] + 0.5) / bins
    if not len(share) or share.min() == share.max():
        return 1.0
    share = (share - share.min()) / (share.max() - share.min())
    x, y = middle.double().numpy(), share.numpy()
    # By its logarithm and within bounds: the best power may be very small or very large.
    from scipy.optimize import minimize_scalar  # late: this loss alone needs it

    fitted = minimize_scalar(
        lambda power: ((1 - x ** exp(power) - y) ** 2).sum(),
        bounds=(log(1e-3), log(1e3)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(exp(fitted.x))


def _entropy(logits: Tensor) -> Tensor:
    return -negative_entropy(logits.log_softmax(-1))
