"""FedTGP: the server trains prototypes that keep their distance from each other."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedkd.algorithms.fedproto import FedProto
from fedkd.components.features import feature_width
from fedkd.core import Properties, Public, Server, Task
from fedkd.messages import Received
from fedkd.models import mlp
from kdcore.losses.response import cross_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.settings import Setting
from kdcore.training.loop import Examples, Params, Predict, TrainingConfig, draw, fit


@dataclass(frozen=True)
class FedTGP(FedProto):
    """Trainable global prototypes with adaptive-margin-enhanced contrastive learning.

    Jianqing Zhang, Yang Liu, Yang Hua, Jian Cao. "FedTGP: Trainable Global Prototypes with
    Adaptive-Margin-Enhanced Contrastive Learning for Data and Model Heterogeneity in Federated
    Learning". AAAI 2024. https://arxiv.org/abs/2401.03230

    Clients: as in FedProto. Server: P[l] = MLP(e_l) with a trained vector e_l in R^D for each
    label; on the prototypes P_k[l] of all clients, minimise
        -log softmax_l(-||P_k[l] - P[l']|| - margin [l' = l]),   with
        margin = min(max_l min_{l' != l} ||Q[l] - Q[l']||, `margin`), Q[l] the mean of the P_k[l].
    Up: P_k, only the rows of labels held, 4 D bytes each. Down: P, 4 D C bytes.

    Conventions: those of FedProto, with the strength for the mean over features (the authors' 10;
    for the paper's norm it is smaller). A label that no client has held yet has no prototype. The
    server's optimiser starts afresh in each round.

    Trap: the authors' clients (TsingZ0/FedTGP) read their model from a file to take its prototypes,
    and save the one that they have just trained only after that: what they send are prototypes of
    before the round, which `prototypes` "before" does. Neither are their mini-batches shuffled, and
    the last one, if it is small, is never seen; here they are, and it is.
    """

    strength: float = 10.0
    margin: Annotated[float, Setting("most that prototypes are set apart", ge=0)] = 100.0
    server: TrainingConfig = TrainingConfig(learning_rate=0.01, epochs=100, batch_size=10)
    prototypes: Annotated[
        Literal["after", "before"], Setting("training in the round, of which prototypes are")
    ] = field(default="after", metadata={"added": True})

    properties = Properties(
        public="none",
        up="the mean features for each label held",
        down="a trained prototype for each label",
        architectures="one feature width",
        summand="none",
        server_learns="which labels the client holds, and its mean features for each",
        beyond_training=("prototypes", "rows"),
    )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The network that makes prototypes, untrained; no prototypes yet."""
        width = feature_width(task)
        labels = torch.randn(task.num_classes, width, generator=generator)
        network = {"labels": labels} | mlp((width,), width, (width,)).init(generator)
        return {f"tgp.{name}": value for name, value in network.items()} | {
            "seed": torch.randint(2**31, (1,), generator=generator),
            "round": torch.tensor([0]),
            "seen": torch.zeros(task.num_classes),
        }

    def _shown(self, before: Params, after: Params) -> Params:
        return before if self.prototypes == "before" else after

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Train the prototypes to be near those of the clients, and apart."""
        places, labels = [], []
        for upload in uploads:
            assert upload.rows is not None
            places.append(upload.payload["prototypes"])
            labels.append(upload.rows)
        client, y = torch.stack(labels).nonzero(as_tuple=True)
        x = torch.stack(places)[client, y]
        number = server["round"] + 1
        if not len(y):
            return server | {"round": number}
        examples = Examples(x, y, torch.arange(len(y)))
        shuffle = stream(int(server["seed"]), "prototypes", int(number))
        batches = draw(examples, self.server, shuffle)
        network = {k.removeprefix("tgp."): v for k, v in server.items() if k.startswith("tgp.")}
        made = maker(x.shape[1])
        margin = adaptive_margin(x, y, task.num_classes, self.margin)
        network = fit(distances(made), network, batches, self.server, apart, margin)
        seen = server["seen"].index_fill(0, y, 1.0)
        return {f"tgp.{name}": value for name, value in network.items()} | {
            "prototypes": made(network, network["labels"]).logits * seen.unsqueeze(1),
            "seed": server["seed"],
            "round": number,
            "seen": seen,
        }


def maker(width: int) -> Predict:
    """The network that makes prototypes, (C, D), of the labels' vectors, (C, D)."""
    return mlp((width,), width, (width,)).predict


def distances(made: Predict) -> Predict:
    """A network whose logits are the negative distances to the prototypes that it makes."""

    def predict(params: Params, x: Tensor) -> Outputs:
        prototypes = made(params, params["labels"]).logits
        exact = "donot_use_mm_for_euclid_dist"
        return Outputs(-torch.cdist(x, prototypes, compute_mode=exact))

    return predict


def apart(outputs: Outputs, y: Tensor, margin: Tensor) -> Tensor:
    """Cross-entropy, where the own label is handicapped by a margin."""
    own = torch.nn.functional.one_hot(y, outputs.logits.shape[-1])
    return cross_entropy(outputs.logits - margin * own, y)


def adaptive_margin(x: Tensor, y: Tensor, classes: int, most: float) -> Tensor:
    """The largest of the labels' distances to their nearest neighbour; `most` for one label alone.

    Shapes:
        x: (M, D) prototypes of clients; y: (M,) their labels; gives ().
    """
    member = torch.nn.functional.one_hot(y, classes).to(x.dtype)
    count = member.sum(dim=0)
    means = (member.T @ x)[count > 0] / count[count > 0].unsqueeze(1)
    gaps = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = gaps.fill_diagonal_(torch.inf).amin(dim=1)
    return nearest.max().clamp(max=most)
