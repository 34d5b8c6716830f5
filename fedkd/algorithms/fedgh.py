"""FedGH: the server trains one head for all, on the mean features of its clients."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedkd.algorithms.fedavg import of_group
from fedkd.components.features import feature_width, head_names, mean_features
from fedkd.core import Algorithm, Model, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from fedkd.models import mlp
from kdcore.rng import generator as stream
from kdcore.training.loop import (
    Batches,
    Examples,
    Params,
    Predict,
    TrainingConfig,
    draw,
    fit,
    supervised,
)

HEAD = "head"


@dataclass(frozen=True)
class FedGH(Algorithm):
    """Federated learning with a generalised global header.

    Liping Yi, Gang Wang, Xiaoguang Liu, Zhuan Shi, Han Yu. "FedGH: Heterogeneous Federated Learning
    with Generalized Global Header". ACM Multimedia 2023. https://arxiv.org/abs/2303.13137

    With h(x) in R^D the features before the last layer and g the head: client k puts g in the place
    of its own, trains on CE(y, g(h(x))), and sends P_k[l] = mean of h(x) over its examples with
    label l. Server: g <- argmin sum_k sum_l CE(l, g(P_k[l])), from the g of before.
    Up: P_k, only the rows of labels held, 4 D bytes each. Down: g, 4 (D + 1) C bytes.

    Conventions: the paper itself was not at hand: the steps are those of HtFLlib's code and of the
    authors' (LipingYi/FedGH), read, not copied. The authors' server goes through the pairs
    (P_k[l], l) once, one by one, and yet its head stays as it was drawn: the optimiser that takes
    the steps is a client's and does not hold it. Here, as in HtFLlib's, mini-batches of all pairs,
    shuffled, with SGD by default (`server`), ten passes of them where it has one. Means are over
    all examples, by the trained model, as in HtFLlib's; the authors' are means of means of
    mini-batches. All begin with the server's head, drawn anew; with that of the first client in
    HtFLlib's, each with its own in the authors'. The model in use has the newest head, as in
    HtFLlib's; the authors score clients with the heads that they have just trained.
    """

    server: TrainingConfig = TrainingConfig(learning_rate=0.1, epochs=10, batch_size=10)

    properties = Properties(
        public="none",
        up="the mean features for each label held",
        down="a head trained on these",
        architectures="one feature width",
        summand="none",
        server_learns="which labels the client holds, and its mean features for each",
        beyond_training=("prototypes", "rows"),
    )

    def check(self, task: Task) -> None:
        """All models have linear heads on features of one width."""
        feature_width(task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The head, untrained."""
        head = _head(task).init(generator)
        return {f"{HEAD}/{name}": value for name, value in head.items()} | {
            "seed": torch.randint(2**62, (1,), generator=generator),
            "round": torch.zeros(1, dtype=torch.long),
        }

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The head, the same for all."""
        return of_group(server, HEAD)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the head received, then take the mean of the features."""
        start = self.deploy(predict, params, received, public)
        params = fit(predict, start, private, self.local, self.target.loss)
        means, held = mean_features(predict, params, private)
        return params, Upload({"prototypes": means}, rows=held)

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The head."""
        return self.broadcast(server, client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The client's own features, and the head of all."""
        weight, bias = head_names(params)
        return params | {weight: received["layer0.weight"], bias: received["layer0.bias"]}

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A row of features for each label."""
        return {"prototypes": PayloadSpec((task.num_classes, feature_width(task)), rows=True)}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Train the head on everybody's means, each with its label."""
        means, labels = [], []
        for upload in uploads:
            assert upload.rows is not None
            means.append(upload.payload["prototypes"])
            labels.append(upload.rows)
        client, y = torch.stack(labels).nonzero(as_tuple=True)
        x = torch.stack(means)[client, y]
        shuffles = stream(int(server["seed"]), "shuffle", int(server["round"]))
        batches = draw(Examples(x, y, torch.arange(len(y))), self.server, shuffles)
        head = of_group(server, HEAD)
        head = fit(_head(task).predict, head, batches, self.server, supervised)
        after = {f"{HEAD}/{name}": value for name, value in head.items()}
        return server | after | {"round": server["round"] + 1}


def _head(task: Task) -> Model:
    """A linear layer on features, (N, D) -> (N, C)."""
    return mlp((feature_width(task),), task.num_classes, ())
