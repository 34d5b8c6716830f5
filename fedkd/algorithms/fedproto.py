"""FedProto: clients exchange their mean features for each label."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedkd.components.features import feature_width, head_names, mean_features
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import ROWS, Message, PayloadSpec, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, fit

NOWHERE = -1e9  # the logit of a label that has no prototype


@dataclass(frozen=True)
class FedProto(Algorithm):
    """Federated prototype learning.

    Yue Tan, Guodong Long, Lu Liu, Tianyi Zhou, Qinghua Lu, Jing Jiang, Chengqi Zhang. "FedProto:
    Federated Prototype Learning across Heterogeneous Clients". AAAI 2022.
    https://arxiv.org/abs/2105.00243

    With h(x) in R^D the features before the last layer: client k sends P_k[l] = mean of h(x) over
    its examples with label l; trains on CE(y, f(x)) + strength mean_d (h(x) - P[y])_d^2.
    Server: P[l] = mean of P_k[l] over the clients that hold label l. In use: the label whose
    prototype is nearest to h(x).
    Up: P_k, only the rows of labels held, 4 D bytes each. Down: P, 4 D C bytes.

    Conventions: the distance is the mean over the D features, as in the authors' code; with the
    paper's squared norm the strength is D times smaller. Each client counts once, as in the code;
    the paper's formula weighs by examples and divides by the number of clients as well. Prototypes
    are taken with the trained model. A label without a prototype has a row of zeros; it attracts
    nothing and is never the answer; one that nobody of the newest cohort holds keeps its own. The
    nearest prototype is found among all, not among the client's own labels as in the code. With
    `answer` "head" a client answers with its own last layer, which the code prints as well.
    """

    strength: Annotated[float, Setting("weight of the distance to P[y]", ge=0)] = 1.0
    answer: Annotated[Literal["prototypes", "head"], Setting("by what a client predicts")] = (
        "prototypes"
    )

    properties = Properties(
        public="none",
        up="the mean features for each label held",
        down="the mean of these for each label",
        architectures="one feature width",
        summand="payload",
        server_learns="which labels the client holds, and its mean features for each",
        beyond_training=("prototypes", "rows"),
    )

    def check(self, task: Task) -> None:
        """All models have features of one width."""
        feature_width(task)

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The prototypes, the same for all."""
        return {key: value for key, value in server.items() if key == "prototypes"}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train with features drawn to the prototypes, then take the mean of the own ones."""

        def loss(outputs: Outputs, y: Tensor, received: Message) -> Tensor:
            hard = self.target.loss(outputs, y)
            if not received:
                return hard
            target = received["prototypes"][y]
            gap = (outputs.hidden[-1] - target).square().mean(dim=-1)
            return hard + self.strength * _known(target) * gap

        trained = fit(predict, params, private, self.local, loss, received)
        means, held = mean_features(predict, self._shown(params, trained), private)
        return trained, Upload({"prototypes": means}, rows=held)

    def _shown(self, before: Params, after: Params) -> Params:
        """Of which parameters prototypes are."""
        return after

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The prototypes, unless the client's own head answers."""
        return {} if self.answer == "head" else self.broadcast(server, client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The nearest prototype: -|h - P|^2 = 2 h P - |P|^2 - |h|^2 is linear, but for the last."""
        if not received:
            return params
        prototypes = received["prototypes"]
        weight, bias = head_names(params)
        norms = prototypes.square().sum(dim=-1)
        shift = torch.where(_known(prototypes) > 0, -norms, NOWHERE)
        return params | {weight: 2 * prototypes, bias: shift}

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A row of features for each label."""
        return {"prototypes": PayloadSpec((task.num_classes, feature_width(task)), rows=True)}

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """The mean over those that hold a label; labels that nobody holds keep their prototype."""
        held = total[ROWS].unsqueeze(1)
        means = as_sent(total["prototypes"] / held.clamp(min=1))
        before = server.get("prototypes", torch.zeros_like(means))
        return {"prototypes": torch.where(held > 0, means, before)}


def _known(prototypes: Tensor) -> Tensor:
    """Which rows are prototypes, 1 or 0."""
    return (prototypes != 0).any(dim=-1).to(prototypes.dtype)
