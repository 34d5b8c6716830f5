"""Knowledge in the embedding itself: its values, and where it is large."""

from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.losses.embeddings import Map, check_widths, embeddings, unit
from kdcore.outputs import Outputs


def hint(
    student: Outputs, teacher: Outputs, graph: Graph | Part, project: Map | None = None
) -> Tensor:
    r"""FitNets' hint: a learned regression of the teacher's embedding on the student's.

    Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR
    2015, https://arxiv.org/abs/1412.6550.

        value_i = 1/2 |project(s_i) - t_i|^2

    Convention: summed over the D_t features, the teacher's side as it is. Joshi et al. (2022)
    project both sides, scale the rows to length 1 and take the mean over features.

    Memory grows as N D_t. The graph's edges are not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); project: (N, D_s) -> (N, D_t), such as
        `learned.regressor`, learned with the student, None leaves it as it is; gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node, or the widths differ after
            the projection.
    """
    s, t = embeddings(student, teacher, graph, project)
    check_widths(s, t)
    return 0.5 * (s - t).square().sum(-1)


def attention_transfer(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    r"""Attention transfer (AT): the nodes at which the embedding is large.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017,
    https://arxiv.org/abs/1612.03928; for nodes instead of pixels: Joshi, Liu, Xun, Lin and Foo,
    "On Representation Knowledge Distillation for Graph Neural Networks", IEEE TNNLS 2022,
    https://arxiv.org/abs/2111.04964.

        value_i = N (q^s_i - q^t_i)^2,   q_i = a_i / \sqrt{\sum_j a_j^2},   a_i = |h_i|^2

    Convention: the mean over the nodes is the squared distance of the two maps of length 1, which
    is at most 2 whatever N. The authors of the graph version take the mean over the nodes
    instead, so that theirs is 1/N of ours and weights of 1e3 to 1e5 go with it. An embedding of
    zeros has a map of zeros.

    Memory grows as N D. The values belong to all nodes together. Edges are not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t); gives (N,).

    Raises:
        ValueError: a side shows no hidden state or not a row per node.
    """
    s, t = embeddings(student, teacher, graph)
    return len(s) * (unit(s.square().sum(-1)) - unit(t.square().sum(-1))).square()
