"""What the rounds of a federation have released of each client's data: events, round by round.

Nobody's steps are counted for somebody who had no part in them. What is kept is who took part how
often; events and epsilon follow from it, so that a run that goes on from a checkpoint says the same
as one that never stopped.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from fedkd.privacy.accounting import (
    COARSE,
    Guarantee,
    Ledger,
    Relation,
    Unit,
    least_noise,
    renyi,
    together,
)
from fedkd.privacy.events import Event, Gaussian, RandomizedResponse


@dataclass(frozen=True)
class RoundCosts:
    """What one round of a federation costs.

    Of labels, epsilon is that of each one; what all of a client's come to is beside it.

    Attributes:
        unit, relation: what the noise of all events is relative to.
        delta: at which epsilon is said.
        taking_part: client -> the events of each round that it takes part in.
        every_round: the events of each round for all clients, whether they take part or not: those
            of a Poisson sample of clients.
        beyond: what of an upload no event covers (`Properties.beyond_training`, "weight"): if there
            is anything, no epsilon is claimed.
    """

    unit: Unit
    relation: Relation
    delta: float
    taking_part: Mapping[int, tuple[Event, ...]]
    every_round: tuple[Event, ...] = ()
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spending:
    """What has been spent so far.

    Attributes:
        costs: of a round.
        rounds: how many there have been.
        parts: client -> in how many of them it took part.
    """

    costs: RoundCosts
    rounds: int = 0
    parts: Counter[int] = field(default_factory=Counter)

    def after(self, participants: Iterable[int]) -> "Spending":
        """What has been spent after another round.

        Args:
            participants: those whose private data went into what they sent or kept; not those who
                failed, of whom there is nothing.
        """
        return replace(self, rounds=self.rounds + 1, parts=self.parts + Counter(participants))

    def ledger(self, client: int) -> Ledger:
        """All events about a client's data."""
        costs = self.costs
        own = [replace(e, count=e.count * self.parts[client]) for e in costs.taking_part[client]]
        all_ = [replace(e, count=e.count * self.rounds) for e in costs.every_round]
        return Ledger(costs.unit, costs.relation, tuple(together([*own, *all_])))

    def guarantee(self, client: int) -> Guarantee:
        """What a client may be told; infinite where something is covered by no event."""
        costs = self.costs
        if costs.beyond:
            return Guarantee(math.inf, costs.delta, costs.unit, costs.relation)
        if costs.unit != "label":
            return self.composed(client)
        each = [e.epsilon for e in self.ledger(client).events if isinstance(e, RandomizedResponse)]
        return Guarantee(max(each, default=0.0), costs.delta, costs.unit, costs.relation)

    def composed(self, client: int) -> Guarantee:
        """All events about a client's data together; of labels, for the client as a whole."""
        said = self.ledger(client).guarantee(self.costs.delta, interval=COARSE)
        return said._replace(unit="client") if self.costs.unit == "label" else said

    def worst(self) -> int:
        """The client of whom most has been released; of several the first.

        Rényi's bound is quick and never less, so most need not be looked at any closer.
        """
        distinct: dict[tuple[Event, ...], int] = {}
        for client in self.costs.taking_part:
            distinct.setdefault(self.ledger(client).events, client)
        bounds = {client: _bound(events, self.costs.delta) for events, client in distinct.items()}
        first, most = next(iter(bounds)), -1.0
        for client, bound in sorted(bounds.items(), key=lambda item: -item[1]):
            if bound <= most:
                break
            if (epsilon := self.composed(client).epsilon) > most:
                first, most = client, epsilon
        return first

    def record(self) -> dict[str, Any]:
        """The events of the client of whom most has been released, and their epsilon, as data."""
        client = self.worst()
        said = self.ledger(client).record(self.costs.delta, interval=COARSE)
        said |= _plain(self.guarantee(client))
        if self.costs.unit == "label":
            said["composed"] = _plain(self.composed(client))
        beyond = {"beyond": list(self.costs.beyond)} if self.costs.beyond else {}
        return said | {"client": client} | beyond

    def of_all(self) -> dict[str, float | None]:
        """Client -> its epsilon, None where it is infinite."""
        return {str(k): _plain(self.guarantee(k))["epsilon"] for k in self.costs.taking_part}


def _plain(said: Guarantee) -> dict[str, Any]:
    """A guarantee as data: an epsilon that is infinite is None."""
    return said._asdict() | {"epsilon": said.epsilon if math.isfinite(said.epsilon) else None}


class Cost(NamedTuple):
    """What a whole run costs a client.

    Attributes:
        sought: the events whose noise is sought, of any noise.
        settled: those that have a noise of their own.
    """

    sought: tuple[Gaussian, ...]
    settled: tuple[Event, ...] = ()

    def at(self, noise: float) -> list[Event]:
        """All events, with this noise multiplier."""
        return [*(replace(event, noise=noise) for event in self.sought), *self.settled]


def enough_noise(epsilon: float, delta: float, costs: Iterable[Cost]) -> float:
    """The least noise multiplier of which nobody's cost is above epsilon at delta.

    Raises:
        ValueError: epsilon or delta cannot be, or no noise would do.
    """
    noise, left = 0.0, dict.fromkeys(costs)
    while left:
        dearest = max(left, key=lambda cost: _bound(cost.at(noise or 1.0), delta))
        left.pop(dearest)
        if not noise or not _within(dearest.at(noise), epsilon, delta):
            noise = least_noise(epsilon, delta, dearest.at, COARSE)
    return noise


def _within(events: Iterable[Event], epsilon: float, delta: float) -> bool:
    """Whether all events cost no more than epsilon; told by Rényi's bound where that is enough."""
    found = tuple(events)
    if _bound(found, delta) <= epsilon:
        return True
    ledger = Ledger("record", "add", found)
    return ledger.guarantee(delta, interval=COARSE).epsilon <= epsilon


def _bound(events: Iterable[Event], delta: float) -> float:
    """Epsilon, or more: by Rényi orders, or, of labels, which these do not compose, by the sum."""
    found = tuple(events)
    labels = [e for e in found if isinstance(e, RandomizedResponse)]
    others = [e for e in found if not isinstance(e, RandomizedResponse)]
    pure = sum(e.epsilon * e.count for e in labels)
    return pure + (renyi(others, delta) if others else 0.0)
