"""Layers between an embedding and a loss: they learn with the student and are thrown away after.

    Learned(losses.hint, regressor(D_s, D_t))       is a loss like any other, and an `nn.Module`

Each maker takes the widths of the two embeddings and gives the keyword arguments of the losses
that it is for. Weights come from torch's global stream, as those of networks do: see
`graphkd.training.loop.seeded`.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from graphkd.graph import Graph, Part
from graphkd.ops.dropout import Dropout
from kdcore.outputs import Outputs


class Learned(nn.Module):
    """A loss and the layers that it takes; what it learns are its parameters."""

    def __init__(self, loss: Callable[..., Tensor], layers: Mapping[str, nn.Module]):
        super().__init__()
        self.loss = loss
        self.layers = nn.ModuleDict(layers)

    def forward(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """The loss, one value per node, (N,)."""
        return self.loss(student, teacher, graph, **self.layers)


def regressor(student: int, teacher: int) -> dict[str, nn.Module]:
    """A linear map to the teacher's width: of `hint`, and the critic of `mutual_information`."""
    return {"project": nn.Linear(student, teacher)}


def rectified(student: int, teacher: int, dropout: float = 0.0) -> dict[str, nn.Module]:
    """A linear map to the teacher's width, ReLU and dropout: of `structural_similarity`."""
    return {"project": nn.Sequential(nn.Linear(student, teacher), nn.ReLU(), Dropout(dropout))}


def heads(student: int, teacher: int, width: int = 256) -> dict[str, nn.Module]:
    """For both sides a linear map, batch normalisation and ReLU: of `contrastive`."""
    return {"project": _head(student, width), "project_teacher": _head(teacher, width)}


def _head(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU())
