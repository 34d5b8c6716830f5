"""Knowledge as information: which of all nodes is the one that the teacher sees?

Both losses are InfoNCE, van den Oord, Li and Vinyals, "Representation Learning with Contrastive
Predictive Coding", 2018, https://arxiv.org/abs/1807.03748: every other node is a negative, and

    I(student; teacher) >= log N - mean of the values

The bound cannot exceed log N. It is one on the mutual information if the nodes are drawn
independently and have not been trained on: on the training nodes it is a loss and no estimate.
"""

import math

from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.losses.chunking import in_blocks
from graphkd.losses.embeddings import Map, check_widths, embeddings, unit
from kdcore.losses.numerics import check_temperature
from kdcore.outputs import Outputs


def contrastive(
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    project: Map | None = None,
    project_teacher: Map | None = None,
    temperature: float = 0.1,
) -> Tensor:
    r"""Contrastive representation distillation (G-CRD): a node's two embeddings find each other.

    Joshi, Liu, Xun, Lin and Foo, "On Representation Knowledge Distillation for Graph Neural
    Networks", IEEE TNNLS 2022, https://arxiv.org/abs/2111.04964.

        value_i = -\log (exp(\cos(g_i, f_i) / T) / \sum_j exp(\cos(g_i, f_j) / T))
        g = project(s),   f = project_teacher(t)

    Convention: the softmax runs over the teacher's nodes j, the positive included. The negatives
    are all other nodes of the call: `LossTerm.nodes` draws them. Not 0 where the student is the
    teacher, but near it where T is small. The projection of the teacher's side learns too, the
    teacher does not. Joshi et al. have T from 0.05 to 0.1 and `projectors.heads` to 256 features.

    Time grows as N^2 D; memory as N D, beside one block of N columns. Edges are not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 2; project: (N, D_s) -> (N, D); project_teacher:
        (N, D_t) -> (N, D), None leaves a side as it is; gives (N,), in nats.

    Raises:
        ValueError: a side shows no hidden state or not a row per node, N < 2, the widths differ
            after the projections, or the temperature is not positive.
    """
    check_temperature(temperature, such_as=0.1)
    s, t = embeddings(student, teacher, graph, project, project_teacher, least=2)
    return _info_nce(unit(s) / temperature, unit(t))


def mutual_information(
    student: Outputs, teacher: Outputs, graph: Graph | Part, project: Map | None = None
) -> Tensor:
    r"""InfoNCE with a bilinear critic: raises a lower bound of the mutual information.

    Van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding",
    2018, https://arxiv.org/abs/1807.03748.

        value_i = -\log (exp(project(s_i) . t_i) / \sum_j exp(project(s_i) . t_j))
        I(s; t) >= log N - mean_i value_i

    see `information_bound`, and the module for when it holds. With `learned.regressor` as
    projection the critic is s_i^T W t_j + b . t_j. Not 0 where the student is the teacher.

    Time grows as N^2 D; memory as N D, beside one block of N columns. Edges are not looked at.

    Shapes:
        last hidden: (N, D_s) and (N, D_t), N >= 2; project: (N, D_s) -> (N, D_t), learned with
        the student, None leaves it as it is; gives (N,), in nats.

    Raises:
        ValueError: a side shows no hidden state or not a row per node, N < 2, or the widths
            differ after the projection.
    """
    return _info_nce(*embeddings(student, teacher, graph, project, least=2))


def information_bound(values: Tensor) -> Tensor:
    """The lower bound of the mutual information that these InfoNCE values prove, at most log N.

    Shapes:
        values: (N,), of either loss; gives one number, in nats.
    """
    return math.log(len(values)) - values.mean()


def _info_nce(student: Tensor, teacher: Tensor) -> Tensor:
    check_widths(student, teacher)

    def at(rows: slice, student: Tensor, teacher: Tensor) -> Tensor:
        scores = student[rows] @ teacher.mT
        return scores.logsumexp(-1) - scores.diagonal(rows.start)

    return in_blocks(at, len(student), len(student), student, teacher)
