"""FML: each client's own model and a model that all share teach each other."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import average, of_group
from fedkd.components.paired_models import (
    OWN,
    SHARED,
    joined,
    pair,
    part,
    shared_claims,
    shared_model,
    shared_predict,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, fit


@dataclass(frozen=True)
class FML(Algorithm):
    """Federated mutual learning.

    Tao Shen, Jie Zhang, Xinkang Jia, Fengda Zhang, Gang Huang, Pan Zhou, Kun Kuang, Fei Wu, Chao
    Wu. "Federated Mutual Learning". 2020. https://arxiv.org/abs/2006.16765

    Client: its own model f of any architecture, and the shared meme g; both are trained at once on
        a CE(y, f(x)) + (1 - a) KL(g || f)  for the own model, a = `own_weight`,
        b CE(y, g(x)) + (1 - b) KL(f || g)  for the meme, b = `meme_weight`.
    Server: the mean of the memes by number of examples.
    Up and down: the meme's parameters, 4 W bytes each way in float32; up, the number of examples
    as well. The own model never leaves.

    Conventions: in each KL the peer is a constant, summed over the classes, at temperature 1. The
    model in use is the client's own. The meme's architecture is one of `fedkd.models`.

    Trap: HtFLlib and PFLlib divide each KL by C as well (`KLDivLoss()`), so that their weight a
    acts as C a / (C a + 1 - a) does here, 0.91 for their 0.5 and ten classes, with steps that are
    a + (1 - a) / C times as long. Nor is a peer a constant there: each network is drawn by both
    losses.
    """

    meme: Annotated[str, Setting("the shared model's architecture")] = "mlp"
    own_weight: Annotated[float, Setting("a, of labels, own model", ge=0, le=1)] = 0.5
    meme_weight: Annotated[float, Setting("b, of labels, the meme", ge=0, le=1)] = 0.5

    properties = Properties(
        public="none",
        up="the shared model's parameters",
        down="the mean of the shared model's parameters",
        architectures="any",
        summand="weighted payload",
        server_learns="the parameters of the shared model as the client trained it, and the number "
        "of its examples",
        beyond_training=("weight",),
        targets=("class", "real", "labels"),
        distils=True,
    )

    def check(self, task: Task) -> None:
        """The meme can be built."""
        shared_model(task, self.meme)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The first meme."""
        initial = shared_model(task, self.meme).init(generator)
        return {f"meme/{name}": value for name, value in initial.items()}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The meme, the same for all."""
        return of_group(server, "meme")

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Let the own model and the meme learn from the examples and from each other."""

        def loss(outputs: Outputs, y: Tensor) -> Tensor:
            own, meme = outputs.logits, outputs.hidden[0]
            a, b = self.own_weight, self.meme_weight
            of_own = a * says(Outputs(own), y) + (1 - a) * apart(own, meme)
            of_meme = b * says(Outputs(meme), y) + (1 - b) * apart(meme, own)
            return of_own + of_meme

        says, apart = self.target.loss, self.target.divergence
        both = pair(predict, shared_predict(self.meme, private.x, predict))
        trained = fit(both, joined(params, received), private, self.local, loss)
        return part(trained, OWN), Upload(part(trained, SHARED), private.size)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter of the meme, in its shape."""
        return shared_claims(task, self.meme)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Average the memes."""
        return server | {f"meme/{name}": value for name, value in average(total).items()}
