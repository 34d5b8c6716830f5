"""Knowledge in how nodes lie to each other, all pairs or triplets of them: edges do not matter.

Time grows as the square or the cube of the nodes: draw some of them (`LossTerm.nodes`).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.losses.chunking import in_blocks
from graphkd.losses.embeddings import Map, embeddings, unit
from graphkd.losses.kernels import KERNELS, check_kernel, distances
from kdcore.losses import relation
from kdcore.outputs import Outputs


def distance(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Distance-wise relational distillation (RKD-D) between the embeddings of all pairs of nodes.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068. Equation and conventions: `kdcore.losses.relation.distance`.

    Time grows as N^2 D; memory as N D, beside one block of N columns.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 2; gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node, or N < 2.
    """
    s, t = embeddings(student, teacher, graph, least=2)
    mean_s, mean_t = _mean_distance(s), _mean_distance(t)

    def at(rows: slice, s: Tensor, mean_s: Tensor) -> Tensor:
        gap = distances(s[rows], s) / mean_s - distances(t[rows], t) / mean_t
        return F.huber_loss(gap, torch.zeros_like(gap), reduction="none").sum(-1)

    return in_blocks(at, len(s), len(s), s, mean_s) / (len(s) - 1)


def angle(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Angle-wise relational distillation (RKD-A) between the embeddings of all triplets of nodes.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068. Equation and conventions: `kdcore.losses.relation.angle`.

    Time grows as N^3 D; memory as N (N + D), beside one block of corners.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 3; gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node, or N < 3.
    """
    return relation.angle(*embeddings(student, teacher, graph, least=3))


def similarity_preserving(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Similarity-preserving distillation (SP) between the embeddings of all pairs of nodes.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    https://arxiv.org/abs/1907.09682. Equation: `kdcore.losses.relation.similarity_preserving`.

    Time grows as N^2 D; memory as N D, beside one block of N columns.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node.
    """
    s, t = embeddings(student, teacher, graph)

    def at(rows: slice, s: Tensor) -> Tensor:
        gap = unit(s[rows] @ s.mT) - unit(t[rows] @ t.mT)
        return gap.square().mean(-1)

    return in_blocks(at, len(s), len(s), s)


def global_structure(
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    kernel: str = "cosine",
    scale: float = 1.0,
) -> Tensor:
    r"""Global structure preserving (GSP): all pairwise similarities are those of the teacher.

    Joshi, Liu, Xun, Lin and Foo, "On Representation Knowledge Distillation for Graph Neural
    Networks", IEEE TNNLS 2022, https://arxiv.org/abs/2111.04964.

        value_i = 1/N \sum_j (K(t_i, t_j) - K(s_i, s_j))^2

    Convention: the mean over nodes is the paper's mean over the N^2 pairs, the diagonal included.
    The kernels are those of `local_structure`, see `graphkd.losses.kernels`: cosine and rbf (with
    scale 1) are the authors'; their polynomial kernel is the square of the cosine, their l2 the
    distance itself, where ours are the squares of inner product and distance.

    Time grows as N^2 D; memory as N D, beside one block of N columns.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); gives (N,), in squared units of the kernel.

    Raises:
        ValueError: a side shows no hidden state or not a row per node, the kernel is unknown, or
            the scale is not positive.
    """
    check_kernel(kernel, scale)
    s, t = embeddings(student, teacher, graph)
    return _similarity_gap(s, t, kernel, scale)


def structural_similarity(
    student: Outputs, teacher: Outputs, graph: Graph | Part, project: Map | None = None
) -> Tensor:
    r"""Representational similarity distillation (RSD): the similarity matrices of NOSMOG.

    Tian, Zhang, Guo, Zhang and Chawla, "Learning MLPs on Graphs: A Unified View of Effectiveness,
    Robustness, and Efficiency" (NOSMOG), ICLR 2023, https://arxiv.org/abs/2208.10010.

        value_i = 1/N \sum_j (t_i . t_j - g_i . g_j)^2,   g = project(s)

    Convention: the inner products are as they are, not normalised, so the value grows with the
    fourth power of the embeddings and the authors' weights run from 0.9 down to 1e-9. Their
    `project` is a learned linear map with ReLU and dropout, `projectors.rectified`; None leaves the
    student as it is. It is `global_structure` with the linear kernel.

    Time grows as N^2 D; memory as N D, beside one block of N columns.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); project: (N, D_s) -> (N, D), any D, learned with the
        student; gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node.
    """
    s, t = embeddings(student, teacher, graph, project)
    return _similarity_gap(s, t, "linear", 1.0)


def _similarity_gap(student: Tensor, teacher: Tensor, kernel: str, scale: float) -> Tensor:
    chosen = KERNELS[kernel]
    s, t = chosen.of(student), chosen.of(teacher)

    def at(rows: slice, s: Tensor) -> Tensor:
        gap = chosen.between(s[rows], s, scale) - chosen.between(t[rows], t, scale)
        return gap.square().mean(-1)

    return in_blocks(at, len(s), len(s), s)


def _mean_distance(rows: Tensor) -> Tensor:
    """The mean distance over the pairs that do not coincide; 1 if all do."""

    def at(some: slice, rows: Tensor) -> Tensor:
        found = distances(rows[some], rows)
        return torch.stack([found.sum(-1), (found > 0).sum(-1).to(found.dtype)], -1)

    total, count = in_blocks(at, len(rows), len(rows), rows).sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), 1)
