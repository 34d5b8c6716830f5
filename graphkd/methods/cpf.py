"""CPF: a student of label propagation and a transformation of features, both learned."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method
from kdcore.outputs import Outputs
from kdcore.settings import Setting


@dataclass(frozen=True)
class CPF(Method):
    r"""A graph network teaches how far a node's label is its neighbours', and how far its own.

    Yang, Liu and Shi, "Extract the Knowledge of Graph Neural Networks and Go Beyond it: An
    Effective Knowledge Distillation Framework", WWW 2021, https://arxiv.org/abs/2103.02885.

        L = mean_{i not in train} |teacher_i - student_i|^2
        y_i^{k+1} = a_i \sum_{j in N(i) + {i}} c_ij y_j^k + (1 - a_i) softmax(f(x_i))

    for `rounds` rounds, with training nodes held at their labels; c_ij is a softmax over the
    neighbours of a learned score of j's features, and a_i in (0, 1) how much node i propagates. f
    is the network named by `student`. The student needs the graph and the training labels at
    inference.

    Convention: the squared distance of probabilities, where the authors' code takes the root of
    its sum over all nodes; a_i is a learned function of the features, where theirs is a parameter
    of each node, which nodes not yet seen do not have. Settings are the middle of their search.
    """

    inputs: str = "labelled"
    hard_weight: float | None = 0.0
    dropout: float | None = 0.5
    lr: float | None = 0.01
    weight_decay: float | None = 5e-4
    rounds: Annotated[int, Setting("of propagation", ge=1)] = 8

    def __post_init__(self) -> None:
        """Refuse what propagates nothing."""
        super().__post_init__()
        if self.inputs != "labelled":
            raise ValueError(
                f"inputs are {self.inputs!r}; labels can be propagated where they are 'labelled'"
            )

    def build(self, network: nn.Module, graph: Graph) -> nn.Module:
        """Label propagation around a network."""
        return Propagation(network, graph.x.shape[1] - graph.classes, self.rounds)

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """The squared distance of probabilities, but at training nodes."""
        known = torch.zeros(context.view.graph.num_nodes, dtype=torch.bool)
        known[context.view.part("train")] = True

        def loss(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
            gap = student.logits.softmax(1) - teacher.logits.detach().softmax(1)
            nodes = graph.nodes if isinstance(graph, Part) else slice(None)
            free = (~known[nodes]).to(gap)
            return gap.square().sum(1) * free

        return (LossTerm(loss, 1.0),)


class Propagation(nn.Module):
    """Labels that spread along the edges, mixed at each node with what a network says of it.

    The last columns of the inputs are one-hot labels of the training nodes, 0 elsewhere
    (`inputs.labelled`); `width` is that of the features before them. Scores and shares see the
    features alone: else a class could spread further for its label's sake.
    """

    def __init__(self, network: nn.Module, width: int, rounds: int):
        super().__init__()
        self.network, self.rounds = network, rounds
        self.score = nn.Linear(width, 1, bias=False)  # of a neighbour
        self.share = nn.Linear(width, 1)  # of a node: how much it propagates
        nn.init.zeros_(self.share.weight)
        nn.init.zeros_(self.share.bias)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """Logarithms of the probabilities after the last round; the network's hidden states."""
        said, hidden = self.network(graph)
        features, known = graph.x[:, : -graph.classes], graph.x[:, -graph.classes :]
        fixed = known.sum(1, keepdim=True) > 0
        own = said.softmax(1)
        y = torch.where(fixed, known, 1 / graph.classes)
        share = self.share(features).sigmoid()
        weight = self.score(features)
        weight = (weight - weight.max().detach()).exp()
        total = graph.total @ weight
        for _ in range(self.rounds):
            spread = (graph.total @ (weight * y)) / total
            y = torch.where(fixed, known, share * spread + (1 - share) * own)
        outputs = Outputs(y.clamp(min=1e-6).log(), hidden)
        if nodes is None:
            return outputs
        return Outputs(outputs.logits[nodes], tuple(h[nodes] for h in hidden))
