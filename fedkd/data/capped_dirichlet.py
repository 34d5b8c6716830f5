"""Dirichlet partitions as public code draws them: whoever has its part of all gets no more.

For each label in turn the shares are a draw from Dir(alpha, ..., alpha) among those clients that
have fewer than N / K examples so far; which began in
https://github.com/IBM/probabilistic-federated-neural-matching. Sizes so differ less than those of
`fedkd.data.partition.dirichlet`, and labels are less skewed: whose turn is late gets what is left.
"""

import torch
from torch import Tensor

from fedkd.data.checks import enough
from fedkd.data.proportions import check_alpha, log_shares

ATTEMPTS = 1000
ROUNDING = 1e-9  # shares that sum to one but for rounding leave no row to whoever has share 0
BLOCK = 10  # clients among whom FedDF deals out at once


def dirichlet_min(
    labels: Tensor, clients: int, generator: torch.Generator, alpha: float = 0.1
) -> list[Tensor]:
    """Capped Dirichlet draws, repeated until every client has a least size, as in HtFLlib.

    Jianqing Zhang and others. "HtFLlib: A Comprehensive Heterogeneous Federated Learning Library
    and Benchmark". 2025. https://github.com/TsingZ0/HtFLlib (and PFLlib), partition `dir`. The
    least size is theirs, min(10 / (1 - 0.75), N / 2K) rounded down: a batch of ten for the test
    part, or half of an equal part.

    Args:
        labels: (N,).
        clients: K.
        generator: of the proportions and the order.
        alpha: concentration, > 0; 0.1 there.

    Raises:
        ValueError: alpha out of range, too few examples, or no draw in a thousand with parts of
            the least size (there it is drawn for ever).
    """
    labels = enough(labels, clients)
    check_alpha(alpha)
    least = min(40, len(labels) // (2 * clients))
    return _drawn(torch.arange(len(labels)), labels, clients, generator, alpha, least)


def dirichlet_balanced(
    labels: Tensor, clients: int, generator: torch.Generator, alpha: float = 0.1
) -> list[Tensor]:
    """Capped Dirichlet draws in blocks of ten clients, cut again into equal parts, as in FedDF.

    Tao Lin, Lingjing Kong, Sebastian Stich, Martin Jaggi. "Ensemble Distillation for Robust Model
    Fusion in Federated Learning". NeurIPS 2020. https://arxiv.org/abs/2006.07242, and its code
    https://github.com/epfml/federated-learning-public-code, `non_iid_dirichlet`. All examples are
    shuffled and cut into a block for every ten clients (the last may be of fewer). In a block draws
    are repeated until each client has half of an equal part. All blocks in a row are then cut into
    K parts of equal size, so that a client's last examples may be of its neighbour's draw.

    There up to K - 1 examples are left over and out; here the first few clients have one more.
    There K is at least ten; here fewer clients are one block.

    Args:
        labels: (N,).
        clients: K.
        generator: of the proportions and the order.
        alpha: concentration, > 0; 0.01 to 100 there.

    Raises:
        ValueError: alpha out of range, too few examples, or no draw in a thousand with parts of
            half the equal size (there it is drawn for ever).
    """
    labels = enough(labels, clients)
    check_alpha(alpha)
    order = torch.randperm(len(labels), generator=generator)
    dealt: list[Tensor] = []
    for first in range(0, clients, BLOCK):
        many = min(BLOCK, clients - first)
        size = BLOCK * len(labels) // clients
        start = first // BLOCK * size
        rows = order[start : start + size] if first + many < clients else order[start:]
        least = len(rows) // (2 * many)
        dealt += _drawn(rows, labels[rows], many, generator, alpha, least)
    return list(torch.cat(dealt).tensor_split(clients))


def _drawn(
    rows: Tensor,
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    alpha: float,
    least: int,
) -> list[Tensor]:
    """Rows (M,) with these labels (M,) in parts of at least so many."""
    by_label = [rows[labels == label] for label in labels.unique(sorted=True)]
    most = 0
    for _ in range(ATTEMPTS):
        parts = _capped(by_label, clients, generator, alpha)
        smallest = min(map(len, parts))
        if smallest >= max(least, 1):
            return parts
        most = max(most, smallest)
    raise ValueError(
        f"in {ATTEMPTS} draws with alpha {alpha:g} no one gave each of {clients} clients {least} "
        f"examples or more ({most} at best); take a larger alpha, fewer clients, or the partition "
        "dirichlet"
    )


def _capped(
    by_label: list[Tensor], clients: int, generator: torch.Generator, alpha: float
) -> list[Tensor]:
    """One draw: of each label in turn, shares among those with less than an equal part of all."""
    count = sum(map(len, by_label))
    sizes = torch.zeros(clients, dtype=torch.long)
    pieces: list[tuple[Tensor, ...]] = []
    for rows in by_label:
        full = sizes * clients >= count
        shares = log_shares(clients, alpha, generator).masked_fill(full, -torch.inf).softmax(dim=0)
        cuts = (shares.cumsum(dim=0)[:-1] * len(rows) + ROUNDING).long()
        order = torch.randperm(len(rows), generator=generator)
        pieces.append(rows[order].tensor_split(cuts.tolist()))
        sizes += torch.tensor([len(piece) for piece in pieces[-1]])
    return [torch.cat(part) for part in zip(*pieces, strict=True)]
