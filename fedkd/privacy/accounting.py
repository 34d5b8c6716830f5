"""Epsilon at delta of what was released: events are composed by an accountant, never added up.

Privacy loss distributions (PLD): Sebastian Meiser, Esfandiar Mohammadi. "Tight on Budget? Tight
Bounds for r-Fold Approximate Differential Privacy". CCS 2018. https://eprint.iacr.org/2017/1034;
the library is dp-accounting. Rényi differential privacy, which proves less, is the cross-check.

Convention: noise is relative to the sensitivity for the relation that is named, so the accountant
is never told of a relation: it would double the sensitivity of a Gaussian under "replace".
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial, reduce
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from fedkd.privacy.events import Event, Gaussian, Laplace, RandomizedResponse

if TYPE_CHECKING:
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution as pld

# The library, and SciPy, take as long to load as half of torch, and most runs have no noise: they
# are imported by the functions that use them.

Unit = Literal["record", "client", "label"]
Relation = Literal["replace", "add"]
INTERVAL = 1e-4  # to multiples of which privacy losses are rounded, so that epsilon is never less
COARSE = 1e-3  # the same, where noise is looked for
# Losses above which it grows in proportion: smooth ones, those of samples, and atoms.
LARGE, LARGE_SAMPLED, LARGE_PURE = 0.5, 5.0, 100.0
ORDERS = [*range(2, 65), 80, 96, 128, 256, 512]  # whole: fractional ones need not converge
TOLERANCE = 1e-4  # of a noise multiplier, relative
NOISE = (1e-2, 1e5)  # multipliers between which one is looked for
KINDS: dict[str, type[Event]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "randomized_response": RandomizedResponse,
}


class Guarantee(NamedTuple):
    """A figure with all that it needs to mean something.

    Attributes:
        epsilon, delta: of approximate differential privacy.
        unit: whose data is protected.
        relation: of neighbours: one unit is replaced, or added (which is to say, or removed).
    """

    epsilon: float
    delta: float
    unit: Unit
    relation: Relation

    def __str__(self) -> str:
        return (
            f"epsilon {self.epsilon:.3g} at delta {self.delta:g} per {self.unit} ({self.relation})"
        )


@dataclass(frozen=True)
class Ledger:
    """What has been released about one unit, under one relation.

    Attributes:
        unit, relation: what the noise of all events is relative to.
        events: in the order of their release, of all rounds.
    """

    unit: Unit
    relation: Relation
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("unit", self.unit, Unit),
            ("relation", self.relation, Relation),
        ):
            if value not in get_args(kind):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}"
                )
        for event in self.events:
            _check_relation(event, self.relation)

    def plus(self, *events: Event) -> "Ledger":
        """The same, and what came after."""
        return replace(self, events=self.events + events)

    def guarantee(
        self, delta: float, count: int | None = None, interval: float = INTERVAL
    ) -> Guarantee:
        """Epsilon at delta of all events together; infinite where one had no noise.

        An upper bound: losses are rounded up to multiples of `interval`, so that it is tight where
        epsilon is not tiny.

        Raises:
            ValueError: delta is not between 0 and 1, or above 1/count, for so many units.
        """
        check_delta(delta, count)
        epsilon = _epsilon(self.events, delta, interval)
        return Guarantee(epsilon, delta, self.unit, self.relation)

    def record(
        self, delta: float, count: int | None = None, interval: float = INTERVAL
    ) -> dict[str, Any]:
        """What is kept of it, as plain data."""
        said = self.guarantee(delta, count, interval)._asdict()
        said["epsilon"] = said["epsilon"] if math.isfinite(said["epsilon"]) else None
        names = {kind: name for name, kind in KINDS.items()}
        return said | {"events": [{"kind": names[type(e)], **asdict(e)} for e in self.events]}

    @staticmethod
    def from_record(said: Mapping[str, Any]) -> "Ledger":
        """What `record` has kept.

        Raises:
            ValueError: an event is of no known kind, or one of its values cannot be.
        """
        events = []
        for row in said["events"]:
            if row.get("kind") not in KINDS:
                raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {row.get('kind')!r}")
            events.append(KINDS[row["kind"]](**{k: v for k, v in row.items() if k != "kind"}))
        return Ledger(said["unit"], said["relation"], tuple(events))


def renyi(events: Iterable[Event], delta: float) -> float:
    """Epsilon by Rényi differential privacy: never less than that of a `Ledger`, and looser.

    Ilya Mironov. "Rényi Differential Privacy". CSF 2017. https://arxiv.org/abs/1702.07476

    Raises:
        ValueError: delta is not between 0 and 1, or an event is a randomised response, which the
            library composes under another relation than the rest.
    """
    from dp_accounting.rdp import RdpAccountant

    check_delta(delta)
    accountant = RdpAccountant(orders=ORDERS)
    for event in together(events):
        if isinstance(event, RandomizedResponse):
            raise ValueError("a RandomizedResponse is not composed by Rényi orders; see Ledger")
        if event.noise == 0:
            return math.inf
        accountant.compose(_dp_event(event), event.count)
    return float(accountant.get_epsilon(delta))


def noise_multiplier(
    epsilon: float,
    delta: float,
    rounds: int = 1,
    rate: float = 1.0,
    count: int | None = None,
) -> float:
    """The least Gaussian noise, over the L2 sensitivity, of which all rounds cost epsilon.

    It is too large by `TOLERANCE` at most, and never too small.

    Raises:
        ValueError: epsilon is not positive and finite, there is no round, the rate is none, delta
            is not between 0 and 1 or above 1/count for so many units, or no noise would do.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; there has to be one, or nothing is released")
    check_delta(delta, count)
    Gaussian(1.0, rounds, rate)
    return least_noise(epsilon, delta, lambda noise: [Gaussian(noise, rounds, rate)])


def least_noise(
    epsilon: float,
    delta: float,
    events: Callable[[float], Iterable[Event]],
    interval: float = INTERVAL,
) -> float:
    """The least noise multiplier of which all events together cost epsilon.

    It is too large by `TOLERANCE` at most, and never too small.

    Args:
        epsilon: of all events together.
        delta: at which.
        events: of a noise multiplier; some may have noise of their own.
        interval: see `Ledger.guarantee`; a coarse one takes more noise than is needed, never less.

    Raises:
        ValueError: epsilon is not positive and finite, delta is not between 0 and 1, or no noise
            would do.
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; it has to be positive and finite, e.g. 4")
    check_delta(delta)

    def excess(logarithm: float, interval: float) -> float:
        found = _epsilon(events(math.exp(logarithm)), delta, interval)
        return math.log(max(found, 1e-12) / epsilon)

    return math.exp(_least(partial(excess, interval=interval), _root(excess)))


def check_delta(delta: float, count: int | None = None) -> None:
    """Refuse a delta that promises nothing.

    Raises:
        ValueError: it is not between 0 and 1, or so large that one of `count` units may be
            published as it is.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it has to be between 0 and 1, e.g. 1e-5")
    if count is not None and delta > 1 / count:
        raise ValueError(
            f"delta is {delta:g}, above 1/{count}: publishing one of {count} in full would be as "
            f"private; take less than {1 / count:.1g}"
        )


def _root(excess: Callable[[float, float], float]) -> float:
    """Where the excess is none, nearly, with losses that are rounded coarsely."""
    from scipy.optimize import brentq

    least, most = map(math.log, NOISE)
    low = high = 0.0
    while excess(high, COARSE) > 0:
        low, high = high, high + 1.0
        if high > most:
            raise ValueError("epsilon is so small that no noise is enough; take a larger one")
    while low == high or excess(low, COARSE) <= 0:
        high, low = low, low - 1.0
        if low < least:
            raise ValueError("epsilon is so large that next to no noise costs less; ask for less")
    return float(brentq(excess, low, high, args=(COARSE,), xtol=TOLERANCE))


def _least(excess: Callable[[float], float], near: float) -> float:
    """The least argument without an excess, within `TOLERANCE`; one with it is below."""
    from scipy.optimize import brentq

    low, high, step = near, near, 10 * TOLERANCE
    while excess(high) > 0:
        low, high, step = high, high + step, 2 * step
    while low == high or excess(low) <= 0:
        high, low, step = low, low - step, 2 * step
    found = float(brentq(excess, low, high, xtol=TOLERANCE / 4))
    while excess(found) > 0:
        found += TOLERANCE / 4
    return found


def _check_relation(event: Event, relation: str) -> None:
    if isinstance(event, RandomizedResponse) and relation != "replace":
        raise ValueError("a RandomizedResponse is about a label that is replaced, not added")
    if isinstance(event, Gaussian) and event.rate < 1 and relation != "add":
        raise ValueError(
            f"a Poisson sample (rate {event.rate:g}) is accounted for where a unit is added or "
            'removed: relation "add"'
        )


def together(events: Iterable[Event]) -> list[Event]:
    """The events, those alike as one: the order in which they are composed is of no matter."""
    counts: Counter[Event] = Counter()
    for event in events:
        counts[replace(event, count=1)] += event.count
    return [replace(event, count=count) for event, count in counts.items() if count]


def _epsilon(events: Iterable[Event], delta: float, interval: float = INTERVAL) -> float:
    return _composed(tuple(together(events)), delta, interval)


@lru_cache(maxsize=4096)  # clients of one size cost the same, and are asked about in each round
def _composed(alike: tuple[Event, ...], delta: float, interval: float) -> float:
    if any(isinstance(e, Gaussian | Laplace) and e.noise == 0 for e in alike):
        return math.inf
    if not alike:
        return 0.0
    interval *= max(1.0, *map(_size, alike))
    losses = reduce(lambda a, b: a.compose(b), (_losses(e, interval) for e in alike))
    return float(losses.get_epsilon_for_delta(delta))


def _size(event: Event) -> float:
    """How large losses are, beside those that are rounded to `INTERVAL`."""
    if isinstance(event, RandomizedResponse):
        return event.epsilon * event.count / LARGE_PURE
    if isinstance(event, Laplace):
        return event.count / event.noise / LARGE_PURE
    distance = (math.sqrt(event.count) if event.rate == 1 else 1) / event.noise
    return (distance + distance**2 / 2) / (LARGE if event.rate == 1 else LARGE_SAMPLED)


def _losses(event: Event, interval: float) -> "pld.PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution as pld

    if isinstance(event, Gaussian) and event.rate == 1:  # so many are one of less noise, exactly
        noise = event.noise / math.sqrt(event.count)
        return pld.from_gaussian_mechanism(noise, value_discretization_interval=interval)
    if isinstance(event, Gaussian):
        one = pld.from_gaussian_mechanism(
            event.noise, value_discretization_interval=interval, sampling_prob=event.rate
        )
    elif isinstance(event, Laplace):
        one = pld.from_laplace_mechanism(event.noise, value_discretization_interval=interval)
    else:  # the library's parameter is the chance of a label drawn from all of them
        drawn = event.classes / (math.expm1(event.epsilon) + event.classes)
        one = pld.from_randomized_response(
            drawn, event.classes, value_discretization_interval=interval
        )
    return one.self_compose(event.count) if event.count > 1 else one


def _dp_event(event: Gaussian | Laplace) -> "dp_accounting.DpEvent":
    import dp_accounting

    if isinstance(event, Laplace):
        return dp_accounting.LaplaceDpEvent(event.noise)
    gaussian = dp_accounting.GaussianDpEvent(event.noise)
    sampled = event.rate < 1
    return dp_accounting.PoissonSampledDpEvent(event.rate, gaussian) if sampled else gaussian
