"""FedMD: clients of any architecture agree on the labels of public examples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedkd.components.aggregation import Aggregating, of_consensus
from fedkd.components.public_consensus import (
    consensus_message,
    digest,
    predictions_spec,
    student_steps,
)
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Received, Upload
from fedkd.targets import ALL, CLASSES, Target
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, predict_logits

MET = "met"  # who has been heard, for as long as newcomers are treated differently


@dataclass(frozen=True)
class FedMD(Aggregating):
    """Heterogenous federated learning via model distillation.

    Daliang Li, Junpu Wang. "FedMD: Heterogenous Federated Learning via Model Distillation".
    NeurIPS 2019 workshop. https://arxiv.org/abs/1910.03581

    Client: digest, CE(consensus, f(public)); revisit, CE(y, f(private)); upload the predictions
    p_k for the round's public examples. Server: consensus = mean_k p_k.
    Up: 4 C P_r bytes. Down: 4 C P_r, and 4 P_r of row numbers when a round asks about a part only.

    Conventions: clients send probabilities where the paper's code sends logits and fits them by
    mean absolute error, since a single client can turn a mean of logits at will. `exchange =
    "logits"` is the paper's way, with loss mean_c |f(public)_c - consensus_c|. The consensus is
    digested at the start of the next round, and the model in use is the one after revisiting. Other
    ways to a consensus than the mean (`aggregation`) are other papers' (`fedkd.consensus`).

    With `pretrain` >= 1 the public examples are labelled, and a client's first round begins as the
    paper's does: that many passes over the labelled examples that the round asks about, CE(y,
    f(public)), then private ones. A client that joins late does so in its own first round, for
    which it is sent no consensus. Nobody stops early, and so nobody looks at test examples.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.5, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    exchange: Annotated[Literal["probabilities", "logits"], Setting("what clients send")] = (
        "probabilities"
    )
    pretrain: Annotated[int, Setting("first passes over labelled public ones", ge=0)] = 0

    properties = Properties(
        public="unlabelled",
        up="predictions for the round's public examples",
        down="the mean prediction for each of them",
        architectures="any",
        summand="payload",
        server_learns="the client's predictions for public examples",
        targets=ALL,
        distils=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exchange == "logits" and self.aggregation != "sa":
            raise ValueError(
                f"aggregation {self.aggregation} is of probabilities, not logits; leave one out"
            )
        if self.pretrain and not self.distill.passes("pretrain"):
            raise ValueError(
                f"pretrain {self.pretrain} takes distill.epochs >= 1, got {self.distill.epochs}"
            )
        if self.pretrain:
            # Who pretrained does not stand in a sum.
            labelled = self.properties._replace(public="labelled", summand="none")
            object.__setattr__(self, "properties", labelled)
        if self.exchange == "logits":  # and fits them as the paper does
            fitted = self.properties._replace(distils=False)
            object.__setattr__(self, "properties", fitted)

    @property
    def public_training(self) -> TrainingConfig:
        """How the consensus is digested."""
        return self.distill

    @property
    def asks(self) -> int | None:
        """P_r."""
        return self.public_size

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The newest consensus, the same for all; nothing for whoever has to pretrain."""
        if MET in server and client not in server[MET].tolist():
            return {}
        return of_consensus(server)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Digest (the first time, pretrain), revisit, predict."""
        assert public is not None
        if received:
            loss = _absolute if self.exchange == "logits" else None
            params = digest(predict, params, received, public, self.distill, self.target, loss)
        elif self.pretrain:
            params = fit(predict, params, self._labelled(public), self.distill, self.target.loss)
        params = fit(predict, params, private, self.local, self.target.loss)
        logits = predict_logits(predict, params, public.x, public.rows)
        said = logits if self.exchange == "logits" else self.target.prediction(logits)
        sent = {self._key(self.target): said}
        return params, Upload(sent | self.beside(predict, params, private, public))

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones, to digest or the first time to pretrain, and private ones."""
        assert public is not None
        if not received and self.pretrain:
            return self._labelled(public).steps + private.steps
        return student_steps(received, public) + private.steps

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A prediction (or logits) for each public example of the round."""
        spec = predictions_spec(task, self.public_size)
        if self.exchange == "logits":
            return {"logits": spec[task.target.sent]._replace(simplex=False)}
        return self.with_nearness(spec)

    def check(self, task: Task) -> None:
        """Logits are exchanged where the paper does so."""
        super().check(task)
        if self.exchange == "logits" and task.target.name != CLASSES.name:
            raise ValueError(
                f"FedMD exchanges logits of classes, and each example has {task.target.words}; "
                "leave out the setting exchange"
            )

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Each client counts once, unless `aggregation` has it otherwise."""
        assert public is not None
        agreed = self.pooled(total, self._key(task.target), count, task.target)
        return consensus_message(as_sent(agreed), public)

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """The same; and, where clients pretrain, who has done so."""
        senders: list[int] = []
        after = super().server_update(task, server, _noted(uploads, senders), public)
        met = {*senders, *(server[MET].tolist() if MET in server else [])}
        return after | ({MET: torch.tensor(sorted(met))} if self.pretrain else {})

    def _key(self, target: Target) -> str:
        return "logits" if self.exchange == "logits" else target.sent

    def _labelled(self, public: Public) -> Batches:
        """Passes over the labelled public examples, in the round's shuffles of them."""
        assert public.labels is not None
        batches = public.batches(public.labels[public.rows], public.rows)
        steps = batches.steps // self.distill.epochs
        first = torch.arange(self.pretrain).unsqueeze(1) % self.distill.epochs * steps
        taken = (first + torch.arange(steps)).flatten().to(batches.order.device)
        return batches._replace(order=batches.order[taken], mask=batches.mask[taken])


def _absolute(outputs: Outputs, y: Tensor) -> Tensor:
    return (outputs.logits - y.detach()).abs().mean(dim=-1)


def _noted(uploads: Iterable[Received], senders: list[int]) -> Iterable[Received]:
    for upload in uploads:
        senders.append(upload.client)
        yield upload
