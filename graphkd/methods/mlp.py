"""The control: no teacher."""

from dataclasses import dataclass

from graphkd.method import Method


@dataclass(frozen=True)
class MLP(Method):
    """A student that learns from the labels alone, without a teacher.

    The "MLP" rows of Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New
    Tricks via Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727.

        L = mean_{train} CE

    With `student` gcn, sage, gat or appnp it is the control of the methods that have such a one.
    """

    scheme = "alone"
    needs = frozenset()
