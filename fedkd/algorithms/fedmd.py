"""FedMD: clients of any architecture agree on the labels of public examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedkd.core import Algorithm, Claim, Message, Properties, Public, Received, Server, Task, Upload
from knowledge import ensemble
from knowledge.outputs import Outputs
from knowledge.response import cross_entropy, soft_cross_entropy
from knowledge.training import Batches, Params, Predict, Tensor, Training, fit, logits_of


@dataclass(frozen=True)
class FedMD(Algorithm):
    """Heterogenous federated learning via model distillation.

    Daliang Li, Junpu Wang. "FedMD: Heterogenous Federated Learning via Model Distillation".
    NeurIPS 2019 workshop. https://arxiv.org/abs/1910.03581

    Client: digest, CE(consensus, f(public)); revisit, CE(y, f(private)); upload the predictions
    p_k for the round's public examples. Server: consensus = mean_k p_k.
    Up: 4 C P_r bytes. Down: 4 C P_r, and 4 P_r of row numbers when a round asks about a part only.

    Conventions: clients send probabilities where the paper's code sends logits and fits them by
    mean absolute error, since a single client can turn a mean of logits at will. The consensus is
    digested at the start of the next round, and the model in use is the one after revisiting.
    """

    distill: Training = Training(learning_rate=0.5, epochs=3)
    public_size: int | None = None

    properties = Properties(
        public="unlabelled",
        up="predictions for the round's public examples",
        down="the mean prediction for each of them",
        architectures="any",
        sum_suffices=True,
        server_learns="the client's predictions for public examples",
    )

    def __post_init__(self) -> None:
        check_public_size(self.public_size)

    @property
    def public_training(self) -> Training:
        """How the consensus is digested."""
        return self.distill

    @property
    def asks(self) -> int | None:
        """P_r."""
        return self.public_size

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The newest consensus, the same for all."""
        return server

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Digest, revisit, predict."""
        assert public is not None
        if received:
            params = digest(predict, params, received, public, self.distill)
        params = fit(predict, params, private, self.local, _hard)
        logits = logits_of(predict, params, public.x, public.rows)
        return params, Upload({"probabilities": logits.softmax(dim=-1)}, private.size)

    def claims(self, task: Task, group: str) -> dict[str, Claim]:
        """A distribution for each public example of the round."""
        return predictions_claim(task, self.public_size)

    def server_update(
        self, task: Task, server: Server, uploads: Sequence[Received], public: Public | None
    ) -> Server:
        """Each client counts once."""
        assert public is not None
        consensus = ensemble.mean(torch.stack([u.payload["probabilities"] for u in uploads]))
        return consensus_message(consensus, public)


def check_public_size(public_size: int | None) -> None:
    """Raise ValueError unless it is None, for all public examples, or a number of them."""
    if public_size is not None and public_size < 1:
        raise ValueError(f"public_size must be >= 1, or None for all, got {public_size}")


def digest(
    predict: Predict, params: Params, received: Message, public: Public, training: Training
) -> Params:
    """Fit a model to a consensus, (P_r, C) probabilities, on the public examples it is about."""
    lesson = public.lesson(received["consensus"], received.get("rows"))
    return fit(predict, params, lesson, training, _soft)


def consensus_message(consensus: Tensor, public: Public) -> Server:
    """A consensus, with the rows it is about unless it is about all public examples."""
    if len(public.rows) == len(public.x):
        return {"consensus": consensus}
    return {"consensus": consensus, "rows": public.rows.int()}


def predictions_claim(task: Task, public_size: int | None) -> dict[str, Claim]:
    """A distribution over the classes for each public example of a round."""
    assert task.public is not None
    count = min(public_size or len(task.public), len(task.public))
    return {"probabilities": Claim((count, task.num_classes), simplex=True)}


def _hard(outputs: Outputs, y: Tensor) -> Tensor:
    return cross_entropy(outputs.logits, y)


def _soft(outputs: Outputs, y: Tensor) -> Tensor:
    return soft_cross_entropy(outputs.logits, y)
