"""A shard: some of a federation's clients, in whatever process, and all that is done for each.

Drawing, broadcasts, training, weighing and the border's checks happen here; what goes up is a sum.
Clients come in blocks of consecutive numbers, and a block is one synchronous round of its own: so
no number depends on which shard has it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel
from fedkd.communication.noisy_aggregation import Cohort
from fedkd.communication.secure_aggregation import Learnt
from fedkd.core import Algorithm, Client, Engine, Server, Task
from fedkd.engines.batched import batched
from fedkd.messages import Ledger, Message, Received, summed
from fedkd.rounds import client_sampling as sampling
from fedkd.rounds.round import WAVE, Round, check_federation, deployed
from fedkd.rounds.synchronous import next_round
from fedkd.storage.client_store import ClientStore


@dataclass(frozen=True)
class Rules:
    """What is the same for all shards.

    Attributes:
        algorithm: with a summand.
        task: what is learnt.
        seed: of every random choice.
        engine: who runs the clients' functions.
        channel: what happens to messages on the way.
        block: clients that stay together, whatever the number of shards.
    """

    algorithm: Algorithm
    task: Task
    seed: int = 0
    engine: Engine = field(default_factory=batched)
    channel: Channel = Channel()  # noqa: RUF009  (frozen)
    block: int = WAVE


class Partial(NamedTuple):
    """What comes of the clients of a block in a round: a sum, and what is counted."""

    total: Message
    clients: float
    ledger: Ledger
    rejected: dict[int, str]
    failed: dict[int, str]


class Shard:
    """The clients of some blocks."""

    def __init__(
        self,
        rules: Rules,
        make: Callable[[Sequence[int]], Iterable[Client]],
        blocks: Sequence[int],
        count: int,
    ) -> None:
        """Make the clients.

        Args:
            rules: of the federation.
            make: makes the clients of some numbers.
            blocks: the blocks that are here.
            count: how many clients there are, here and elsewhere.

        Raises:
            ValueError: other clients were made, or they cannot take part in such a federation.
        """
        self._rules = rules
        self._algorithm = rules.algorithm.learning(rules.task.target)
        self._channel = rules.channel.with_algorithm(self._algorithm)
        self._blocks = {
            block: _made(make, range(count)[block * rules.block :][: rules.block])
            for block in blocks
        }
        everybody = [client for clients in self._blocks.values() for client in clients]
        check_federation(rules.algorithm, rules.task, everybody)

    def learn(self, server: Server, index: int, cohort: Tensor) -> dict[int, Partial]:
        """One round of those who are here, of a cohort (K,): the partial sum of each block."""
        chosen = frozenset(cohort.tolist())
        return {
            block: self._learn(server, index, block, {c.id for c in clients} & chosen)
            for block, clients in self._blocks.items()
            if any(client.id in chosen for client in clients)
        }

    def ask(self, server: Server, index: int, question: Callable[[list[Client]], Any]) -> Any:
        """Answers of each block to a question about its clients, with the models in use."""
        rules = self._rules
        more = {"engine": rules.engine, "channel": rules.channel, "seed": rules.seed}
        return {
            block: question(
                deployed(rules.algorithm, rules.task, _after(index, server, clients), **more)
            )
            for block, clients in self._blocks.items()
        }

    def _learn(self, server: Server, index: int, block: int, cohort: set[int]) -> Partial:
        clients, rules, sums = self._blocks[block], self._rules, _Upward()
        present = [client for client in clients if client.id in cohort]
        everyone = len(present) == len(clients)
        after = next_round(
            self._algorithm,
            rules.task,
            _after(index - 1, server, present),
            engine=rules.engine,
            channel=self._channel,
            sample=sampling.everyone,
            seed=rules.seed,
            secret=None,
            store=None if everyone else ClientStore(),
            witness=False,
            aggregation=sums,
        )
        fresh = {client.id: client for client in after.clients}
        self._blocks[block] = [fresh.get(client.id, client) for client in clients]
        (kept,) = sums.kept
        return Partial(kept.total, kept.clients, after.ledger, after.rejected, after.failed)


@dataclass(frozen=True)
class _Upward(Aggregation):
    """The sum goes up, to be added to others; nothing is learnt from it here."""

    kept: list[Learnt] = field(default_factory=list)

    def total(
        self,
        algorithm: Algorithm,
        uploads: Iterable[Received],
        cohort: Cohort,
        stream: torch.Generator | None,
    ) -> Learnt:
        """The sum is kept; for here there is none, of nobody."""
        self.kept.append(super().total(algorithm, uploads, cohort, stream))
        return Learnt({}, 0)


class Shards(Protocol):
    """All shards of a federation, wherever they are."""

    def map(self, function: Callable[..., Any], *given: Any) -> list[Any]:
        """function(shard, *given) of each."""


def added(partials: Sequence[Partial]) -> Partial:
    """The sum of partial sums, in their order."""
    total, _ = summed(one.total for one in partials)
    rejected = {k: v for one in partials for k, v in one.rejected.items()}
    failed = {k: v for one in partials for k, v in one.failed.items()}
    ledger = sum((one.ledger for one in partials), Ledger())
    return Partial(total, sum(one.clients for one in partials), ledger, rejected, failed)


def _made(make: Callable[[Sequence[int]], Iterable[Client]], numbers: range) -> list[Client]:
    found = list(make(numbers))
    if [client.id for client in found] != [*numbers]:
        raise ValueError(
            f"asked for clients {numbers.start} to {numbers.stop - 1}, in their order, and got "
            f"{len(found)}: {[client.id for client in found[:5]]} ..."
        )
    return found


def _after(index: int, server: Server, clients: Sequence[Client]) -> Round:
    """As if these clients had just had a round."""
    return Round(index, server, tuple(clients), (), {}, Ledger())
