"""FD: clients exchange their mean prediction for each label; no public data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from fedkd.components.features import each_once, label_means
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import ROWS, Message, PayloadSpec, Received, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.batches import taken
from kdcore.training.by_hand import CrossEntropy
from kdcore.training.loop import Batches, Loss, Params, Predict, fit, predict_logits


@dataclass(frozen=True)
class FD(Algorithm):
    """Federated distillation.

    Eunjeong Jeong, Seungeun Oh, Hyesung Kim, Jihong Park, Mehdi Bennis, Seong-Lyun Kim.
    "Communication-Efficient On-Device Machine Learning: Federated Distillation and Augmentation
    under Non-IID Private Data". NeurIPS 2018 workshop. https://arxiv.org/abs/1811.11479

    Client k: F_k[l] = mean of softmax(f(x)) over its examples with label l; trains on
    CE(y, f(x)) + gamma CE(G_k[y], f(x)). Server: G_k[l] = mean of F_j[l] over the clients j != k
    that hold label l (leave-one-out, each client counting once).
    Up: F_k, only the rows of labels held, 4 C bytes each. Down: G_k, 4 C C bytes.

    Conventions: means are of probabilities (of logits they would leave the loss unbounded below),
    taken with the trained model. A label that no other client holds has a row of zeros, which
    adds nothing to the loss. Only clients of the newest cohort are averaged. Without
    `leave_one_out` all are told the mean of all, so that a sum is all that the server needs: of two
    messages that leave out one client each, the difference is what these two have sent.
    """

    gamma: Annotated[float, Setting("weight of what the others predict", ge=0)] = 1.0
    leave_one_out: Annotated[bool, Setting("a client is told the mean of the others alone")] = (
        field(default=True, metadata={"added": True})
    )

    properties = Properties(
        public="none",
        up="the mean prediction for each label held",
        down="the mean of the others' mean predictions for each label",
        architectures="any",
        summand="none",  # a sum gives the mean, but leaving a client out takes its own row
        server_learns="which labels the client holds, and its mean prediction for each",
        beyond_training=("means", "rows"),
        distils=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.leave_one_out:
            object.__setattr__(self, "properties", self.properties._replace(summand="payload"))

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The leave-one-out means."""
        return self.broadcasts(server, {client: group})[client]

    def broadcasts(self, server: Server, cohort: Mapping[int, str]) -> dict[int, Message]:
        """The same for a cohort: means that leave each member out, and those of all for others."""
        if "clients" not in server:
            return {client: server for client in cohort}
        members = {client: place for place, client in enumerate(server["clients"].tolist())}
        listed = [members.get(client, len(members)) for client in cohort]
        places = torch.tensor(listed, dtype=torch.long).to(server["means"].device)
        total, count = (
            whole - torch.cat([part, torch.zeros_like(part[:1])])[places]
            for whole, part in (
                (server["total"], server["means"]),
                (server["count"], server["held"]),
            )
        )  # (K, C, C), (K, C)
        means = torch.where(count > 0, 1, 0).unsqueeze(2) * total / count.clamp(min=1).unsqueeze(2)
        parts = means.to(server["means"].dtype).unbind()
        return {client: {"means": part} for client, part in zip(cohort, parts, strict=True)}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train with the others' means as a second teacher, then predict the own ones."""
        params = fit(predict, params, private, self.local, self._loss(), received)
        logits = predict_logits(predict, params, private.x, each_once(private))
        means, held = label_means(logits.softmax(dim=-1), private, logits.shape[-1])
        return params, Upload({"means": means}, rows=held)

    def _loss(self) -> Loss:
        """The label's, and gamma times that towards what the others say of the label."""
        hard, soft = self.target.loss, self.target.towards

        def loss(outputs: Outputs, y: Tensor, received: Message) -> Tensor:
            own = hard(outputs, y)
            if not received:
                return own
            means = received["means"][y]
            there = means.sum(dim=-1) > 0
            even = torch.full_like(means, 1 / means.shape[-1])
            others = soft(outputs, means.where(there.unsqueeze(-1), even))
            return own + self.gamma * others.where(there, 0)

        if not (isinstance(hard, CrossEntropy) and isinstance(soft, CrossEntropy)):
            return loss

        def targets(classes: int, y: Tensor, received: Message) -> Tensor:
            own = hard.targets(classes, y)
            if not received:
                return own
            means = taken(received["means"], y)
            there = means.sum(dim=-1, keepdim=True) > 0
            return own + self.gamma * soft.targets(classes, means).where(there, 0)

        return CrossEntropy(loss, targets)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each label."""
        return {"means": PayloadSpec((task.num_classes, task.num_classes), simplex=True, rows=True)}

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """The mean of all, of the clients that hold a label; zeros where nobody does."""
        held = total[ROWS].unsqueeze(1)
        return {"means": as_sent(torch.where(held > 0, total["means"] / held.clamp(min=1), 0))}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Keep the newest cohort's sum, and each member's own part of it, to leave it out."""
        if not self.leave_one_out:
            return super().server_update(task, server, uploads, public)
        clients, means, held = [], [], []
        for upload in uploads:
            assert upload.rows is not None
            clients.append(upload.client)
            means.append(upload.payload["means"])
            held.append(upload.rows)
        table, known = torch.stack(means), torch.stack(held)
        return {
            "clients": torch.tensor(clients),
            "means": table,
            "held": known,
            "total": table.double().sum(dim=0),
            "count": known.sum(dim=0),
        }
