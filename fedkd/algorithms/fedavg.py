"""FedAvg: clients of one architecture average their parameters."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedkd.core import Algorithm, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from fedkd.targets import ALL
from kdcore.training.loop import Batches, Params, Predict, fit

KEPT = "kept/"  # of the server's own, and never sent


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Federated averaging.

    Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Aguera y Arcas.
    "Communication-Efficient Learning of Deep Networks from Decentralized Data". AISTATS 2017.
    https://arxiv.org/abs/1602.05629

    Client: w_k <- argmin sum CE(y, f(x; w)) from w. Server: w <- sum_k n_k w_k / sum_k n_k.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Convention: clients of different architectures cannot be averaged; each group has an average of
    its own, and a group of which nobody took part keeps what it has. Of a torch module's state,
    statistics in real numbers are averaged with the weights; streams, counts and what the model
    calls `local` never leave the client (`fedkd.core.Model.shared`).
    """

    properties = Properties(
        public="none",
        up="all parameters",
        down="all parameters of the group's average",
        architectures="shared within a group",
        summand="weighted payload",
        server_learns="the client's parameters and the number of its examples",
        beyond_training=("weight",),
        targets=ALL,
    )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """One set of initial parameters for each group."""
        return initial(task, generator)[0]

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group."""
        return of_group(server, group)

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the average."""
        params = fit(predict, params | received, private, self.local, self.target.loss)
        return params, Upload({name: params[name] for name in received}, private.size)

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group."""
        return of_group(server, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The average, and beside it what never leaves the client."""
        return params | received

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter that is averaged, in its shape."""
        model = task.models[group]
        shared = model.shared(model.init(torch.Generator()))
        return {k: PayloadSpec(tuple(v.shape), trained="parameters") for k, v in shared.items()}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Average by number of examples, group by group."""
        return server | average_by_group(uploads)


def average_by_group(uploads: Iterable[Received]) -> Server:
    """sum_k n_k w_k / sum_k n_k over the clients of each group that has any weight.

    Sums are kept in float64, and each upload is let go as soon as it has been added.
    """
    sums: dict[str, Params] = {}
    weights: dict[str, float] = {}
    for upload in uploads:
        weights[upload.group] = weights.get(upload.group, 0.0) + upload.weight
        mine = sums.setdefault(upload.group, {})
        for name, value in upload.payload.items():
            term = upload.weight * value.double()
            mine[name] = mine[name] + term if name in mine else term
    return {
        f"{group}/{name}": (value / weights[group]).to(torch.get_default_dtype())
        for group in sorted(sums)
        for name, value in sums[group].items()
        if weights[group] > 0
    }


def initial(task: Task, generator: torch.Generator) -> tuple[Server, Server]:
    """Initial parameters of each group: those that are averaged, and under `kept/` all others.

    The others (streams of chance, counts, what is local) are for a server that trains models.
    """
    averaged: Server = {}
    kept: Server = {}
    for group in sorted(task.models):
        params = task.models[group].init(generator)
        shared = task.models[group].shared(params)
        averaged |= {f"{group}/{name}": value for name, value in shared.items()}
        kept |= {f"{KEPT}{group}/{n}": v for n, v in params.items() if n not in shared}
    return averaged, kept


def full_params(server: Server, group: str, averaged: Params) -> Params:
    """All parameters of a group's model, at a server that keeps what is not averaged."""
    return of_group(server, f"{KEPT}{group}") | averaged


def apart(task: Task, group: str, params: Params) -> Server:
    """The parameters of a group's model as the server holds them: the inverse of `full_params`."""
    shared = task.models[group].shared(params)
    return {f"{'' if n in shared else KEPT}{group}/{n}": v for n, v in params.items()}


def of_group(server: Server, group: str) -> Params:
    """The parameters that the server holds for a group."""
    start = f"{group}/"
    return {k.removeprefix(start): v for k, v in server.items() if k.startswith(start)}
