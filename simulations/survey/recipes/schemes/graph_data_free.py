"""Data-free on graphs: a student of a graph network whose graph, features and labels are gone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd import losses
from graphkd.data import splits
from graphkd.graph import HIDDEN, Graph
from graphkd.models import networks
from graphkd.ops.edges import simple
from graphkd.training.loop import descend, predict, seeded
from kdcore import metrics
from kdcore.devices import Made
from kdcore.losses import response
from kdcore.rng import generator
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import Citations
from simulations.survey.recipes import Metrics, StudentTraining, TeacherTraining


@dataclass(frozen=True)
class GraphDataFree:
    """Data-free learning on graphs: inputs that the teacher is sure of, and a graph among them.

    Xiang Deng, Zhongfei Zhang. "Graph-Free Knowledge Distillation for Graph Neural Networks".
    IJCAI 2021. https://arxiv.org/abs/2105.07519

    A GCN that learnt Cora names invented nodes, and a student learns these names; it sees no node,
    edge or label of Cora before the test. The features are found by gradient, so that the teacher
    names each node as is wanted (inversion; the paper learns edges too). Controls, with the same
    loss and as many nodes and steps: random bags of words (`_baseline`), normal noise
    (`_gaussian`), and bags with the words of a class (`_means`), for which the owner gives away one
    mean for each class. `_edges` are the same nodes joined at random to their likes. The student is
    a GCN, which has the real edges at the test; those with `_mlp` have none.
    """

    data: ClassVar[str] = "citations"

    train: Annotated[int, Setting("labelled nodes of a class", ge=1)] = 20
    nodes: Annotated[int, Setting("that are invented", ge=1)] = 700
    hidden: Annotated[int, Setting("width of all networks", ge=1, le=WIDEST)] = 64
    dropout: Annotated[float, Setting("of all networks", ge=0, le=0.99)] = 0.5
    joined: Annotated[float, Setting("chance of an edge within a class", ge=0, le=1)] = 0.05
    sparse: Annotated[float, Setting("weight of few words in the inversion", ge=0)] = 0.01
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.01, epochs=150, weight_decay=5e-4)
    inverting: TrainingConfig = TrainingConfig("adam", 0.05, epochs=150)
    student_training: StudentTraining = TrainingConfig("adam", 0.01, epochs=200)

    def measure(self, data: Citations, seed: int) -> Metrics:
        """Test accuracy of each student, and of the teacher."""
        split = splits.transductive(Graph(*data, "citations"), seed, self.train)
        view = split.view("evaluate")
        graph, train, test = view.graph, view.part("train"), view.part("tran")
        device = graph.x.device
        classes = torch.arange(self.nodes, device=device) % graph.classes
        edges = self._edges(classes, seed)

        def built(network: str, who: str) -> nn.Module:
            with seeded(seed, device, who, "weights"), Made("cpu"):  # where weights are drawn
                return networks.build(network, graph, self.hidden, 2, self.dropout)

        def score(network: nn.Module) -> float:
            return metrics.accuracy(predict(network, graph).logits[test], graph.y[test])

        def supervised(network: nn.Module) -> Tensor:
            return response.cross_entropy(network(graph, train).logits, graph.y[train]).mean()

        teacher = _fit(built("gcn", "teacher"), supervised, self.teacher_training, seed)
        found = {"accuracy_teacher": score(teacher)}
        for name, x in self._inputs(graph, train, teacher, classes, seed).items():
            for joined in ("", "_edges"):
                ends = edges if joined else edges[:, :0]
                invented = Graph(x, ends, torch.full_like(classes, HIDDEN), graph.classes)
                for kind, network in (("", "gcn"), ("_mlp", "mlp")):
                    student = self._taught(built(network, "student"), teacher, invented, seed)
                    found[f"accuracy{name}{joined}{kind}"] = score(student)
        return found

    def _taught(self, student: nn.Module, teacher: nn.Module, graph: Graph, seed: int) -> nn.Module:
        targets = predict(teacher, graph)

        def follow(network: nn.Module) -> Tensor:
            return losses.soft_labels(network(graph), targets, graph).mean()

        return _fit(student, follow, self.student_training, seed)

    def _edges(self, classes: Tensor, seed: int) -> Tensor:
        """Edges among nodes of one class, each with the same chance, (2, E)."""
        n = len(classes)
        drawn = torch.rand(n, n, generator=generator(seed, "edges")).to(classes.device)
        alike = classes[:, None] == classes
        return simple(((drawn < self.joined) & alike).triu(1).nonzero().T, n)

    def _inputs(
        self, graph: Graph, train: Tensor, teacher: nn.Module, classes: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """The features of the invented nodes, (n, D), by the arm that they are for."""
        shape, like = (self.nodes, graph.x.shape[1]), graph.x
        uniform = torch.rand(shape, generator=generator(seed, "bags")).to(like)
        normal = torch.randn(shape, generator=generator(seed, "normal")).to(like)
        means = torch.stack([like[train][graph.y[train] == c].mean(0) for c in classes.unique()])
        return {
            "": self._inverted(teacher, classes, 0.1 * uniform, graph.classes),
            "_baseline": (uniform < (like > 0).to(like).mean()).to(like),
            "_gaussian": normal,
            "_means": (uniform < means[classes]).to(like),
        }

    def _inverted(self, teacher: nn.Module, wanted: Tensor, start: Tensor, classes: int) -> Tensor:
        """Features of few words, found by gradient, of which the teacher says what is wanted."""
        x = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([x], self.inverting.learning_rate)
        none, hidden = wanted.new_zeros(2, 0), torch.full_like(wanted, HIDDEN)
        for _ in range(self.inverting.epochs):
            words = x.clamp(min=0)
            said = teacher.eval()(_Dense(words, none, hidden, classes)).logits
            named = F.cross_entropy(said, wanted)
            descend(named + self.sparse * words.sum(1).mean(), optimiser)
        return x.detach().clamp(min=0)


class _Dense(Graph):
    """A graph whose features have a gradient, which the sparse product gives them none of."""

    @property
    def features(self) -> Tensor:
        """The features as they are."""
        return self.x


def _fit(
    network: nn.Module, loss: Callable[[nn.Module], Tensor], how: TrainingConfig, seed: int
) -> nn.Module:
    """A network after so many steps on all nodes at once."""
    optimiser = torch.optim.Adam(
        network.parameters(), how.learning_rate, weight_decay=how.weight_decay
    )
    device = next(network.parameters()).device
    with seeded(seed, device, "dropout"):
        for _ in range(how.epochs):
            descend(loss(network.train()), optimiser)
    return network.eval().requires_grad_(False)
