"""What makes a federation private: noise is calibrated for its rounds, or the run is refused.

What a round costs is data (`fedkd.privacy.spending.RoundCosts`); a run counts who took part.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fedkd.communication import compression
from fedkd.communication.aggregation import Aggregation, check_linear, check_summed, label_events
from fedkd.communication.channel import Channel
from fedkd.core import Client
from fedkd.data.federated_data import FederatedData
from fedkd.messages import PayloadSpec
from fedkd.privacy.accounting import Relation, check_delta
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.events import Event, Gaussian
from fedkd.privacy.secure_sum import SecureSum
from fedkd.privacy.spending import Cost, RoundCosts, Spending, enough_noise
from fedkd.rounds import checkpoint
from fedkd.rounds.clock import Clock
from fedkd.rounds.round import Round
from kdcore.rng import generator
from kdcore.training.batches import rate_of, steps_of
from kdcore.training.optimizers import Clipping, TrainingConfig
from simulations.config.experiments import FedExperiment

Record = dict[str, Any]

SEED_UNDOES = (
    "noise is drawn from the seed, which run.json has: whoever reads it can take the noise off; "
    "--secret-noise draws it from the system"
)
NOT_KEPT = (
    "noise is drawn from the system and not kept: the run cannot be repeated, inspected or "
    "audited, and starts over where it was stopped"
)
DRAWN = (
    "epsilon counts on it that nobody knows who took part in a round; the seed and the records of "
    "rounds say so, and whoever reads these is told more than it counts"
)
UNPROVED = (
    "epsilon rests on what {} says of itself, which nobody has checked: that but for trained "
    "parameters all that it sends of private examples is in beyond_training, and that it trains on "
    "them once a round"
)
UNSEEN = (
    "a secure sum is simulated: the server sees no upload, so ranges, distributions and outliers "
    "are not checked and a faulty or hostile client is not found; sums, and who takes part, it sees"
)


class Private(NamedTuple):
    """An experiment as its privacy makes it.

    Attributes:
        experiment: with the noise that it takes.
        costs: of a round; None where nobody counts them.
        aggregation: what the server learns of a cohort where that is not each upload.
    """

    experiment: FedExperiment
    costs: RoundCosts | None = None
    aggregation: Aggregation | None = None


def private(e: FedExperiment, federation: FederatedData) -> Private:
    """The experiment with the noise that its privacy takes, and what a round costs.

    Raises:
        ValueError: no noise would do, or none would cover all that is sent; or there is no secure
            sum of that; in a line.
    """
    found = _with_noise(e, federation)
    _check_lie(found)
    return _with_secure_sum(found, federation) if e.secure_sum and _sends(e) else found


def _check_lie(found: Private) -> None:
    """Raise ValueError where others send what depends on what a client would have sent.

    Then its data move more of a sum, or of what is sent, than its own part. What records have
    trained with noise may be repeated by anybody.
    """
    e, costs = found.experiment, found.costs
    if costs is None or costs.unit == "record" or e.lie is None:
        return
    if e.lie[1].about == "predictions":
        raise ValueError(
            f"liars {e.liars}: they know what others send before there is noise on it, which no "
            f"account of a {costs.unit} counts; take label-flip, privacy_unit record, or no liars"
        )


def _with_secure_sum(found: Private, federation: FederatedData) -> Private:
    e = found.experiment
    if not _in_rounds_at_a_server(e):
        raise ValueError(
            "secure_sum: masks are of the clients of one round at a server; take the topology "
            "server without a clock, or no secure_sum"
        )
    aggregation = replace(found.aggregation or Aggregation(), secure=SecureSum())
    channel = replace(_channel(e), private_size=e.size_disclosure).with_algorithm(e.algorithm)
    aggregation.check(e.algorithm, federation.task, channel, e.clients)
    return found._replace(aggregation=aggregation)


def _in_rounds_at_a_server(e: FedExperiment) -> bool:
    """Whether a server adds up a round's uploads: not so peers, nor who comes when it is done."""
    return e.topology == "server" and e.clock == Clock()


def _sends(e: FedExperiment) -> bool:
    """Whether there is anything to hide at a server: of a client alone, as for comparison, none."""
    up: str = e.algorithm.properties.up
    return up != "nothing"


def _channel(e: FedExperiment) -> Channel:
    return compression.channel(e.compression, e.epsilon_label)


def _with_noise(e: FedExperiment, federation: FederatedData) -> Private:
    if e.epsilon is None:
        return _by_hand(e, federation)
    set_by_hand = {
        "local.privacy": e.algorithm.local.privacy is not None,
        "epsilon_label": e.epsilon_label is not None,
        "votes": e.votes.most > 0,
    }
    for setting, by_hand in set_by_hand.items():
        if by_hand:
            raise ValueError(
                f"epsilon {e.epsilon:g} calibrates the noise, and {setting} sets it; leave out one "
                "of the two (clip_norm is the norm under epsilon)"
            )
    return UNITS[e.privacy_unit](e, federation, e.epsilon)


def _by_hand(e: FedExperiment, federation: FederatedData) -> Private:
    """Noise as it is set: what it costs is counted just the same."""
    if e.votes.most and _sends(e):
        return _by_votes(e, federation)
    if e.algorithm.local.privacy is None:
        return Private(e, _of_labels(e, federation))
    if e.epsilon_label is not None:
        raise ValueError(
            "local.privacy is noise for records and epsilon_label for labels, and an account has "
            "one unit; leave out one of the two"
        )
    return Private(e, _of_records(e, federation.clients, uncovered(e)))


def _by_votes(e: FedExperiment, federation: FederatedData) -> Private:
    """Noisy elections at the server: all tests and elections of a round cost who votes in it."""
    if e.algorithm.local.privacy is not None or e.epsilon_label is not None:
        raise ValueError(
            "votes are noise for clients, and local.privacy and epsilon_label for records and "
            "labels; an account has one unit, leave out one of the two"
        )
    if not _in_rounds_at_a_server(e):
        raise ValueError(
            "votes: elections are of a round at a server; take the topology server without a clock"
        )
    rule = getattr(e.algorithm, "rule", None)
    if rule is not None and rule.sharpened:
        raise ValueError(
            f"votes: {e.name} with these settings sharpens, and makes a distribution of a row "
            "without a winner; take aggregation sa"
        )
    check_delta(e.delta, e.clients)
    aggregation = Aggregation(votes=e.votes)
    channel = _channel(e).with_algorithm(e.algorithm)
    aggregation.check(e.algorithm, federation.task, channel, e.clients)
    each = _of_payloads(e, federation, lambda spec: e.votes.events(spec.shape))
    return Private(e, RoundCosts("client", "replace", e.delta, each), aggregation)


def _by_record(e: FedExperiment, federation: FederatedData, epsilon: float) -> Private:
    """Noise in each step of training."""
    clients = federation.clients
    if beyond := uncovered(e):
        raise ValueError(f"epsilon {epsilon:g} by record: {_way_out(e, beyond[0])}")
    check_delta(e.delta, max(len(client.private) for client in clients))
    noise = _enough(e, clients, epsilon)
    local = replace(e.algorithm.local, privacy=Clipping(e.clip_norm, noise))
    e = replace(e, algorithm=replace(e.algorithm, local=local))
    return Private(e, _of_records(e, clients))


def _by_client(e: FedExperiment, federation: FederatedData, epsilon: float) -> Private:
    """Noise on the server's sum over a cohort.

    A Poisson sample of clients is a secret, and costs all of them less. Who is drawn otherwise is
    known, and it costs those who are drawn.
    """
    if not _sends(e):
        return Private(e)
    if not _in_rounds_at_a_server(e):
        raise ValueError(
            f"epsilon {epsilon:g} by client: noise is on the sum of a round at a server; take the "
            "topology server without a clock, or another privacy_unit"
        )
    check_delta(e.delta, e.clients)
    numbers = [client.id for client in federation.clients]
    sampled = e.sampling == "poisson" and e.fraction < 1
    if sampled:
        costs = [Cost((Gaussian(1.0, e.rounds, e.fraction),))]
    else:
        costs = [Cost((Gaussian(1.0, parts),)) for parts in planned(e, numbers).values()]
    rate = e.fraction if sampled else 1.0
    relation: Relation = "add" if sampled else "replace"
    noise = ClientNoise(enough_noise(epsilon, e.delta, costs), e.clip_norm, relation, rate)
    aggregation, events = Aggregation(noise), noise.events()
    channel = _channel(e).with_algorithm(e.algorithm)
    aggregation.check(e.algorithm, federation.task, channel, e.clients)
    each = dict.fromkeys(numbers, () if sampled else events)
    cost = RoundCosts("client", relation, e.delta, each, events if sampled else ())
    return Private(e, cost, aggregation)


def _by_label(e: FedExperiment, federation: FederatedData, epsilon: float) -> Private:
    """Labels that are sent in place of distributions, each perhaps another one."""
    if e.compression != "none":
        raise ValueError(
            f"epsilon {epsilon:g} by label sends labels that are randomised (compression krr); "
            f"leave out compression {e.compression}"
        )
    if not _sends(e):
        return Private(e)
    e = replace(e, compression="krr", epsilon_label=epsilon)
    return Private(e, _of_labels(e, federation))


def _of_labels(e: FedExperiment, federation: FederatedData) -> RoundCosts | None:
    """The costs of labels that are randomised: an event for each of an upload."""
    epsilon = e.epsilon_label
    if epsilon is None or not _sends(e):
        return None
    each = _of_payloads(e, federation, lambda spec: label_events(epsilon, spec))
    check_summed(e.algorithm)
    check_linear(e.algorithm)
    return RoundCosts("label", "replace", e.delta, each)


def _of_payloads(
    e: FedExperiment,
    federation: FederatedData,
    of: Callable[[PayloadSpec], Iterable[Event]],
) -> dict[int, tuple[Event, ...]]:
    """Client -> the events of an upload, from what its payloads look like."""
    events = {}
    for group in federation.task.models:
        specs = e.algorithm.payload_spec(federation.task, group).values()
        events[group] = tuple(event for spec in specs for event in of(spec))
    return {client.id: events[client.group] for client in federation.clients}


UNITS = {"record": _by_record, "client": _by_client, "label": _by_label}


def uncovered(e: FedExperiment) -> tuple[str, ...]:
    """What of an upload is a function of private examples that noise in training does not cover."""
    exact = e.private_size == "public"
    return tuple(key for key in e.algorithm.properties.beyond_training if exact or key != "weight")


def _way_out(e: FedExperiment, key: str) -> str:
    if key == "weight":
        return (
            f"{e.name} sends weight, the exact number of a client's examples; set private_size to "
            "hidden or noisy"
        )
    return (
        f"{e.name} sends {key}, a function of private examples that noise in training does not "
        "cover; take an algorithm that sends what was trained, such as dsfl or fedmd, or another "
        "privacy_unit"
    )


def _trained(training: TrainingConfig, noise: float, records: int) -> tuple[Gaussian, ...]:
    """DP-SGD in one round: a Gaussian for each step, of a Poisson sample; per record added."""
    steps = steps_of(records, training)
    return (Gaussian(noise, steps, rate_of(records, training)),) if steps else ()


def _of_records(
    e: FedExperiment, clients: Collection[Client], beyond: tuple[str, ...] = ()
) -> RoundCosts:
    """The costs of a round of DP-SGD: per record that is added, or removed."""
    training, sizes = e.algorithm.local, _sizes(e, beyond)
    assert training.privacy is not None
    noise = training.privacy.noise
    each = {c.id: (*_trained(training, noise, len(c.private)), *sizes) for c in clients}
    return RoundCosts("record", "add", e.delta, each, beyond=beyond)


def _sizes(e: FedExperiment, beyond: Collection[str] = ()) -> tuple[Event, ...]:
    """What an upload releases of the number of records."""
    weighted = "weight" in e.algorithm.properties.beyond_training
    return () if "weight" in beyond else e.size_disclosure.events(weighted)


def _enough(e: FedExperiment, clients: Collection[Client], epsilon: float) -> float:
    """The noise multiplier of which nobody's records cost more than epsilon in all rounds."""
    training, sizes, costs = e.algorithm.local, _sizes(e), []
    records = {client.id: len(client.private) for client in clients}
    for client, parts in planned(e, list(records)).items():
        own = _trained(training, 1.0, records[client])
        sought = tuple(replace(event, count=event.count * parts) for event in own)
        costs.append(Cost(sought, tuple(replace(s, count=s.count * parts) for s in sizes)))
    return enough_noise(epsilon, e.delta, [cost for cost in costs if cost.sought])


def planned(e: FedExperiment, clients: list[int]) -> Counter[int]:
    """Client -> in how many rounds it will take part, unless it fails.

    On a clock that depends on who is done, so there it may be all of them.
    """
    if e.clock != Clock():
        return Counter(dict.fromkeys(clients, e.rounds))
    drawn = (e.sample(clients, generator(e.seed, "sample", r + 1)) for r in range(e.rounds))
    return Counter(client for cohort in drawn for client in cohort)


def begun(
    costs: RoundCosts | None, kept: Path | None, identity: str, rounds: int
) -> Spending | None:
    """What has been spent before a run, or before what it goes on from; None if nobody counts.

    Args:
        costs: of a round.
        kept: where checkpoints are.
        identity: by which they are known.
        rounds: how many there have been.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    if costs is None:
        return None
    state = checkpoint.verified(kept, identity) if kept and rounds else None
    return Spending(costs, rounds, Counter() if state is None else state.parts)


def after(spent: Spending | None, current: Round) -> Spending | None:
    """What has been spent after a round: by those who trained, whatever became of their uploads.

    Who fails has sent nothing that was trained. But of clients as wholes it may be its data by
    which a client fails, and another's in its place would be in the sum: so it is counted.
    """
    if spent is None:
        return None
    failed = set() if spent.costs.unit == "client" else set(current.failed)
    return spent.after(set(current.cohort) - failed)


def of_round(spent: Spending | None) -> Record:
    """What a round's record says of privacy: of the client of whom most has been released."""
    if spent is None:
        return {}
    said = spent.record()
    return {"privacy": said, **_metrics(said)}


def of_run(spent: Spending | None) -> tuple[Record, Record]:
    """What a run's record says: metrics, and beside the worst client's events all epsilons."""
    if spent is None:
        return {}, {}
    said = spent.record()
    return _metrics(said), {"privacy": said | {"clients": spent.of_all()}}


def _metrics(said: Record) -> Record:
    """Epsilon under a name that has its unit and its relation, and the delta that it is at."""
    every = [said, *([said["composed"]] if "composed" in said else [])]
    found = {f"epsilon_{one['unit']}_{one['relation']}": one["epsilon"] for one in every}
    return found | {"delta": said["delta"]}


def notes(e: FedExperiment, costs: RoundCosts | None) -> list[str]:
    """What is to be known of a private run, in words."""
    found = [UNSEEN] if e.secure_sum and _sends(e) else []
    if costs is None:
        return found
    found.append(NOT_KEPT if e.secret_noise else SEED_UNDOES)
    if costs.every_round:
        found.append(DRAWN)
    if costs.unit == "record" and not type(e.algorithm).__module__.startswith("fedkd."):
        found.append(UNPROVED.format(e.name))
    if costs.beyond:
        found.append(f"no epsilon is claimed: {_way_out(e, costs.beyond[0])}")
    return found
