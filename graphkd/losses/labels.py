"""Knowledge in the teacher's class probabilities: at a node, and at its neighbours."""

from dataclasses import replace

import torch
from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.losses.chunking import in_blocks
from graphkd.losses.embeddings import check_rows
from kdcore.losses import response
from kdcore.losses.logarithms import negative_entropy, times_log
from kdcore.losses.numerics import check_temperature
from kdcore.losses.precision import in_float32
from kdcore.outputs import Outputs


@in_float32
def soft_labels(
    student: Outputs, teacher: Outputs, graph: Graph | Part, temperature: float = 1.0
) -> Tensor:
    r"""The teacher's class probabilities at every node: GLNN's loss.

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New Tricks via
    Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727; Hinton, Vinyals and Dean,
    "Distilling the Knowledge in a Neural Network", 2014, https://arxiv.org/abs/1503.02531.

        T^2 KL(softmax(teacher_i / T) || softmax(student_i / T))

    Convention: direction KL(teacher || student), T^2 included, summed over the classes. GLNN has
    T = 1. The graph's edges are not looked at.

    Shapes:
        logits: (N, C) on both sides; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    return response.kl(*_logits(student, teacher, graph, temperature), temperature)


@in_float32
def low_frequency(
    student: Outputs, teacher: Outputs, graph: Graph | Part, temperature: float = 1.0
) -> Tensor:
    r"""Low-frequency distillation of FF-G2M: a node learns its own and its neighbours' labels.

    Wu, Lin, Huang, Fan and Li, "Extracting Low-/High-Frequency Knowledge from Graph Neural
    Networks and Injecting it into MLPs", AAAI 2023, https://arxiv.org/abs/2305.10758.

        value_i = N / (E + N) \sum_{j in N(i) + {i}} T^2 KL(softmax(t_j / T) || softmax(s_i / T))

    Convention: the mean over the nodes is the paper's mean over the E edges and N loops, in which
    a node counts as often as it has neighbours. Not 0 where the student is the teacher,
    unless neighbours have the same labels: what is left is how much the labels around a node
    differ. The authors have T = 1 here.

    Time and memory grow as E + N C: the sum over the neighbours' labels is one sparse product.

    Shapes:
        logits: (N, C) on both sides; graph: N nodes, E edges; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    every = torch.ones_like(graph.neighbours.values, dtype=torch.bool)
    return _neighbours(student, teacher, graph, every, temperature)


@in_float32
def high_frequency(
    student: Outputs, teacher: Outputs, graph: Graph | Part, temperature: float = 1.0
) -> Tensor:
    r"""High-frequency distillation of FF-G2M: how a node's logits differ from its neighbours'.

    Wu, Lin, Huang, Fan and Li, "Extracting Low-/High-Frequency Knowledge from Graph Neural
    Networks and Injecting it into MLPs", AAAI 2023, https://arxiv.org/abs/2305.10758.

        value_i = N / E \sum_{j in N(i)} T^2 KL(softmax(d^t_ij / T) || softmax(d^s_ij / T))
        d_ij = |logits_i - logits_j|, class by class

    Convention: the mean over the nodes is the paper's
    mean over the E edges; T^2 included, which the authors' code leaves out (T from 1.0 to 1.5
    there). A node without neighbours gives 0. Logits of -inf have no differences: they give NaN.

    Time grows as E C; memory as E + N C, beside one block of edges.

    Shapes:
        logits: (N, C) on both sides; graph: N nodes, E edges; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    s, t = _logits(student, teacher, graph, temperature)
    source, target = graph.edge_index

    def at(edges: slice, s: Tensor) -> Tensor:
        j, i = source[edges], target[edges]
        own = (s.index_select(0, i) - s.index_select(0, j)).abs()
        taught = (t.index_select(0, i) - t.index_select(0, j)).abs()
        return response.kl(own, taught, temperature)

    per_edge = in_blocks(at, len(source), s.shape[1], s) * (len(s) / max(1, len(source)))
    return s.new_zeros(len(s)).index_add(0, target, per_edge)


@in_float32
def reliable_labels(
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    kept: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    r"""Reliable knowledge distillation (KRD): labels of itself and of neighbours to be relied on.

    Wu, Lin, Huang and Li, "Quantifying the Knowledge in GNNs for Reliable Distillation into
    MLPs", ICML 2023, https://arxiv.org/abs/2306.05628.

        value_i = N / (E' + N) \sum_{j in N'(i) + {i}} T^2 KL(softmax(t_j / T) || softmax(s_i / T))

    over the E' edges that were kept: `reliability.keep` draws them, the more likely the less the
    teacher's entropy at j changes under noise. With all edges it is `low_frequency`.

    Convention: as `low_frequency`; T^2 is included, which the authors' code leaves out: divide
    the weight by T^2 for theirs (T from 0.8 to 1.2). Not 0 where the student is the teacher,
    unless kept neighbours have the same labels.

    Time and memory grow as E + N C.

    Shapes:
        logits: (N, C) on both sides; graph: N nodes, E edges; kept: (E,), bool, whether an edge
        counts; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), `kept` is not a truth value for each edge,
            or the temperature is not positive.
    """
    edges = graph.edge_index
    if kept.dtype != torch.bool or kept.shape != edges.shape[1:]:
        raise ValueError(
            f"kept is {kept.dtype} of shape {tuple(kept.shape)}; expected a truth value for each "
            f"of the {edges.shape[1]} edges of this graph: draw it with reliability.keep"
        )
    return _neighbours(student, teacher, graph, kept, temperature)


def _neighbours(
    student: Outputs, teacher: Outputs, graph: Graph | Part, kept: Tensor, temperature: float
) -> Tensor:
    # The sum over j of KL(q_j || p_i) is that of the negative entropies of q_j, less the sum of
    # the q_j times log p_i: nothing is as large as the edges times the classes.
    s, t = _logits(student, teacher, graph, temperature)
    log_p, log_q = ((side / temperature).log_softmax(-1) for side in (s, t))
    said = torch.cat([log_q.exp(), negative_entropy(log_q).unsqueeze(-1)], 1)
    around = replace(graph.neighbours, values=kept[graph.neighbours.values])
    sums = said + around.times(said)
    value = sums[:, -1] - times_log(sums[:, :-1], log_p).sum(-1)
    return temperature**2 * len(t) / max(1, len(t) + int(kept.sum())) * value


def _logits(
    student: Outputs, teacher: Outputs, graph: Graph | Part, temperature: float
) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    check_rows("student", student.logits, graph)
    if student.logits.shape != teacher.logits.shape:
        raise ValueError(
            f"student has logits of shape {tuple(student.logits.shape)} and teacher "
            f"{tuple(teacher.logits.shape)}; expected (N, C) on both sides, the same classes"
        )
    return student.logits, teacher.logits.detach()
