"""What makes a federation private, what is refused, and what its records say."""

import dataclasses
from collections import Counter

import pytest

from fedkd import algorithms
from fedkd.privacy import Gaussian, Ledger
from fedkd.rounds.clock import Clock
from kdcore.training.optimizers import Clipping, TrainingConfig
from simulations.config.experiments import FedExperiment
from simulations.runners import federated, privacy

TRAINING = TrainingConfig(learning_rate=0.1, epochs=2, batch_size=8)
SMALL = dict(clients=3, private=90, public=20, test=40, rounds=3, models=("mlp-8",), alpha=0.5)


def experiment(name="dsfl", noise=None, **settings):
    own = {"privacy": Clipping(1.0, noise)} if noise is not None else {}
    algorithm = algorithms.get(name)(local=dataclasses.replace(TRAINING, **own))
    return FedExperiment(algorithm, **(SMALL | settings))


def made(*given, **settings):
    e = experiment(*given, **settings)
    federation = federated.dealt(e, federated.datasets.load(e.data))
    return federation.clients, *privacy.private(e, federation)


def test_a_run_without_noise_costs_nothing_that_is_counted():
    _, e, costs = made()
    assert costs is None
    assert e == experiment()


def test_noise_by_hand_is_counted_client_by_client():
    clients, e, costs = made(noise=1.3)
    sizes = [len(client.private) for client in clients]
    assert len(set(sizes)) == 3
    steps = [2 * -(-n // 8) for n in sizes]
    events = {
        k: (Gaussian(1.3, s, min(1, 8 / n)),)
        for k, (s, n) in enumerate(zip(steps, sizes, strict=True))
    }
    assert costs.taking_part == events
    assert (costs.unit, costs.relation, costs.delta, costs.beyond) == ("record", "add", 1e-5, ())
    assert e.algorithm.local.privacy == Clipping(1.0, 1.3)


def test_under_epsilon_noise_is_enough_for_the_client_who_spends_most():
    _, e, costs = made(epsilon=6.0, clip_norm=0.5)
    assert e.algorithm.local.privacy.norm == 0.5
    events = [
        tuple(dataclasses.replace(one, count=3 * one.count) for one in own)
        for own in costs.taking_part.values()
    ]
    spent = [Ledger("record", "add", own).guarantee(1e-5).epsilon for own in events]
    assert 5.95 < max(spent) <= 6.0
    assert min(spent) < 5.5  # clients of other sizes spend otherwise


def test_rounds_are_planned_for_those_who_will_be_drawn():
    some = experiment(fraction=0.34)
    assert privacy.planned(experiment(), [0, 1, 2]) == {0: 3, 1: 3, 2: 3}
    assert privacy.planned(some, [0, 1, 2]).total() == 3  # one of three, three times
    cohorts = [record["cohort"] for record in federated.run(some) if record["record"] == "round"]
    assert privacy.planned(some, [0, 1, 2]) == Counter(sum(cohorts, []))
    late = dataclasses.replace(some, clock=Clock(step_seconds=1.0))
    assert privacy.planned(late, [0, 1, 2]) == {0: 3, 1: 3, 2: 3}


def test_noise_of_sizes_counts_and_what_is_sent_as_it_is_leaves_no_epsilon():
    clients, _, costs = made("fedavg", noise=1.0, private_size="noisy", size_noise=9.0)
    assert all(events[-1] == Gaussian(9.0) for events in costs.taking_part.values())
    for told, beyond in (("hidden", ()), ("public", ("weight",))):
        *_, e, costs = made("fedavg", noise=1.0, private_size=told)
        assert costs.beyond == beyond
        assert all(len(events) == 1 for events in costs.taking_part.values())
    assert "hidden or noisy" in privacy.notes(e, costs)[1]
    assert privacy.notes(*made()[1:]) == []
    assert len(clients) == 3


SENT_AS_IT_IS = {"fd": "means", "fedproto": "prototypes", "fedtgp": "prototypes", "pooled": "x"}
SENT_AS_IT_IS |= {"fedgkt": "features", "fedgen": "label_counts"}
REFUSED = [
    *((dict(name=name, epsilon=4.0), f"{name} sends {key}") for name, key in SENT_AS_IT_IS.items()),
    *(
        (dict(name=name, epsilon=4.0), "sends weight, the exact number .* private_size to hidden")
        for name in ("fedavg", "fedprox", "feddf", "fedkd", "fml")
    ),
    (dict(epsilon=4.0, noise=1.0), "local.privacy sets it; leave out one"),
    (dict(epsilon=4.0, delta=0.05), r"delta is 0.05, above 1/\d\d"),
    (dict(epsilon=4.0, delta=1.5), "between 0 and 1"),
    (dict(epsilon=1e-5), "no noise is enough"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_no_noise_would_cover_is_refused(settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        made(**settings)
    assert "\n" not in str(refusal.value)


def test_every_algorithm_is_either_covered_or_refused():
    for name in algorithms.names():
        beyond = privacy.uncovered(experiment(name, private_size="hidden"))
        assert beyond[:1] == tuple(filter(None, [SENT_AS_IT_IS.get(name)]))


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan"])
def test_an_epsilon_that_is_none_is_one_line(epsilon, kdsim, small):
    status, _, err = kdsim("fed", "dsfl", *small, f"--epsilon={epsilon}", "--no-baseline")
    assert (status, err.count("\n")) == (2, 1), err
