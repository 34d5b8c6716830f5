"""Networks that a user brings to a run in place of names, and teachers that are there before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from graphkd.core import LeakError, Split, Trained, View
from graphkd.graph import Graph
from graphkd.inputs import Encoder, features
from graphkd.method import Method, Plan
from graphkd.models import adapters, networks
from kdcore.outputs import Outputs

ENOUGH = 1e-3  # by which rows of probabilities may miss a sum of 1


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """A teacher that is a table: what some network said of each node, before the softmax.

    Rows of nodes that are held out teach nobody: no phase of training is given them, whatever the
    table has there. They are read by the evaluation alone, for the accuracy of the teacher.

    Args:
        table: (N, C), a row for each node of the user's graph, NaN where there is none; or a
            mapping from the names of nodes (or their ids) to rows.
    """

    table: Any

    def rows(self, split: Split) -> Tensor:
        """The rows of the split's nodes, (n, C) in global order; NaN where there is none.

        Raises:
            ValueError: the table has not a row of C numbers for each node, or no logits.
        """
        classes = split.view("evaluate").graph.classes
        names = split.node_names
        if isinstance(self.table, Mapping):
            none = np.full(classes, np.nan)
            found = [np.asarray(self.table.get(name, none), dtype=np.float64) for name in names]
            if odd := [name for name, row in zip(names, found, strict=True) if len(row) != classes]:
                raise ValueError(
                    f"the teacher's logits of node {odd[0]!r} are {len(self.table[odd[0]])} "
                    f"numbers; expected {classes}, one for each class"
                )
            rows = torch.from_numpy(np.stack(found))
        else:
            rows = self._array(split, classes)
        known = rows[rows.isfinite().all(1)]
        sums = (known.double().sum(1) - 1).abs()
        if len(known) and (known >= 0).all() and (sums < ENOUGH).all():
            raise ValueError(
                "the teacher's table holds probabilities, each row of sum 1; expected logits: take "
                "TeacherLogits(table.log()), with zeros made small numbers first"
            )
        return rows

    def _array(self, split: Split, classes: int) -> Tensor:
        table = self.table if isinstance(self.table, Tensor) else np.asarray(self.table)
        table = torch.as_tensor(table).detach().cpu()
        least = int(split.origin.max()) + 1
        if table.ndim != 2 or table.shape[1] != classes or len(table) < least:
            raise ValueError(
                f"the teacher's table is {tuple(table.shape)}; expected logits of {classes} "
                f"classes for each node by its id, ({least} or more, {classes})"
            )
        return table[split.origin]

    def encoder(self, split: Split) -> Encoder:
        """Gives any view's graph with what the table says as features, for a `TableNetwork`.

        Raises:
            ValueError: as `rows`, or nodes that a teacher teaches on have no row.
        """
        rows, withheld = self.rows(split), split.parts.get("ind", torch.arange(0))
        view = split.view("distill")
        silent = view.ids[view.part("soft")]
        silent = silent[~rows[silent].isfinite().all(1)]
        if len(silent):
            raise ValueError(
                f"the teacher's table has no finite logits of {len(silent)} nodes on which it is "
                f"to teach, first {split.node_names[int(silent[0])]!r}; give them, or hold these "
                "nodes out"
            )

        def encode(view: View) -> Graph:
            said = rows[view.ids]
            if view.phase != "evaluate":
                unsaid = torch.isin(view.ids, withheld)
                if unsaid.any() and not split.observed:
                    raise LeakError(
                        f"{int(unsaid.sum())} nodes of this view are held out, first "
                        f"{int(view.ids[unsaid][0])}: what a teacher says of them is for the "
                        "evaluation"
                    )
                said = said.masked_fill(unsaid[:, None], torch.nan)
            return replace(view.graph, x=said.to(view.graph.x))

        return encode


class TableNetwork(nn.Module):
    """Says of a node what stands in its features (`TeacherLogits.encoder`)."""

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """The rows of these nodes, or all."""
        return Outputs(graph.x if nodes is None else graph.x[nodes])


class Given(NamedTuple):
    """What a user brings in place of the names in a method; None is what the method names.

    Args:
        teacher: a module, trained already, which is used as it is; a class or function, which is
            made and trained in the run; or `TeacherLogits`.
        student: a module, which is trained from the weights that it has; or a class or function.
    """

    teacher: nn.Module | Callable[..., nn.Module] | TeacherLogits | None = None
    student: nn.Module | Callable[..., nn.Module] | None = None

    @property
    def ready(self) -> nn.Module | TeacherLogits | None:
        """The teacher, if it needs no training."""
        there = isinstance(self.teacher, nn.Module | TeacherLogits)
        return self.teacher if there else None  # type: ignore[return-value]  # has just been asked

    @property
    def module(self) -> nn.Module | Callable[..., nn.Module] | None:
        """What the teacher is made of, if it is not a table."""
        return None if isinstance(self.teacher, TeacherLogits) else self.teacher


def named(method: Method, teacher: Any, student: Any) -> tuple[Method, Given]:
    """The method with the names among these, and what is no name.

    Raises:
        ValueError: something is neither a name nor a network.
    """
    for side, one in (("teacher", teacher), ("student", student)):
        table = isinstance(one, TeacherLogits) and side == "teacher"
        if one is not None and not isinstance(one, str) and not callable(one) and not table:
            more = ", or TeacherLogits(table)" if side == "teacher" else ""
            raise ValueError(
                f"the {side} is a {type(one).__name__}; expected a name, a torch.nn.Module, or a "
                f"class or function that makes one{more}"
            )
    names = {k: v for k, v in (("teacher", teacher), ("student", student)) if isinstance(v, str)}
    objects = [None if isinstance(one, str) else one for one in (teacher, student)]
    return replace(method, **names), Given(*objects)  # type: ignore[arg-type]  # names of fields


def renamed(plan: Plan, given: Given) -> Plan:
    """The plan with the names of what is given."""
    teachers, student = plan.teachers, plan.student
    if given.teacher is not None and teachers:
        table = isinstance(given.teacher, TeacherLogits)
        name = "logits" if table else adapters.called(given.teacher)
        teachers = (teachers[0]._replace(network=name),)
    if given.student is not None:
        student = student._replace(network=adapters.called(given.student))
    return plan._replace(teachers=teachers, student=student)


def check(method: Method, given: Given, name: str) -> None:
    """Raise ValueError if a method has no use for what is given, or needs what that has not."""
    _check_copies(method, given, name)
    if given.teacher is None:
        return
    if method.scheme in ("alone", "own"):
        raise ValueError(
            f"{name} has no teacher, and one is given: leave it out, or take a method with one, "
            "such as glnn"
        )
    if method.taught_by and not isinstance(given.teacher, method.taught_by):
        raise ValueError(
            f"{name} makes a teacher of its own, and another is given: leave it out, give one that "
            f"is a {method.taught_by.__name__}, or take a method such as glnn"
        )
    if not isinstance(given.teacher, TeacherLogits):
        return
    if method.scheme == "mutual":
        raise ValueError(
            f"in {name} the teacher learns too, and a table of logits cannot: give a module"
        )
    if method.asks_teacher_again:
        raise ValueError(
            f"{name} asks its teacher about noisy features, and a table of logits cannot answer: "
            "give the module that it is from, or take a method such as glnn"
        )


def _check_copies(method: Method, given: Given, name: str) -> None:
    kinds = tuple(networks.NETWORKS[kind] for kind in method.copies)
    other = given.teacher is not None and not isinstance(given.teacher, kinds)
    if kinds and (other or given.student is not None):
        raise ValueError(
            f"{name} copies the linear maps of a {' or '.join(method.copies)} into an mlp of its "
            "own: give no student, and as a teacher one of these, or take a method such as glnn"
        )


def teacher(given: nn.Module | TeacherLogits, split: Split, seed: int) -> Trained:
    """A teacher that needs no training, frozen.

    Raises:
        ValueError: it cannot run on what training may see, or says nothing of some of it.
    """
    view = split.view("distill")
    if isinstance(given, TeacherLogits):
        return Trained(TableNetwork(), given.encoder(split))
    network = networks.build(given, view.graph, 1, 2, 0.0)
    return Trained(network.eval().requires_grad_(False), features(view, seed))
