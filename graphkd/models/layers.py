"""What the layers of several networks share: dropout, linear maps, first products."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.graph import Graph
from graphkd.ops.sparse import Matrix
from kdcore.outputs import Outputs

LEVELS = 2**16  # of a draw that decides what is dropped: 16 bits, four to a random word


def rows(outputs: Outputs, index: Tensor | slice) -> Outputs:
    """The outputs at some of their rows."""
    return Outputs(outputs.logits[index], tuple(h[index] for h in outputs.hidden))


def dropout(h: Tensor, p: float, training: bool) -> Tensor:
    """Zero a share p of the numbers in training and scale the others up.

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: A Simple Way to Prevent
    Neural Networks from Overfitting", JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    Convention: p is rounded to a multiple of 1/65,536, since 16 random bits decide on a number.
    That is what makes it four times faster on a CPU than PyTorch's, which takes longer than the
    products of a graph network. It draws from torch's global stream, as PyTorch's does.
    """
    return h if p == 0 or not training else h * mask(h.shape, p, h)


def mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """The factors of dropout, 0 or about 1 / (1 - p), with the type and device of `like`."""
    return factors(draws(shape, like.device), p, like.dtype)


def draws(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform int16 from torch's global stream: the random part of `mask`."""
    count = torch.Size(shape).numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    return words.random_(-(2**63), None).view(torch.int16)[:count].view(shape)


def factors(drawn: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """The factors of dropout from these draws."""
    keep = min(max(round((1 - p) * LEVELS), 1), LEVELS - 1)
    return (drawn < keep - LEVELS // 2).to(dtype).mul_(LEVELS / keep)


def linear(
    h: Matrix | Tensor, weight: Tensor, bias: Tensor | None = None, nodes: Tensor | None = None
) -> Tensor:
    """The map h W^T + b on some rows of h: a sparse h is cut last, a dense one first."""
    if isinstance(h, Tensor):
        return F.linear(h if nodes is None else h[nodes], weight, bias)
    product = h @ weight.T
    product = product if nodes is None else product[nodes]
    return product if bias is None else product + bias


def first(graph: Graph, adjacency: str, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The first product of a network, A X W^T + b, with the adjacency of this name.

    Of dense features A X is worked out once for all epochs. Sparse ones would lose their zeros:
    there X W^T comes first.
    """
    if isinstance(graph.features, Tensor):
        return F.linear(getattr(graph, f"{adjacency}_features"), weight, bias)
    matrix: Matrix = getattr(graph, adjacency)
    product = matrix @ linear(graph.features, weight)
    return product if bias is None else product + bias


def shown(logits: Tensor, hidden: Iterable[Tensor], nodes: Tensor | None) -> Outputs:
    """What a network shows of some nodes, or of all, after it has run on all."""
    outputs = Outputs(logits, tuple(hidden))
    return outputs if nodes is None else rows(outputs, nodes)
