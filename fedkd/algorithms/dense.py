"""DENSE: in one round, and without data, the server distils its clients into one model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import FedAvg, apart, check_sent_whole, full_params, of_group, unsent
from fedkd.components.data_free.ensemble import Ensemble
from fedkd.components.data_free.inputs import SOURCES, Inputs, check_makeable
from fedkd.core import Properties, Public, Server, Task, leaving
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.losses.logarithms import divergence
from kdcore.losses.response import cross_entropy, kl
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit


@dataclass(frozen=True)
class DENSE(FedAvg):
    """Data-free one-shot federated learning.

    Jie Zhang, Chen Chen, Bo Li, Lingjuan Lyu, Shuang Wu, Shouhong Ding, Chunhua Shen, Chao Wu.
    "DENSE: Data-Free One-Shot Federated Learning". NeurIPS 2022. https://arxiv.org/abs/2112.12371

    Client: CE(y, f(x)), from its own initial parameters. Server: teacher D(x) = mean_k f_k(x), the
    mean of logits; f is the model that it trains. In each of `distill.epochs` turns a new generator
    G makes one more mini-batch of x = G(z) for drawn labels y, by minimising over G and z
        CE(y, D(x)) + statistics B(x) - adversarial mean 1[argmax D(x) != argmax f(x)] KL(D || f),
    with B(x) = mean_k sum_l |mean_l(x) - mean_kl| + |var_l(x) - var_kl| over layers of batch
    normalisation (none in the networks of `fedkd.models` but for `batch_norm`); then f passes once
    over all that was made so far, minimising T^2 KL(softmax(D / T) || softmax(f / T)).
    Up: all parameters, 4 W bytes. Down: as many, once, when the round is over.

    One round is all there is to it: take `rounds` 1. In a further one clients begin from f, which
    then goes down before, too. Each architecture has an f of its own, taught by all clients.

    With `inputs` "noise" x is drawn evenly from 0 to 1 instead, the control for whether G matters.

    Conventions: B is the mean over clients, as in the paper, where the authors' code has the sum.
    There G and f see random crops and flips of what was made, f is as it learns while G is trained,
    its optimiser goes on from pass to pass, G's Adam has beta 0.5, and inputs are kept as pictures
    of 8 bits: nothing of that here. The paper weighs KL by 0.5, the command in the authors' README
    by 1, as here, with T = 20; it takes 200 turns of 256 inputs, f at 0.005, G twice as wide, and
    has the best turn by test examples. Inputs are made between 0 and 1, as pixels are; of inputs
    that are no images G is a small perceptron.
    """

    distill: TrainingConfig = TrainingConfig("momentum", 0.01, epochs=50, batch_size=64)
    generator: TrainingConfig = TrainingConfig("adam", 1e-3, epochs=30, batch_size=64)
    inputs: Annotated[Literal["generated", "noise"], Setting("what the server distils on")] = (
        "generated"
    )
    statistics: Annotated[float, Setting("weight of batch normalisation's", ge=0)] = 1.0
    adversarial: Annotated[float, Setting("weight of what f does not know yet", ge=0)] = 1.0
    temperature: Annotated[float, Setting("T, of distillation", gt=0)] = 20.0
    latent: Annotated[int, Setting("width of z", ge=1, le=WIDEST)] = 256
    width: Annotated[int, Setting("maps before G's last layer", ge=1, le=WIDEST)] = 32

    properties = Properties(
        public="none",
        up="all parameters",
        down="all parameters of the group's distilled model",
        architectures="shared within a group",
        summand="none",
        server_learns="the client's parameters",
        one_round=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("distill", "generator"):
            getattr(self, name).passes(f"{type(self).__name__.lower()}.{name}")
        if self.generator.batch_size < 2:
            raise ValueError(
                f"generator.batch_size is {self.generator.batch_size}, how many inputs are made at "
                "once, which are normalised together; take 2 or more"
            )

    def check(self, task: Task) -> None:
        """Models go up whole, and their inputs can be made."""
        check_sent_whole(self, task)
        check_makeable(type(self).__name__, task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """The models that the server will train, and the seed of what it draws."""
        seed = torch.randint(2**62, (1,), generator=generator)
        return unsent(task, generator) | {"seed": seed, "round": torch.zeros(1, dtype=torch.long)}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the own parameters, or from the server's model where there is one."""
        params = fit(predict, params | received, private, self.local, self.target.loss)
        return params, Upload(leaving(params))

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter, in its shape; nothing was sent down that training could begin from."""
        spec = super().payload_spec(task, group)
        return {name: one._replace(trained="no") for name, one in spec.items()}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Distil all clients into a model of each architecture."""
        ensemble = Ensemble.of(
            [task.models[one.group].module(one.payload) for one in uploads], task.device
        )
        after: Server = {"round": server["round"] + 1}
        for group, model in sorted(task.models.items()):
            dice = stream(int(server["seed"]), "inputs", int(server["round"]), group)
            start = full_params(server, group, of_group(server, group))
            taught = self.taught(task, model.predict, start, ensemble, dice)
            after |= apart(task, group, taught)
        return server | after

    def taught(
        self,
        task: Task,
        predict: Predict,
        student: Params,
        ensemble: Ensemble,
        dice: torch.Generator,
    ) -> Params:
        """A model taught by an ensemble on inputs that are made as it learns."""
        once, make = replace(self.distill, epochs=1), SOURCES[self.inputs]
        wanted = Inputs(
            *(task.shape, task.num_classes, task.device, self.generator, self.latent, self.width)
        )
        xs: list[Tensor] = []
        ys: list[Tensor] = []
        said = torch.empty(0, task.num_classes, device=task.device)
        for turn in range(self.distill.epochs):
            objective = partial(self.objective, ensemble, predict, student)
            x, y = make(wanted, objective, ensemble.labels, dice)
            if turn:
                before = Examples(torch.cat(xs), torch.cat(ys), torch.arange(len(xs) * len(y)))
                ensemble = self.reweighted(ensemble, before, turn, dice)
            xs.append(x)
            ys.append(y)
            x, said = self.studied(ensemble, torch.cat(xs), said, dice)
            batches = draw(Examples(x, said, torch.arange(len(x))), once, dice)
            student = fit(predict, student, batches, once, self.loss)
        return student

    def objective(
        self, ensemble: Ensemble, predict: Predict, student: Params, x: Tensor, y: Tensor
    ) -> Tensor:
        """What makes inputs: sure of their labels, like those that were seen, and new to f."""
        said, unlike = ensemble(x)
        now = predict(student, x).logits
        new = divergence(said.log_softmax(dim=-1), now.log_softmax(dim=-1))
        new = new * (said.argmax(dim=-1) != now.argmax(dim=-1))
        sure = cross_entropy(said, y).mean()
        return sure + self.statistics * unlike - self.adversarial * new.mean()

    def reweighted(
        self, ensemble: Ensemble, before: Examples, turn: int, dice: torch.Generator
    ) -> Ensemble:
        """The ensemble, given what was made in the turns before: here as it is."""
        return ensemble

    def studied(
        self, ensemble: Ensemble, x: Tensor, said: Tensor, dice: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What f sees of all that was made, and what it is taught of it.

        `said` is what was taught in the turn before, (M, C). Here neither the inputs nor the
        ensemble have changed since, so it is asked about those that are new alone.
        """
        return x, torch.cat([said, ensemble.logits(x[len(said) :])])

    def loss(self, outputs: Outputs, y: Tensor) -> Tensor:
        """Towards the ensemble's logits."""
        return kl(outputs.logits, y, self.temperature)
