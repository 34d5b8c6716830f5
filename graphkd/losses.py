"""What a graph network teaches: each public function is a loss, one value per node.

Called as `loss(student, teacher, graph)`: the `Outputs` of both on the same N nodes, and the graph
of these nodes. The caller takes the mean. The teacher's side is detached. Losses on "the
embedding" take the last hidden state; widths may differ, since only relations are compared.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphkd import sparse
from graphkd.graph import Graph, Part
from graphkd.names import unknown
from knowledge import relation, response
from knowledge.outputs import Outputs

__all__ = ["angle", "distance", "local_structure", "similarity_preserving", "soft_labels"]

CHUNK = 2**16  # numbers held at a time where the ends of edges are compared: they stay in cache


def soft_labels(
    student: Outputs, teacher: Outputs, graph: Graph | Part, temperature: float = 1.0
) -> Tensor:
    r"""The teacher's class probabilities at every node: GLNN's loss.

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New Tricks via
    Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727; Hinton, Vinyals and Dean,
    "Distilling the Knowledge in a Neural Network", 2014, https://arxiv.org/abs/1503.02531.

        T^2 KL(softmax(teacher_i / T) || softmax(student_i / T))

    Convention: direction KL(teacher || student), T^2 included, summed over the classes. GLNN has
    T = 1. The graph is not looked at.

    Shapes:
        logits: (N, C) on both sides; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    return response.kl(student.logits, teacher.logits, temperature)


def local_structure(
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    kernel: str = "rbf",
    scale: float = 1.0,
) -> Tensor:
    r"""Local structure preserving (LSP): how a node's embedding resembles its neighbours'.

    Yang, Qiu, Song, Tao and Wang, "Distilling Knowledge from Graph Convolutional Networks", CVPR
    2020, https://arxiv.org/abs/2003.10477.

        value_i = \sum_{j in N(i)} LS^s_ij (\log LS^s_ij - \log LS^t_ij)
        LS_ij = exp K(h_i, h_j) / \sum_{k in N(i)} exp K(h_i, h_k)

        linear: h_i . h_j   polynomial: (h_i . h_j)^2   l2: -|h_i - h_j|^2
        rbf: exp(-|h_i - h_j|^2 / (2 scale))

    Convention: direction KL(student || teacher), as in the paper; N(i) without i itself; the mean
    is over nodes, not edges, so hubs do not dominate. l2 carries a minus sign, so that near
    neighbours are the similar ones; the paper writes it without. A node with at most one
    neighbour has no local structure and gives 0.

    Memory: some numbers per edge, never E D: 0.4 GB at the peak of both passes for 169,000 nodes,
    2.3 million edges and D = 64 in float32, where gathering both ends takes 6 GB.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); graph: N nodes, E edges; gives (N,), in nats.

    Raises:
        ValueError: a side shows no hidden state, the kernel is unknown, or the scale is not
            positive.
    """
    check_kernel(kernel, scale)
    s, t = _embeddings(student, teacher)
    log_s = _log_structure(s, graph, kernel, scale)
    log_t = _log_structure(t, graph, kernel, scale)
    per_edge = log_s.exp() * (log_s - log_t)
    return per_edge.new_zeros(len(s)).index_add(0, graph.edge_index[1], per_edge)


def distance(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Distance-wise relational distillation (RKD-D) between the embeddings of all pairs of nodes.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068. Equation and conventions: `knowledge.relation.distance`.

    Memory grows as N^2 D: draw some of the nodes (`Term.nodes`). The graph is not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 2; gives (N,).

    Raises:
        ValueError: a side shows no hidden state, or N < 2.
    """
    return relation.distance(*_embeddings(student, teacher))


def angle(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Angle-wise relational distillation (RKD-A) between the embeddings of all triplets of nodes.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068. Equation and conventions: `knowledge.relation.angle`.

    Time grows as N^3 D: draw some of the nodes (`Term.nodes`). The graph is not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 3; gives (N,).

    Raises:
        ValueError: a side shows no hidden state, or N < 3.
    """
    return relation.angle(*_embeddings(student, teacher))


def similarity_preserving(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Similarity-preserving distillation (SP) between the embeddings of all pairs of nodes.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    https://arxiv.org/abs/1907.09682. Equation: `knowledge.relation.similarity_preserving`.

    Memory grows as N^2: draw some of the nodes (`Term.nodes`). The graph is not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); gives (N,).

    Raises:
        ValueError: a side shows no hidden state.
    """
    return relation.similarity_preserving(*_embeddings(student, teacher))


# kernel -> whether it takes the squared distance of two embeddings, or else their inner product,
# and what it makes of that with the scale
KERNELS: dict[str, tuple[bool, Callable[[Tensor, float], Tensor]]] = {
    "linear": (False, lambda value, scale: value),
    "polynomial": (False, lambda value, scale: value.square()),
    "rbf": (True, lambda value, scale: (-value / (2 * scale)).exp()),
    "l2": (True, lambda value, scale: -value),
}


def check_kernel(kernel: str, scale: float) -> None:
    """Raise ValueError if `local_structure` has no such kernel or scale."""
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if not scale > 0:
        raise ValueError(f"scale is {scale}; the rbf kernel needs a positive one, such as 1")


def _log_structure(h: Tensor, graph: Graph | Part, kernel: str, scale: float) -> Tensor:
    """Log LS of every edge, (E,): a log-softmax over the edges into each node."""
    source, target = graph.edge_index
    squared, shape = KERNELS[kernel]
    score = shape(_PerEdge.apply(h, source, target, squared), scale)
    top = torch.full_like(h[:, 0], -torch.inf).scatter_reduce(0, target, score.detach(), "amax")
    score = score - top[target]
    total = h.new_zeros(len(h)).index_add(0, target, score.exp())
    return score - total.log()[target]


class _PerEdge(torch.autograd.Function):
    """The inner product or squared distance of the ends of every edge, without E D numbers.

    With G the matrix that holds an edge's gradient at both of its places, the gradient is G h for
    inner products, and 2 (G 1 h - G h) for squared distances.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, source: Tensor, target: Tensor, squared: bool) -> Tensor:
        ctx.save_for_backward(h, source, target)
        ctx.squared = squared
        size = max(1, CHUNK // max(1, h.shape[1]))
        values = []
        for j, i in zip(source.split(size), target.split(size), strict=True):
            both = (h[j] - h[i]).square() if squared else h[j] * h[i]
            values.append(both.sum(-1))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        h, source, target = ctx.saved_tensors
        row, column = torch.cat([source, target]), torch.cat([target, source])
        value = upstream[0].repeat(2)
        product = sparse.rows(row, column, value, len(h)).times(h)
        if ctx.squared:
            total = h.new_zeros(len(h), 1).index_add(0, row, value[:, None])
            product = 2 * (total * h - product)
        return product, None, None, None


def _embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    for side, outputs in (("student", student), ("teacher", teacher)):
        if not outputs.hidden:
            raise ValueError(
                f"the {side} shows no hidden state, which this loss compares: take a network with "
                "2 layers or more"
            )
    return student.hidden[-1], teacher.hidden[-1].detach()
