"""FedMD as a plain loop over clients and mini-batches, beside `simulate`: equal numbers."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Task
from fedkd.data import datasets, federated_data, partition
from fedkd.data.federated_data import FederatedData
from fedkd.rounds.round import private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Batches, Params

ROUNDS, SEED = 2, 0


def federation() -> FederatedData:
    """Three clients of two architectures; 150 digits between them, 100 public ones."""
    digits, sizes = datasets.load("digits"), dict(private=150, public=100, validation=0, test=0)
    pools = federated_data.pools(digits, **sizes, seed=SEED)
    parts = partition.dirichlet(digits.y[pools.private], 3, generator(SEED, "parts"), alpha=0.5)
    return federated_data.federate(digits, pools, parts, ["mlp-16", "mlp-8-8"], seed=SEED)


def trained(task: Task, group: str, params: Params, batches: Batches, rate: float) -> Params:
    """Gradient descent on the cross-entropy towards labels, or towards a consensus."""
    model = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.SGD(model.values(), lr=rate)
    for order, mask in zip(batches.order, batches.mask, strict=True):
        optimizer.zero_grad()
        logits = task.models[group].predict(model, batches.x[order[mask]]).logits
        cross_entropy(logits, batches.y[order[mask]]).backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.items()}


def plain(algorithm: FedMD, data: FederatedData) -> Tensor:
    """The consensus after the rounds: digest it, revisit private examples, predict, average."""
    models, consensus = {client.id: dict(client.params) for client in data.clients}, None
    for index in range(1, ROUNDS + 1):
        public, said = public_of(algorithm, data.task, SEED, index), []
        for client in data.clients:
            group, params = client.group, models[client.id]
            if consensus is not None:
                batches, rate = public.batches(consensus), algorithm.distill.learning_rate
                params = trained(data.task, group, params, batches, rate)
            own, rate = private_of(algorithm, client, SEED, index), algorithm.local.learning_rate
            params = trained(data.task, group, params, own, rate)
            said.append(data.task.models[group].predict(params, public.x).logits.softmax(-1))
            models[client.id] = params
        consensus = torch.stack(said).mean(dim=0)
    return consensus


if __name__ == "__main__":
    data = federation()
    *_, last = simulate(FedMD(), data.task, data.clients, rounds=ROUNDS, seed=SEED)
    print((last.server["consensus"] - plain(FedMD(), data)).abs().max())
