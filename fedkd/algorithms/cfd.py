"""CFD: consensus by votes, in a few bits, and a student at the server."""

from dataclasses import dataclass
from typing import Annotated

import torch

from fedkd.algorithms.fedavg import of_group
from fedkd.communication.compression import CONSENSUS, argmax, deflate, delta, simplex
from fedkd.components.aggregation import Aggregating
from fedkd.components.public_consensus import (
    predictions,
    predictions_spec,
    student,
    student_steps,
    trained_and_asked,
)
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Stage, Upload
from kdcore.rng import generator as stream
from kdcore.settings import Setting
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit

MODEL = "model"


@dataclass(frozen=True)
class CFD(Aggregating):
    """Compressed federated distillation.

    Felix Sattler, Arturo Marban, Roman Rischke, Wojciech Samek. "CFD: Communication-Efficient
    Federated Distillation via Soft-Label Quantization and Delta Coding". IEEE Transactions on
    Network Science and Engineering 2022. https://arxiv.org/abs/2012.00632

    Client: digest, CE(q, f(public)); train, CE(y, f(private)); upload Q_up(softmax(f(public))).
    Server: its own model g <- argmin CE(mean_k p_k, g(public)); broadcast q = Q_down(softmax(
    g(public))). That both ends distil is the paper's dual distillation. Q_b takes the nearest
    distribution on a grid of 2^b - 1 steps; with one bit, the likeliest class.
    Up: P ceil(log2 C) bits for one bit, b C P for b bits, in the place of 4 C P bytes; less what
    delta and entropy coding save.
    Down: b C P bits, less what entropy coding saves. With each message, a header of some 20 bytes.

    Conventions: up, a code is sent as its difference from the code of the consensus of the last
    round (`fedkd.communication.compression.delta`), where the paper takes the client's own last
    upload; down, no differences are sent, so that a client that was away misses nothing. zlib
    codes what is left. The server's model is of the architecture with the most parameters, and
    goes on from round to round, trained at the server's own pace (`server`). The coding is the last
    stage of whatever channel there is; all public examples are asked about in every round, without
    the paper's active selection. The model in use is the one that has digested the newest q.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.05, epochs=3)
    server: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=30)
    bits_up: Annotated[int, Setting("bits of a probability, up", ge=1, le=8)] = 1
    bits_down: Annotated[int, Setting("bits of one, down", ge=1, le=8)] = 8

    properties = Properties(
        public="unlabelled",
        up="predictions for public examples, in a few bits",
        down="the server model's predictions for them, in a few bits",
        architectures="any",
        summand="payload",
        server_learns="the client's quantised predictions for public examples",
        targets=("class", "sequence"),
        distils=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule.distributions and self.bits_up == 1:
            raise ValueError(
                f"aggregation {self.aggregation} weighs rows by how sure they are, and of one bit "
                "all are; take bits_up >= 2"
            )

        if self.rule.placed:
            raise ValueError(
                f"aggregation {self.aggregation} needs more than predictions to be sent, and CFD's "
                "code is of these alone; take dsfl or fedmd"
            )

    @property
    def public_training(self) -> TrainingConfig:
        """How clients distil."""
        return self.distill

    @property
    def uplink(self) -> tuple[Stage, ...]:
        """Q_up, differences, entropy coding."""
        return delta(argmax() if self.bits_up == 1 else simplex(self.bits_up), CONSENSUS), deflate()

    @property
    def downlink(self) -> tuple[Stage, ...]:
        """Q_down, entropy coding."""
        return argmax() if self.bits_down == 1 else simplex(self.bits_down), deflate()

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The server's model, untrained, and the seed of its shuffles."""
        params = task.models[largest(task)].init(generator)
        seed = torch.randint(2**62, (1,), generator=generator)
        counted = {"seed": seed, "round": torch.zeros(1, dtype=torch.long)}
        return counted | {f"{MODEL}/{name}": value for name, value in params.items()}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """What the server's model says, the same for all."""
        return {"consensus": server["consensus"]} if "consensus" in server else {}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Distil, train, predict."""
        assert public is not None
        params = self.deploy(predict, params, received, public)
        return trained_and_asked(predict, params, private, public, self.local, self.target)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a consensus, and private ones."""
        return student_steps(received, public) + private.steps

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """What the server's model says."""
        return self.broadcast(server, client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The student of the server's model."""
        return student(predict, params, received, public, self.distill, self.target)

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each public example."""
        return predictions_spec(task, None)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Distil the mean of the votes into the server's model, and let that speak."""
        assert public is not None
        votes = as_sent(self.pooled(total, task.target.sent, count, task.target))
        votes = task.target.known(votes, public.labels)
        shuffles = stream(int(server["seed"]), "shuffle", int(server["round"]))
        batches = draw(Examples(public.x, votes, public.rows), self.server, shuffles)
        predict = task.models[largest(task)].predict
        params = fit(predict, of_group(server, MODEL), batches, self.server, task.target.towards)
        consensus = predictions(predict, params, public, task.target)
        after = {"consensus": consensus, "round": server["round"] + 1}
        return server | after | {f"{MODEL}/{name}": value for name, value in params.items()}


def largest(task: Task) -> str:
    """The architecture with the most parameters; of equals, the last by name."""

    def size(group: str) -> int:
        initial = task.models[group].init(torch.Generator().manual_seed(0))
        return sum(value.numel() for value in initial.values())

    return max(sorted(task.models), key=lambda group: (size(group), group))
