"""The loop over rounds of a federation in shards: broadcasts go down once for each, sums come up.

The sums of blocks are added in the order of the blocks, whoever has them, in float64; so rounds are
the same bits for any number of shards. Beside those of one process (`fedkd.rounds.synchronous`)
the server's sum is the same but for its order of addition, and the same bits where all clients are
in one block. What is usual in a cohort (`fedkd.communication.border`) is so in a block.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fedkd.communication.aggregation import check_summed, noisy
from fedkd.core import Client
from fedkd.messages import on
from fedkd.rounds.client_sampling import Sample, everyone
from fedkd.rounds.round import Round, check_somebody, first_server, public_of
from fedkd.sharding.shard import Rules, Shard, Shards, added
from kdcore.rng import generator


class Here:
    """Shards in this process, one after another."""

    def __init__(self, make: Callable[..., Shard], given: Sequence[tuple[Any, ...]]) -> None:
        self._shards = [make(*one) for one in given]

    def map(self, function: Callable[..., Any], *given: Any) -> list[Any]:
        """function(shard, *given) of each."""
        return [function(shard, *given) for shard in self._shards]


def dealt(
    rules: Rules, make: Callable[[Sequence[int]], Sequence[Client]], count: int, shards: int
) -> list[tuple[Any, ...]]:
    """What each of some shards is made of (`Shard`): blocks of clients, in turn.

    Raises:
        ValueError: the server needs each upload, or what is to be made of their sum is not known
            here, or messages down are coded by chance in an order that shards do not know.
    """
    check_summed(rules.algorithm)
    if noisy(rules.channel):
        raise ValueError("clients in shards send no messages with noise; take one process for that")
    if rules.channel.with_algorithm(rules.algorithm).downlink and len(rules.task.models) > 1:
        raise ValueError(
            "messages down are coded, for clients of several architectures in the order in which "
            "these come, which no shard knows; take one architecture, or no coding"
        )
    blocks = range(-(-count // rules.block))
    if not 1 <= shards <= len(blocks):
        raise ValueError(
            f"{shards} shards of {count} clients; expected 1 to {len(blocks)}, as a block of "
            f"{rules.block} stays together"
        )
    return [(rules, make, list(blocks[place::shards]), count) for place in range(shards)]


def simulate(
    rules: Rules, shards: Shards, count: int, *, rounds: int, sample: Sample = everyone
) -> Iterator[Round]:
    """Run a federation whose clients are in shards; a `Round` has none of them.

    Args:
        rules: what the shards were made by.
        shards: `Here`, or `fedkd.engines.ray.residents.Residents`.
        count: how many clients.
        rounds: how many rounds.
        sample: who takes part in a round.
    """
    algorithm, task = rules.algorithm.learning(rules.task.target), rules.task
    server = first_server(algorithm, task, rules.seed)
    for index in range(1, rounds + 1):
        cohort = tuple(sorted(sample(range(count), generator(rules.seed, "sample", index))))
        whole = added(_in_order(shards.map(Shard.learn, server, index, torch.tensor(cohort))))
        check_somebody(cohort, whole.failed)
        if whole.clients:
            public = public_of(algorithm, task, rules.seed, index)
            server = algorithm.server_from_sum(task, server, whole.total, whole.clients, public)
            server = on(server, task.device)
        yield Round(index, server, (), cohort, whole.rejected, whole.ledger, whole.failed)


def ask(shards: Shards, current: Round, question: Callable[[list[Client]], Any]) -> list[Any]:
    """Answers about the clients of each block, with the models that they would use now."""
    return _in_order(shards.map(Shard.ask, current.server, current.index, question))


def _in_order(replies: Sequence[dict[int, Any]]) -> list[Any]:
    """What shards say of their blocks, in the order of the blocks."""
    blocks = {block: one for reply in replies for block, one in reply.items()}
    return [blocks[block] for block in sorted(blocks)]
