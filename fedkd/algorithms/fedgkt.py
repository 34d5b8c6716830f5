"""FedGKT: small networks at the clients, a large one at the server, which learn from each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import of_group
from fedkd.components.sample_exchange import (
    SHOWN,
    claims_by_example,
    features_and_logits,
    network_on_features,
    own_examples,
    with_teacher,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.losses.response import kl
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, logits_of


@dataclass(frozen=True)
class FedGKT(Algorithm):
    """Group knowledge transfer.

    Chaoyang He, Murali Annavaram, Salman Avestimehr. "Group Knowledge Transfer: Federated Learning
    of Large CNNs at the Edge". NeurIPS 2020. https://arxiv.org/abs/2007.14513

    Client: CE(y, z_c) + a T^2 KL(softmax(z_s / T) || softmax(z_c / T)) with the server's logits
    z_s for its own examples; upload, for every private example, the features h, the logits z_c and
    the label y. Server: a network on features, T^2 KL(softmax(z_c / T) || softmax(z_s / T)) +
    a CE(y, z_s), with a = `loss_weight`; send back z_s for each example.
    Up: (4 D + 4 C + 4) bytes for each private example. Down: 4 C bytes for each.

    Conventions: features are the last hidden layer that a client's model shows, a vector, and not a
    map; the server's network on them is a multi-layer perceptron of two hidden layers, one network
    for each architecture of clients. Both ends name an example by its place among the client's
    own, in an order that no shuffle touches: the logits that come back are those of that very
    example. What is measured is the clients' own networks; the paper measures the features of a
    client under the server's network. Clients not in a round keep the logits that they last got.
    """

    server: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=5, batch_size=64)
    server_width: Annotated[int, Setting("of its hidden layers", ge=1, le=WIDEST)] = 128
    loss_weight: Annotated[float, Setting("a, of the other side's logits", ge=0)] = 1.0
    temperature: Annotated[float, Setting("T, of both divergences", gt=0)] = 3.0

    properties = Properties(
        public="none",
        up="features, logits and label of every private example",
        down="the server's logits for each of them",
        architectures="any",
        summand="none",
        server_learns="features, label and the client's logits of every private example",
        beyond_training=("features", "logits", "labels", "rows"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.local.passes("fedgkt")

    def check(self, task: Task) -> None:
        """The models have to show features."""
        for group in task.models:
            claims_by_example(task, group)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """A network for the features of each architecture, and the seed of their shuffles."""
        seed = torch.randint(2**62, (1,), generator=generator)
        server = {"seed": seed, "round": torch.zeros(1, dtype=torch.long)}
        for group in sorted(task.models):
            params = network_on_features(task, group, self.server_width).init(generator)
            server |= {f"net/{group}/{name}": value for name, value in params.items()}
        return server

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The server's logits for the client's examples, in the order of `own_examples`."""
        key = f"logits/{client}"
        return {"logits": server[key]} if key in server else {}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train, with the server as a teacher once it has spoken; show what came out."""

        def loss(outputs: Outputs, y: Tensor | tuple[Tensor, Tensor]) -> Tensor:
            if isinstance(y, Tensor):
                return self.target.loss(outputs, y)
            taught = kl(outputs.logits, y[1], self.temperature)
            return self.target.loss(outputs, y[0]) + self.loss_weight * taught

        examples, spare, held = own_examples(private, self.local.epochs)
        batches = with_teacher(private, examples, received["logits"]) if received else private
        params = fit(predict, params, batches, self.local, loss)
        shown = torch.where(held > 0, examples, spare)
        hidden, logits = features_and_logits(predict, params, private.x, shown)
        payload = dict(zip(SHOWN, (hidden, logits, private.y[shown].int()), strict=True))
        return params, Upload(payload, rows=held)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Of as many examples as the client has: vectors, logits, labels."""
        return claims_by_example(task, group)

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Train on everybody's features, architecture by architecture, and say what came out."""
        lots: dict[str, list[Received]] = {}
        for upload in uploads:
            lots.setdefault(upload.group, []).append(upload)
        after = server | {"round": server["round"] + 1}
        for group in sorted(lots):
            shuffles = stream(int(server["seed"]), "shuffle", int(server["round"]), group)
            after |= self._taught(task, after, group, lots[group], shuffles)
        return after

    def _taught(
        self,
        task: Task,
        server: Server,
        group: str,
        lots: list[Received],
        shuffles: torch.Generator,
    ) -> Server:
        """One network after a round, and its logits for each client that has examples."""
        held = [one.rows.bool() for one in lots if one.rows is not None]
        index, sizes = torch.cat(held).nonzero().flatten(), torch.stack([h.sum() for h in held])
        hidden, logits, labels = (torch.cat([o.payload[k] for o in lots])[index] for k in SHOWN)
        if not len(labels):
            return {}

        def loss(outputs: Outputs, y: tuple[Tensor, Tensor]) -> Tensor:
            taught = kl(outputs.logits, y[1], self.temperature)
            return taught + self.loss_weight * task.target.loss(outputs, y[0])

        everything = torch.arange(len(labels))
        batches = draw(Examples(hidden, labels.long(), everything), self.server, shuffles)
        predict = network_on_features(task, group, self.server_width).predict
        params = of_group(server, f"net/{group}")
        params = fit(predict, params, batches._replace(y=(batches.y, logits)), self.server, loss)
        parts = logits_of(predict, params, hidden, everything).split(sizes.tolist())
        mine = {f"logits/{o.client}": p for o, p in zip(lots, parts, strict=True) if len(p)}
        return mine | {f"net/{group}/{name}": value for name, value in params.items()}
