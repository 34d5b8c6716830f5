"""FedET: small models at the clients teach a large one at the server, and share its last layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import FedAvg, average_by_group, check_sent_whole, of_group
from fedkd.components.features import feature_width, head_names
from fedkd.components.paired_models import shared_model
from fedkd.consensus.variance import Variance
from fedkd.core import Model, Properties, Public, Server, Task
from fedkd.messages import Received
from kdcore.losses.response import cross_entropy, soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.settings import Setting
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import Params, TrainingConfig, fit, logits_of

LARGE = "large"


@dataclass(frozen=True)
class FedET(FedAvg):
    """Heterogeneous ensemble knowledge transfer.

    Yae Jee Cho, Andre Manoel, Gauri Joshi, Robert Sim, Dimitrios Dimitriadis. "Heterogeneous
    Ensemble Knowledge Transfer for Training Large Models in Federated Learning". IJCAI 2022.
    https://arxiv.org/abs/2204.12703

    Clients: as in FedAvg. Server: with p_k = softmax(f_k) and v_k(x) the variance of p_k(x) over
    the classes, a label for each public example, y = argmax sum_k v_k p_k; and from those who would
    have said another label, d = sum_k v_k p_k / sum_k v_k. Its own large model takes the mean of
    all last layers, and minimises CE(y, f) + diversity KL(d || f) on public examples; then all
    groups take its last layer.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Conventions: the paper itself was not at hand; equations are from memory. The layer that is
    shared is the last, on features of one width; the paper shares representation layers, of one
    shape as well. No official code was found; a reimplementation weighs by the variance of
    log-probabilities and pools these, here both are of probabilities as in
    `fedkd.consensus.variance`, and there the divergence is divided by the number of classes as
    well. The large model, of architecture `large` and made as wide as features are, goes on from
    round to round; it is what the paper measures, and is scored beside the clients' (`_server`).
    """

    distill: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=5, batch_size=64)
    large: Annotated[str, Setting("architecture of the server's model")] = "mlp-256-128"
    diversity: Annotated[float, Setting("weight of those who say otherwise", ge=0)] = 0.05

    properties = Properties(
        public="unlabelled",
        up="all parameters",
        down="all parameters of the group's average, with the last layer of the server's model",
        architectures="shared within a group",
        summand="none",
        server_learns="the client's parameters and the number of its examples",
        beyond_training=("weight",),
    )

    @property
    def public_training(self) -> TrainingConfig:
        """How the server's model learns."""
        return self.distill

    def check(self, task: Task) -> None:
        """All models have linear heads on features of one width, and go up whole."""
        feature_width(replace(task, models={**task.models, LARGE: self._model(task)}))
        check_sent_whole(self, task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """Initial parameters for each group, the server's model, and the seed of its shuffles."""
        groups, large = super().init(task, generator), self._model(task).init(generator)
        return groups | {
            **{f"{LARGE}/{name}": value for name, value in large.items()},
            "seed": torch.randint(2**62, (1,), generator=generator),
            "round": torch.zeros(1, dtype=torch.long),
        }

    def server_model(self, task: Task, server: Server) -> tuple[Model, Params]:
        """The large model, its parameters in their order: the last two are its head."""
        model, params = self._model(task), of_group(server, LARGE)
        names = model.init(torch.Generator())
        return model, {name: params[name] for name in names if name in params}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Teach the large model what the clients say, and share its last layer."""
        assert public is not None
        received = list(uploads)
        names = {g: head_names(m.init(torch.Generator())) for g, m in task.models.items()}
        said = [
            logits_of(task.models[one.group].predict, one.payload, public.x, public.rows)
            for one in received
        ]
        labels, others = ensemble(torch.stack(said).softmax(dim=-1))
        heads = [[one.payload[name] for name in names[one.group]] for one in received]
        model, large = self.server_model(task, server)
        mean = (torch.stack(parts).mean(dim=0) for parts in zip(*heads, strict=True))
        large |= dict(zip(head_names(large), mean, strict=True))
        shuffles = stream(int(server["seed"]), "shuffle", int(server["round"]))
        batches = draw(Examples(public.x, labels, public.rows), self.distill, shuffles)
        large = fit(
            model.predict, large, batches._replace(y=(labels, others)), self.distill, self.loss
        )
        after = average_by_group(received)
        for group, own in names.items():  # those of whom nobody was heard as well
            pairs = zip(own, head_names(large), strict=True)
            after |= {f"{group}/{mine}": large[theirs] for mine, theirs in pairs}
        after |= {f"{LARGE}/{name}": value for name, value in large.items()}
        return server | after | {"round": server["round"] + 1}

    def loss(self, outputs: Outputs, y: tuple[Tensor, Tensor]) -> Tensor:
        """Towards the ensemble's label, and a little towards those who would say another."""
        labels, others = y
        soft = soft_cross_entropy(outputs.logits, others)
        return cross_entropy(outputs.logits, labels) + self.diversity * soft

    def _model(self, task: Task) -> Model:
        return shared_model(task, f"{self.large}@{feature_width(task)}")


def ensemble(p: Tensor) -> tuple[Tensor, Tensor]:
    """The label that all together give, (P,), and the mean of those who give another, (P, C).

    Both are weighted by variance; where everybody agrees, the mean is a row of zeros.

    Shapes:
        p: (K, P, C), distributions.
    """
    weights = torch.stack([_weights(one) for one in p]).unsqueeze(-1)
    labels = (weights * p).sum(dim=0).argmax(dim=-1)
    dissent = weights * (p.argmax(dim=-1) != labels).unsqueeze(-1)
    total = dissent.sum(dim=0)
    return labels, (dissent * p).sum(dim=0) / total.where(total > 0, 1)


def _weights(p: Tensor) -> Tensor:
    found = Variance().rows(p)
    assert found is not None
    return found
