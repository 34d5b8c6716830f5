"""FedAvg: clients of one architecture average their parameters."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedkd.core import Algorithm, Properties, Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.training.loop import Batches, Params, Predict, fit, supervised


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Federated averaging.

    Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Aguera y Arcas.
    "Communication-Efficient Learning of Deep Networks from Decentralized Data". AISTATS 2017.
    https://arxiv.org/abs/1602.05629

    Client: w_k <- argmin sum CE(y, f(x; w)) from w. Server: w <- sum_k n_k w_k / sum_k n_k.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Convention: clients of different architectures cannot be averaged; each group has an average of
    its own, and a group of which nobody took part keeps what it has.
    """

    properties = Properties(
        public="none",
        up="all parameters",
        down="all parameters of the group's average",
        architectures="shared within a group",
        summand="weighted payload",
        server_learns="the client's parameters and the number of its examples",
        beyond_training=("weight",),
    )

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """One set of initial parameters for each group."""
        return {
            f"{group}/{name}": value
            for group in sorted(task.models)
            for name, value in task.models[group].init(generator).items()
        }

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
        params = fit(predict, received, private, self.local, supervised)
        return params, Upload(params, private.size)

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The average of the client's group."""
        return of_group(server, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The average."""
        return received

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Every parameter, in its shape."""
        initial = task.models[group].init(torch.Generator())
        return {k: PayloadSpec(tuple(v.shape), trained="parameters") for k, v in initial.items()}

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


def of_group(server: Server, group: str) -> Params:
    """The parameters that the server holds for a group."""
    start = f"{group}/"
    return {k.removeprefix(start): v for k, v in server.items() if k.startswith(start)}
