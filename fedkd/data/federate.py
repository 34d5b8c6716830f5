"""From a data set to a federation: private parts, public examples, a test set, and clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.core import Client, Task
from fedkd.data.datasets import Dataset
from fedkd.data.partition import Partition
from fedkd.models import build
from knowledge.randomness import generator
from knowledge.training import Examples


@dataclass(frozen=True)
class Pools:
    """Row numbers of a data set, each row in one pool at the most."""

    private: Tensor
    public: Tensor
    validation: Tensor
    test: Tensor


class Federation(NamedTuple):
    """All that `simulate` needs, and what to measure it with.

    Attributes:
        task, clients: for `simulate`.
        test, validation: labelled examples that no client trains on.
        label_counts: (K, C), how many private examples of each label each client holds.
    """

    task: Task
    clients: list[Client]
    test: Examples
    validation: Examples
    label_counts: Tensor


def pools(data: Dataset, private: int, public: int, validation: int, test: int, seed: int) -> Pools:
    """Draw disjoint pools. An official test set is kept apart, and the test pool drawn from it.

    Args:
        data: the data set.
        private: how many examples to deal out to clients, >= 1.
        public: how many for all to see.
        validation: how many to select on.
        test: how many; 0 means all that are left (of the official test set, where there is one).
        seed: of the draw.

    Raises:
        ValueError: more asked for than there is.
    """
    inside = len(data.x) - data.official
    order = torch.randperm(inside, generator=generator(seed, "pools"))
    kept = torch.arange(inside, len(data.x))
    kept = kept[torch.randperm(len(kept), generator=generator(seed, "test"))]
    wanted = private + public + validation + (0 if data.official else max(test, 1))
    if min(private, public, validation, test) < 0 or private == 0 or wanted > inside:
        raise ValueError(
            f"{private} private, {public} public, {validation} validation and {test} test examples "
            f"were asked for, and the data set has {inside}; every number must be >= 0, private "
            ">= 1, and some examples must be left to test on"
        )
    first, second, third, rest = order.tensor_split(
        [private, private + public, private + public + validation]
    )
    remaining = kept if data.official else rest
    if test > len(remaining):
        raise ValueError(f"{test} test examples were asked for, and {len(remaining)} are left")
    return Pools(first, second, third, remaining[: test or None])


def federate(
    data: Dataset, chosen: Pools, parts: Partition, models: Sequence[str], seed: int
) -> Federation:
    """Deal architectures and private parts out to clients.

    Args:
        data: the data set.
        chosen: its pools.
        parts: for each client, places in the private pool.
        models: architecture names (`fedkd.models.build`), dealt out in turn: client i gets
            number i modulo their count.
        seed: of the clients' initial parameters, each drawn on its own.

    Raises:
        ValueError: no models, or a name that is none.
    """
    if not models:
        raise ValueError("models: name at least one architecture, such as mlp")
    built = {name: build(name, data.shape, data.num_classes) for name in dict.fromkeys(models)}
    clients = []
    for number, places in enumerate(parts):
        name = models[number % len(models)]
        params = built[name].init(generator(seed, "client", number))
        examples = Examples(data.x, data.y, chosen.private[places])
        clients.append(Client(number, name, params, examples))
    task = Task(built, data.num_classes, data.x[chosen.public] if len(chosen.public) else None)
    counts = torch.stack(
        [torch.bincount(data.y[c.private.rows], minlength=data.num_classes) for c in clients]
    )
    test, validation = (Examples(data.x, data.y, rows) for rows in (chosen.test, chosen.validation))
    return Federation(task, clients, test, validation, counts)
