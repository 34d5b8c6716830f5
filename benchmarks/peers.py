"""A round of FD as public libraries write it: HtFLlib and PFLlib, whose clients do the same.

What a client says is the mean of the logits that it had while it trained, so there is no pass to
predict; the last incomplete mini-batch is dropped, and examples come in one order. What they do
beside that costs time and changes no number is left out: data and models are read from files in
each round. So the ratio to this loop flatters them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader


class PeerClient:
    """A client with a model and a list of examples."""

    def __init__(self, build: Callable[[], nn.Module], x: Tensor, y: Tensor, size: int) -> None:
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        examples = list(zip(x, y, strict=True))
        self.loader = DataLoader(examples, size, shuffle=False, drop_last=True)  # type: ignore[arg-type]

    def train(self, received: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """An epoch; mean logits of each label, as they were before each step."""
        said = defaultdict(list)
        for x, y in self.loader:
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
            if received:
                loss = loss + F.cross_entropy(logits, self._targets(logits, y, received))
            for place, label in enumerate(y):
                said[label.item()].append(logits[place].detach())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return mean_of_each(said)

    def _targets(self, logits: Tensor, y: Tensor, received: Mapping[int, Tensor]) -> Tensor:
        """What the clients say of the labels; where nobody has one, what it says itself."""
        targets = logits.detach().clone()
        for place, label in enumerate(y):
            if label.item() in received:
                targets[place] = received[label.item()]
        return targets.softmax(dim=1)


def mean_of_each(said: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    """The mean of what is said of each label."""
    return {label: sum(logits) / len(logits) for label, logits in said.items()}


def fd_round(clients: list[PeerClient], received: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Train all, and average over those that hold a label, each counting once."""
    said = defaultdict(list)
    for client in clients:
        for label, logits in client.train(received).items():
            said[label].append(logits)
    return mean_of_each(said)
