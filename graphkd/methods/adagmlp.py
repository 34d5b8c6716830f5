"""AdaGMLP: several MLPs, of which each minds what those before it did not learn."""

import copy
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method, Patience, Share, Temperature
from graphkd.training import published
from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.settings import Setting


@dataclass(frozen=True)
class AdaGMLP(Method):
    r"""A graph network teaches several MLPs by boosting; what they say is weighed and mixed.

    Lu, Guan, Zhao and Yang, "AdaGMLP: AdaBoosting GNN-to-MLP Knowledge Distillation", KDD 2024,
    https://arxiv.org/abs/2405.14307; the authors' code is at
    https://github.com/WeigangLu/AdaGMLP-KDD24.

        L = 1/K \sum_k (\lambda CE_k[S_k] + (1 - \lambda) \sum_i w_i KL(teacher_i || student_ki)
                        + \lambda_A |z_k - z'_k|^2 + (1 - \lambda_A) |h_k - h'_k|^2)

    S_k is a K-th of the labelled nodes, drawn anew at each step (random classification); z' and h'
    are log-probabilities and hidden states of these nodes with a share of their features masked
    (node alignment). After student k the weights of nodes grow where it is far from the teacher,

        e_i = 1 - exp(-\beta KL_i),  e = \sum_i w_i e_i,  \alpha_k = max(log((1 - e) / e), 0)
        w_i <- w_i exp(\alpha_k e_i), scaled to sum 1

    and \sum_k \alpha_k softmax(z_k) / \sum_k \alpha_k is what all of them say.

    Convention: all as in the authors' code, where it is more than the paper says: weights of nodes
    go on from step to step, both sides of the KL are softened without T^2, its \alpha without the
    temperature, and a masked row keeps its sum. Only nodes on which the teacher may teach have a
    weight. Settings are those of their scripts for a SAGE teacher, but for the width of the
    teacher; each student is 64 wide.
    """

    needs = frozenset({"classes"})
    published_settings = published.ADAGMLP

    hard_weight: Annotated[
        float | None, Setting("0: each student has its own labels", ge=0, le=0)
    ] = 0.0
    batch: Annotated[int, Setting("0: all nodes at once", ge=0, le=0)] = 0
    epochs: Annotated[int, Setting("passes, at the most", ge=1)] = 500
    patience: Patience = 50
    label_weight: Share = None
    temperature: Temperature = None
    students: Annotated[int | None, Setting("K, how many", ge=1, le=100)] = None
    beta: Annotated[float | None, Setting("how soon a node is far off", gt=0)] = None
    output_share: Annotated[
        float | None, Setting("lambda_A, of outputs in the alignment", ge=0, le=1)
    ] = None
    masked: Annotated[float | None, Setting("share of features masked", ge=0, le=0.9)] = None

    def build(self, network: nn.Module, graph: Graph) -> nn.Module:
        """As many networks, each with weights of its own."""
        assert self.students is not None
        return Boosted(network, self.students)

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """All of the loss."""
        return (LossTerm(_Boosting(self, context), 1.0),)


class Boosted(nn.Module):
    """Several networks whose probabilities are mixed, by weights alpha.

    It shows the mixture's log-probabilities, and as a hidden state the logits of all, (n, K C).
    """

    alpha: Tensor

    def __init__(self, network: nn.Module, count: int):
        super().__init__()
        network = network.cpu()  # where weights are drawn, in the default type; a run moves all
        self.students = nn.ModuleList([network])
        for _ in range(count - 1):
            other = copy.deepcopy(network).to(torch.get_default_dtype())
            for part in other.modules():
                fresh = getattr(part, "reset_parameters", None)
                if callable(fresh):
                    fresh()
            self.students.append(other.to(next(network.parameters())))
        self.register_buffer("alpha", torch.full((count,), 1 / count))

    def forward(self, graph: Graph | Tensor, nodes: Tensor | None = None) -> Outputs | Tensor:
        """The mixture; of tensors, as of other networks, its logits."""
        if isinstance(graph, Tensor):
            return self._mixed([one(graph, nodes) for one in self.students])
        said = [one(graph, nodes).logits for one in self.students]
        return Outputs(self._mixed(said), (torch.cat(said, 1),))

    def _mixed(self, said: list[Tensor]) -> Tensor:
        probabilities = torch.stack([logits.softmax(-1) for logits in said])
        mixture = (self.alpha[:, None, None] * probabilities).sum(0)
        return mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()


class _Boosting:
    """The loss, with the weights of nodes and students as they stand."""

    def __init__(self, method: AdaGMLP, context: DistillationContext):
        assert isinstance(context.student, Boosted)
        self.method, self.context, self.network = method, context, context.student
        soft = len(context.view.part("soft"))
        self.weight = context.view.graph.x.new_full((soft,), 1 / soft)
        self.draw = generator(context.seed, "boosting")

    def __call__(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        method, count = self.method, len(self.network.students)
        assert method.label_weight is not None
        assert method.temperature is not None
        total = student.logits.new_zeros(len(student.logits))
        alphas = []
        for k, logits in enumerate(student.hidden[-1].chunk(count, dim=1)):
            t = method.temperature
            taught = response.kl(logits / t, teacher.logits / t)
            total = total + (1 - method.label_weight) * len(total) * self.weight * taught
            total = total + self._on_labels(k, count)
            alphas.append(self._boost(logits.detach(), teacher.logits))
        self.network.alpha = torch.stack(alphas) / sum(alphas)
        return total / count

    def _boost(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """The weight of a student; those of the nodes are moved on."""
        assert self.method.beta is not None
        error = 1 - (-self.method.beta * response.kl(logits, teacher)).exp()
        mean = (self.weight * error).sum() / self.weight.sum()
        tiny = torch.finfo(mean.dtype).tiny
        alpha = ((1 - mean).clamp(min=tiny) / mean.clamp(min=tiny)).log().clamp(min=tiny)
        moved = self.weight * (alpha * error).exp()
        self.weight = moved / moved.sum()
        return alpha

    def _on_labels(self, k: int, count: int) -> Tensor:
        """What a student learns of a part of the labelled nodes, which is a scalar."""
        view, method = self.context.view, self.method
        assert method.label_weight is not None
        assert method.output_share is not None
        train = view.part("train")
        order = torch.randperm(len(train), generator=self.draw)
        nodes = train[order[: max(1, len(train) // count)]]
        network = self.network.students[k]
        whole = network(view.graph, nodes)
        labels = response.cross_entropy(whole.logits, view.graph.y[nodes]).mean()
        if not method.masked:
            return method.label_weight * labels
        part = network(self._masked(nodes))
        outputs = F.mse_loss(part.logits.log_softmax(1), whole.logits.log_softmax(1))
        found = method.label_weight * labels + method.output_share * outputs
        pairs = list(zip(part.hidden, whole.hidden, strict=True))
        for one, other in pairs:
            found = found + (1 - method.output_share) * F.mse_loss(one, other) / len(pairs)
        total: Tensor = found
        return total

    def _masked(self, nodes: Tensor) -> Graph:
        """These nodes with a share of their features masked, each row with its sum."""
        assert self.method.masked is not None
        part = self.context.view.graph.subgraph(nodes)
        drawn = torch.rand(part.x.shape, generator=self.draw)
        lost = drawn.topk(int(part.x.shape[1] * self.method.masked), dim=1).indices
        x = part.x.scatter(1, lost.to(part.x.device), 0.0)
        sums, left = (rows.sum(1, keepdim=True) for rows in (part.x, x))
        scale = torch.where(left.abs() > 0, sums / torch.where(left == 0, 1.0, left), 1.0)
        return replace(part, x=x * scale)
