"""A federated round written as research code is: a module, a loader and an optimiser per client.

This is what the engines are compared with: one client after another, `torch.utils.data.DataLoader`
with shuffling, `torch.optim.SGD`, `loss.backward()`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

Build = Callable[[], nn.Module]


class PlainClient:
    """A client with everything of its own."""

    def __init__(self, build: Build, x: Tensor, y: Tensor, batch_size: int) -> None:
        self.model = build()
        self.loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def train(self, targets: Tensor | None = None) -> None:
        """One local epoch, with the others' mean prediction of each label as a second teacher."""
        for x, y in self.loader:
            self.optimizer.zero_grad()
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
            if targets is not None:
                loss = loss + F.cross_entropy(logits, targets[y])
            loss.backward()
            self.optimizer.step()

    def digest(self, x: Tensor, consensus: Tensor, batch_size: int) -> None:
        """One epoch on public examples with the consensus as the target."""
        for x_batch, target in DataLoader(TensorDataset(x, consensus), batch_size, shuffle=True):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x_batch), target).backward()
            self.optimizer.step()

    @torch.no_grad()
    def label_means(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mean prediction for each label, and which labels there are."""
        total, count = torch.zeros(num_classes, num_classes), torch.zeros(num_classes)
        for x, y in self.loader:
            for label, scores in zip(y, self.model(x).softmax(dim=1), strict=True):
                total[label] += scores
                count[label] += 1
        return total / count.clamp(min=1).unsqueeze(1), (count > 0).float()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Soft labels of public examples."""
        return self.model(x).softmax(dim=1)


def fd_round(
    clients: list[PlainClient], num_classes: int, targets: list[Tensor] | None
) -> list[Tensor]:
    """Train, and tell each client the mean of the others' label means; none in the first round."""
    means, held = [], []
    for number, client in enumerate(clients):
        client.train(None if targets is None else targets[number])
        mine, known = client.label_means(num_classes)
        means.append(mine)
        held.append(known)
    total, count = sum(means), sum(held)
    return [
        (total - mine) / (count - known).clamp(min=1).unsqueeze(1)
        for mine, known in zip(means, held, strict=True)
    ]


def fedmd_round(
    clients: list[PlainClient], x: Tensor, consensus: Tensor, batch_size: int
) -> Tensor:
    """Digest, revisit, predict, and average."""
    predictions = []
    for client in clients:
        client.digest(x, consensus, batch_size)
        client.train()
        predictions.append(client.predict(x))
    return torch.stack(predictions).mean(dim=0)


def fedavg_round(clients: list[PlainClient]) -> None:
    """Train, and give everybody the mean of all parameters, weighted by examples."""
    for client in clients:
        client.train()
    sizes = [len(client.loader.dataset) for client in clients]  # type: ignore[arg-type]
    states = [client.model.state_dict() for client in clients]
    mean = {
        name: sum(n * state[name] for n, state in zip(sizes, states, strict=True)) / sum(sizes)
        for name in states[0]
    }
    for client in clients:
        client.model.load_state_dict(mean)


def mlp(inputs: int, width: int, classes: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)
    )


def cnn(classes: int, channels: tuple[int, int], size: int) -> nn.Module:
    """Two convolutions with group normalisation, as `fedkd.models.cnn`."""
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1, bias=False),
        nn.GroupNorm(4, first),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.GroupNorm(4, second),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * (size // 4) ** 2, classes),
    )
