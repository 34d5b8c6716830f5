"""The floor of a federated round: its arithmetic as one large batch, for one model.

No federation can be quicker on the same machine with the same operations: as many examples are
passed forward and backward as all clients pass together, in batches as large as a chunk is wide.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def floor(
    model: nn.Module, x: Tensor, classes: int, trained: int, predicted: int, batch: int
) -> Callable[[], object]:
    """A function that trains on so many examples, and predicts so many, in large batches.

    Args:
        model: one client's.
        x: (N, ...) some examples; they are used again and again.
        classes: of the labels.
        trained: examples of the backward passes.
        predicted: examples of forward passes alone.
        batch: examples of a step.
    """
    batch = min(batch, len(x))
    images, labels = x[:batch], torch.arange(batch, device=x.device) % classes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def work() -> None:
        for _ in range(math.ceil(trained / batch)):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        with torch.no_grad():
            for _ in range(math.ceil(predicted / batch)):
                model(images)

    return work
