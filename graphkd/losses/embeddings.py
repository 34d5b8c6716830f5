"""The last hidden states that losses compare: checked, detached and projected."""

from collections.abc import Callable

import torch
from torch import Tensor

from graphkd.graph import Graph, Part
from kdcore.outputs import Outputs

Map = Callable[[Tensor], Tensor]  # (N, D) -> (N, D'), such as an `nn.Module`


def embeddings(
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    project: Map | None = None,
    project_teacher: Map | None = None,
    least: int = 1,
) -> tuple[Tensor, Tensor]:
    """The last hidden states of both sides, (N, D_s) and (N, D_t), the teacher's detached.

    A projection is applied after the detaching, so that it learns and the teacher does not.

    Raises:
        ValueError: a side shows no hidden state, it is not a row per node, or there are fewer
            nodes than `least`.
    """
    for side, outputs in (("student", student), ("teacher", teacher)):
        if not outputs.hidden:
            raise ValueError(
                f"the {side} shows no hidden state, which this loss compares: take a network with "
                "2 layers or more"
            )
        check_rows(side, outputs.hidden[-1], graph)
    if graph.num_nodes < least:
        raise ValueError(
            f"got N = {graph.num_nodes} nodes; this loss relates at least {least} of them: use "
            "larger batches, or draw more nodes"
        )
    s, t = student.hidden[-1], teacher.hidden[-1].detach()
    return s if project is None else project(s), t if project_teacher is None else project_teacher(
        t
    )


def check_rows(side: str, values: Tensor, graph: Graph | Part) -> None:
    """Raise ValueError if these are not a row for each node of the graph."""
    if values.ndim != 2 or len(values) != graph.num_nodes:
        raise ValueError(
            f"the {side}'s outputs have shape {tuple(values.shape)} and the graph has "
            f"{graph.num_nodes} nodes; expected a row per node, in the graph's order: give the "
            "outputs at these nodes, or graph.take(nodes)"
        )


def check_widths(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError if two embeddings that are compared directly differ in width."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's embedding is {student.shape[1]} wide, the teacher's "
            f"{teacher.shape[1]}; this loss compares them directly: give a `project` to the "
            "teacher's width, see graphkd.losses.projectors"
        )


def unit(vectors: Tensor) -> Tensor:
    """The vectors scaled to length 1, (..., D); one of zeros stays, and passes no gradient."""
    # `where` twice: sqrt has an infinite slope at 0, and infinity times a masked 0 is not a number.
    squared = vectors.square().sum(-1, keepdim=True)
    some = squared > 0
    return torch.where(some, vectors, 0) / torch.where(some, squared, 1).sqrt()
