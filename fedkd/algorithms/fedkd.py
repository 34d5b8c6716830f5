"""FedKD: a mentor that stays and a mentee that is shared, whose updates go up with few ranks."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.algorithms.fedavg import average, of_group
from fedkd.communication.compression.low_rank import by_broadcast
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
from fedkd.messages import Message, PayloadSpec, Stage, Upload
from fedkd.targets import Target
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Network, Params, Predict, fit

FLOOR = 0.1  # of what the distillation is divided by, which otherwise vanishes as models get good


@dataclass(frozen=True)
class FedKD(Algorithm):
    """Communication-efficient federated learning via knowledge distillation.

    Chuhan Wu, Fangzhao Wu, Lingjuan Lyu, Yongfeng Huang, Xing Xie. "Communication-efficient
    federated learning via knowledge distillation". Nature Communications 13, 2022.
    https://arxiv.org/abs/2108.13323

    Client: its mentor f and the shared mentee g, with features h_f and h_g, are trained at once on
        CE(y, f) + KL(g || f) / (CE(y, f) + CE(y, g)) for the mentor,
        CE(y, g) + KL(f || g) / (CE(y, f) + CE(y, g)) for the mentee,
        mean_d (h_f - V h_g)_d^2 / (CE(y, f) + CE(y, g)) for both and for the map V,
    and it sends the mentee's update by its largest singular triplets: the least K with
    sum_{i <= K} s_i^2 >= T sum_i s_i^2, where T goes from `energy_start` to `energy_end` in
    `ramp` rounds, or with 0 from the first round of the run to its last. Server: mentee + the
    mean update by number of examples.
    Up: 4 K (O + I) bytes for a matrix (O, I), 4 O I where that is less, and 4 W for vectors; one
    triplet at least; and the number of examples. Down: the mentee, 4 W bytes, and T.

    Conventions: in each KL the peer is a constant, summed over the classes; so is the divisor,
    which is taken for each example, and is FLOOR at least. V starts each round as the identity, and
    attention is not compared. Updates are factored, not parameters; a kernel (o, c, k, k) is a
    matrix (o, c k k). The server sends the mentee whole: the paper's factors of the mean update are
    of no use to those who missed a round. A sum of updates would do for the server, but not a sum
    of the factors in which they are sent. The model in use is the mentor.

    Traps: the authors' T follows the number of rounds (wuch15/FedKD, run.py), as `ramp` 0 does;
    the default of 100 leaves a run of ten at 0.953. Their code looks for K among 0 .. n - 1, with
    the energy of the K before it: a matrix that needs all its n triplets is left K = 0, and becomes
    zero, as do small kernels and heads in the libraries that have this loop; here it goes whole.
    There and in HtFLlib a KL is divided by the number of classes as well (`KLDivLoss()`), and each
    network is drawn by both its own loss and the other's, since no peer is a constant.
    """

    mentee: Annotated[str, Setting("the shared model's architecture")] = "mlp"
    energy_start: Annotated[float, Setting("T of the first round", ge=0, le=1)] = 0.95
    energy_end: Annotated[float, Setting("T after the ramp", ge=0, le=1)] = 0.98
    ramp: Annotated[int, Setting("rounds from one to the other; 0: those of the run", ge=0)] = 100

    properties = Properties(
        public="none",
        up="the largest singular triplets of the shared model's update",
        down="the shared model's parameters",
        architectures="any",
        summand="weighted payload",
        server_learns="most of the shared model's update, and the number of the client's examples",
        beyond_training=("weight",),
        targets=("class", "real", "labels"),
        distils=True,
    )

    @property
    def uplink(self) -> tuple[Stage, ...]:
        """The largest singular triplets, by the energy that the server asks for."""
        return (by_broadcast("energy"),)

    def check(self, task: Task) -> None:
        """The mentee can be built, and it is known how long the energy takes to rise."""
        shared_model(task, self.mentee)
        if not self.ramp and not task.rounds:
            raise ValueError(
                "FedKD's ramp is 0, the rounds of the run, and how many these are is not said; "
                "give ramp, or Task(..., rounds=...)"
            )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The first mentee."""
        initial = shared_model(task, self.mentee).init(generator)
        server = {f"mentee/{k}": v for k, v in initial.items()} | {"round": torch.tensor([0])}
        return server if self.ramp else server | {"ramp": torch.tensor([max(1, task.rounds - 1)])}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The mentee and the energy to keep, the same for all."""
        return of_group(server, "mentee") | {"energy": self._energy(server)}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Let mentor and mentee teach each other, and send what the mentee has learnt."""
        mentee = {key: value for key, value in received.items() if key != "energy"}
        both = pair(predict, shared_predict(self.mentee, private.x, predict))
        start = joined(params, mentee)
        shown = both(start, tree_map(lambda one: one[:1], private.x)).hidden
        start["map"] = torch.eye(
            shown[1].shape[-1], shown[2].shape[-1], dtype=shown[1].dtype, device=shown[1].device
        )
        loss = partial(_mutual, self.target)
        trained = fit(_mapped(both), start, private, self.local, loss)
        after = part(trained, SHARED)
        update = {key: after[key] - before for key, before in mentee.items()}
        return part(trained, OWN), Upload(update, private.size)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """The update of every parameter of the mentee, in its shape."""
        return shared_claims(task, self.mentee, "update")

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Add the mean update to the mentee."""
        mean = average(total)
        moved = {f"mentee/{k}": server[f"mentee/{k}"] + value for k, value in mean.items()}
        return server | moved | {"round": server["round"] + 1}

    def _energy(self, server: Server) -> Tensor:
        """T for the round after so many rounds."""
        progress = (server["round"] / (self.ramp or server["ramp"])).clamp(max=1)
        return self.energy_start + (self.energy_end - self.energy_start) * progress


def _mapped(both: Network) -> Network:
    """The pair, with the mentee's features as the map turns them."""

    def form(predict: Predict) -> Predict:
        def mapped(params: Params, x: Tensor) -> Outputs:
            outputs = predict(params, x)
            mentee, features, others = outputs.hidden
            return Outputs(outputs.logits, (mentee, features, others @ params["map"].mT))

        return mapped

    if both.learn is None:
        return Network(form(both.one), form(both.stack))
    learns = both.learn

    def learn(params: Params, x: Any) -> tuple[Outputs, Params]:
        outputs, fresh = learns(params, x)
        return form(lambda *_: outputs)(params, x), fresh

    return Network(
        form(both.one), form(both.stack), learn=learn, alone=both.alone, least=both.least
    )


def _mutual(target: Target, outputs: Outputs, y: Tensor) -> Tensor:
    """The losses of both; the gap of features pulls at either side, as it does in either loss."""
    mentor, (mentee, features, others) = outputs.logits, outputs.hidden
    hard, also_hard = target.loss(Outputs(mentor), y), target.loss(Outputs(mentee), y)
    soft = target.divergence(mentor, mentee) + target.divergence(mentee, mentor)
    soft = soft + (features - others).square().mean(dim=-1)
    return hard + also_hard + soft / (hard + also_hard).detach().clamp(min=FLOOR)
