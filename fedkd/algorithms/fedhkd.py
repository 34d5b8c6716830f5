"""FedHKD: federated averaging with mean features and mean predictions of each label as teachers."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg, of_group
from fedkd.components.features import (
    each_once,
    feature_width,
    head_names,
    label_counts,
    label_means,
)
from fedkd.components.sample_exchange import features_and_logits
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, fit

KNOWN = "known"  # what all know of each label: hyper-knowledge
OF_LABELS = ("features", "predictions", "shares")


@dataclass(frozen=True)
class FedHKD(FedAvg):
    """Federated hyper-knowledge distillation.

    Huancheng Chen, Chaining Wang, Haris Vikalo. "The Best of Both Worlds: Accurate Global and
    Personalized Models through Federated Learning with Data-Free Hyper-Knowledge Distillation".
    ICLR 2023. https://arxiv.org/abs/2301.08968

    With features h(x) in R^D, the head g and q_T = softmax(g(.) / T): client k has, of each label
    l of which it holds n_kl examples, the means H_k[l] of h(x) and Q_k[l] of q_T(h(x)).
    Client: CE(y, f(x)) + a mean_l |q_T(H[l]) - Q[l]| + b |h(x) - H[y]|, from the average, with
    a = `answer_weight` and b = `feature_weight`. Server: averages parameters;
    H[l] = sum_k n_kl H_k[l] / sum_k n_kl, and so Q[l].
    Up: 4 W bytes, 4 C (D + C + 1), and n_k. Down: 4 W, and 4 C (D + C).

    Conventions: the paper itself was not at hand: the loss, its norms that are not squared, and the
    0.25 of `least` are from memory and a pilot; a, b and T are those of the authors' code
    (CityChan/Federated-Hyper-Knowledge-Distillation, read, not copied). A client sends
    (n_kl / n_k) H_k[l], (n_kl / n_k) Q_k[l] and n_kl / n_k, so that a weighted sum is all that the
    server needs. Norms are Euclidean and not squared, as in FL-bench, which is written after the
    paper; the authors' code takes a divergence and a mean square, averages the parameters of all
    clients alike, has each client overwrite what others told of its labels, adds the same noise to
    all of a client's means, and trains by Adam at 0.001, clipped at a norm of 1.1, five epochs in
    batches of 64. Labels of less than `least` n_k / C examples are not told. A label
    of which nobody of the cohort tells is known as before; one of which nobody ever told adds
    nothing. The paper has clients add noise to mean features before they send them. Here there is
    none, and noise on the sum (`--noise`) is refused: H[l] and Q[l] are quotients of two parts of
    it, and of a noisy one by another that is near 0 nothing is left. Of ten clients on digits, with
    one round's noise of a tenth of the bound, "probabilities" of Q went from -317 to 418.
    """

    answer_weight: Annotated[float, Setting("a, of mean predictions", ge=0)] = 0.05
    feature_weight: Annotated[float, Setting("b, of mean features", ge=0)] = 0.05
    temperature: Annotated[float, Setting("T, of the predictions", gt=0)] = 0.5
    least: Annotated[float, Setting("share of an even one that a label needs", ge=0)] = 0.25

    properties = Properties(
        public="none",
        up="all parameters, and mean features, mean soft label and share of each label",
        down="all parameters of the group's average, and these means of all",
        architectures="shared within a group",
        summand="weighted payload",
        server_learns="the client's parameters, its examples of each label, and means of each",
        beyond_training=("features", "predictions", "shares", "weight"),
        divides=True,
    )

    def check(self, task: Task) -> None:
        """All models have linear heads on features of one width."""
        feature_width(task)

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group, and what is known of labels."""
        return of_group(server, group) | of_group(server, KNOWN)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the average near what is known of each label; tell what the labels are now."""
        weight, bias = head_names(params)
        averaged = {name: value for name, value in received.items() if name in params}
        known = {name: value for name, value in received.items() if name not in params}

        def loss(outputs: Outputs, y: Tensor, known: Message) -> Tensor:
            hard = self.target.loss(outputs, y)
            if not known:
                return hard
            gap = outputs.hidden[-1] - known["features"][y]
            far: Tensor = torch.linalg.vector_norm(gap, dim=-1)
            return hard + self.feature_weight * _there(known)[y] * far

        def on_means(params: Params, y: Tensor, known: Message) -> Tensor:
            said = F.linear(known["features"], params[weight], params[bias]) / self.temperature
            gaps: Tensor = torch.linalg.vector_norm(
                said.softmax(dim=-1) - known["predictions"], dim=-1
            )
            return self.answer_weight * (_there(known) * gaps).mean()

        extra = on_means if known else None
        trained = fit(predict, params | averaged, private, self.local, loss, known, penalty=extra)
        sent = self._of_labels(predict, trained, private)
        return trained, Upload({name: trained[name] for name in averaged} | sent, private.size)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter, in its shape, and three rows for each label."""
        classes, width = task.num_classes, feature_width(task)
        shares = {
            "predictions": PayloadSpec((classes, classes), least=0.0, most=1.0),
            "shares": PayloadSpec((classes,), least=0.0, most=1.0),
        }
        features = {"features": PayloadSpec((classes, width))}
        return super().payload_spec(task, group) | features | shares

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Average by number of examples, group by group, and by label over all groups."""
        sums: dict[str, list[Tensor]] = {name: [] for name in OF_LABELS}
        weights: Message = {}
        for key, value in total.items():
            sums.get(key.rpartition("/")[2], []).append(value)
            weights |= {} if key.rpartition("/")[2] in sums else {key: value}
        after = super().server_from_sum(task, server, weights, count, public)
        features, predictions, shares = (torch.stack(sums[name]).sum(dim=0) for name in OF_LABELS)
        known = (shares > 0).unsqueeze(1)
        for name, means in (("features", features), ("predictions", predictions)):
            fresh, key = as_sent(means / shares.unsqueeze(1).where(known, 1)), f"{KNOWN}/{name}"
            after[key] = fresh.where(known, server.get(key, torch.zeros_like(fresh)))
        return after

    def _of_labels(self, predict: Predict, params: Params, private: Batches) -> Message:
        """Means and share of each label, the means times the share."""
        once, classes = each_once(private), len(params[head_names(params)[1]])
        hidden, logits = features_and_logits(predict, params, private.x, once)
        features, _ = label_means(hidden, private, classes)
        predictions, _ = label_means((logits / self.temperature).softmax(dim=-1), private, classes)
        shares = label_counts(private, classes) / private.size.clamp(min=1)
        shares = shares * (shares >= self.least / classes)
        each = shares.unsqueeze(1)
        return dict(zip(OF_LABELS, (each * features, each * predictions, shares), strict=True))


def _there(known: Message) -> Tensor:
    """Which labels somebody told of, 1 or 0: the others' predictions are no distributions."""
    predictions = known["predictions"]
    return (predictions.sum(dim=-1) > 0).to(predictions.dtype)
