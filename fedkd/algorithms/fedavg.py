"""FedAvg: clients of one architecture average their parameters."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import WEIGHT, Message, PayloadSpec, Received, Upload, summed, weighted
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

    def summand(self, upload: Received) -> Message:
        """Of each group on its own."""
        return _of_its_group(upload.group, super().summand(upload))

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Average by number of examples, group by group."""
        return server | _averages(total)


def average(total: Message) -> Params:
    """sum_k n_k w_k / sum_k n_k of a sum of weighted payloads; nothing where nobody has weight."""
    if not total[WEIGHT] > 0:
        return {}
    return {k: as_sent(value / total[WEIGHT]) for k, value in total.items() if k != WEIGHT}


def average_by_group(uploads: Iterable[Received]) -> Server:
    """`average` over the clients of each group; each upload is let go when it has been added."""
    return _averages(summed(_of_its_group(one.group, weighted(one)) for one in uploads)[0])


def _of_its_group(group: str, message: Message) -> Message:
    return {f"{group}/{key}": value for key, value in message.items()}


def _averages(total: Message) -> Server:
    groups = sorted(key.removesuffix(f"/{WEIGHT}") for key in total if key.endswith(f"/{WEIGHT}"))
    averages: Server = {}
    for group in groups:
        averages |= _of_its_group(group, average(of_group(total, group)))
    return averages


def check_sent_whole(algorithm: Algorithm, task: Task) -> None:
    """Raise ValueError where clients keep parameters local: the server has to predict with them."""
    for group, model in task.models.items():
        if model.local:
            raise ValueError(
                f"{type(algorithm).__name__} predicts with the models that clients send, and those "
                f"of {group} keep {sorted(model.local)[0]} local; take FedAvg, or leave out `local`"
            )


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


def unsent(task: Task, generator: torch.Generator) -> Server:
    """Initial parameters of each group, all of them kept: clients begin with their own."""
    groups = {group: task.models[group].init(generator) for group in sorted(task.models)}
    return {f"{KEPT}{g}/{name}": value for g, own in groups.items() for name, value in own.items()}


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
