"""COMET: clients that predict alike teach each other, in clusters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.components.public_consensus import (
    digest,
    predictions_spec,
    rows_asked,
    student_steps,
    trained_and_asked,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig


@dataclass(frozen=True)
class COMET(Algorithm):
    """Clustered co-distillation, with models that may be of any architecture.

    Yae Jee Cho, Jianyu Wang, Tarun Chiruvolu, Gauri Joshi. "Personalized Federated Learning for
    Heterogeneous Clients with Clustered Knowledge Transfer". 2021; as COMET in the IEEE Journal of
    Selected Topics in Signal Processing 2023. https://arxiv.org/abs/2109.08119

    Client: CE(y, f(private)) + strength |p(public) - q|^2, p = softmax(f(.)); upload p_k for the
    round's public examples. Server: k-means of the clients by their whole tables p_k; q is the mean
    over the client's cluster.
    Up: 4 C P_r bytes. Down: 4 C P_r, and 4 P_r of row numbers when a round asks about a part only.

    Conventions: neither the paper nor code of its authors was at hand; the abstract of the
    preprint, where the method is called PerFed-CKT, was, and the loss and the k-means of whole
    tables are from memory. Predictions are probabilities, where the paper has logits, since one
    client can turn a mean of logits at will. The two terms take turns, all steps of the second
    before those of the first, where the paper adds them up in each step. Clusters are found anew in
    each round, from ten drawn starts; there are no more than clients who say something different.
    The model in use is the one after training on private examples. Who is not in the newest cohort
    is in no cluster, and is sent nothing; nor is who is alone in one, and would learn what it says
    itself. Not so in the code of SCARLET, where each public example has clusters of its own and
    clients choose the nearer one: another method of that name.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.2, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    clusters: Annotated[int, Setting("of clients", ge=1)] = 2
    strength: Annotated[float, Setting("weight of the cluster's predictions", ge=0)] = 1.0

    properties = Properties(
        public="unlabelled",
        up="predictions for the round's public examples",
        down="the mean prediction of the client's cluster for each of them",
        architectures="any",
        summand="none",
        server_learns="the client's predictions for public examples, and whose are like them",
    )

    @property
    def public_training(self) -> TrainingConfig:
        """How a cluster's predictions are digested."""
        return self.distill

    @property
    def asks(self) -> int | None:
        """P_r."""
        return self.public_size

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The seed of the clusters' starts."""
        seed = torch.randint(2**31, (1,), generator=generator)
        return {"seed": seed, "round": torch.zeros(1, dtype=torch.long)}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """What the client's cluster says."""
        return self.broadcasts(server, {client: group})[client]

    def broadcasts(self, server: Server, cohort: Mapping[int, str]) -> dict[int, Message]:
        """The same for a cohort, one message for each cluster."""
        if "means" not in server:
            return {client: {} for client in cohort}
        rows = {"rows": server["rows"]} if "rows" in server else {}
        messages = [{"consensus": mean} | rows for mean in server["means"].unbind()]
        pairs = zip(server["clients"].tolist(), server["clusters"].tolist(), strict=True)
        sizes = server["clusters"].bincount().tolist()
        mine = {client: messages[cluster] for client, cluster in pairs if sizes[cluster] > 1}
        return {client: mine.get(client, {}) for client in cohort}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Draw near the cluster, train, predict."""
        assert public is not None

        def loss(outputs: Outputs, q: Tensor) -> Tensor:
            gap = outputs.logits.softmax(dim=-1) - q.detach()
            return self.strength * gap.square().sum(dim=-1)

        if received:
            params = digest(predict, params, received, public, self.distill, self.target, loss)
        return trained_and_asked(predict, params, private, public, self.local, self.target)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a cluster, and private ones."""
        return student_steps(received, public) + private.steps

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each public example of the round."""
        return predictions_spec(task, self.public_size)

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Find clusters, and take their means."""
        from sklearn.cluster import KMeans  # takes a second to import

        assert public is not None
        received = list(uploads)
        said = torch.stack([one.payload[task.target.sent].double() for one in received])
        flat = said.flatten(1).cpu()
        number = server["round"] + 1
        found = KMeans(
            min(self.clusters, len(flat.unique(dim=0))),
            n_init=10,
            random_state=(int(server["seed"]) + int(number)) % 2**31,
        ).fit(flat.numpy())
        clusters = _numbered(torch.from_numpy(found.labels_).long())
        member = torch.nn.functional.one_hot(clusters).to(said)
        means = torch.einsum("kj,kpc->jpc", member / member.sum(dim=0), said)
        return rows_asked(public) | {
            "seed": server["seed"],
            "round": number,
            "clients": torch.tensor([one.client for one in received]),
            "clusters": clusters,
            "means": as_sent(means),
        }


def _numbered(labels: Tensor) -> Tensor:
    """The same clusters, numbered in the order in which they are met: k-means numbers at will."""
    _, order = torch.unique(labels, return_inverse=True)
    first = torch.stack([(order == one).nonzero()[0, 0] for one in range(int(order.max()) + 1)])
    return first.argsort().argsort()[order]
