"""What makes a federation private, what is refused, and what its records say."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from fedkd import algorithms
from fedkd.algorithms.dsfl import DSFL
from fedkd.messages import Ledger as Bytes
from fedkd.privacy import Gaussian, Ledger
from fedkd.privacy.spending import RoundCosts, Spending
from fedkd.privacy.votes import NoisyVotes
from fedkd.rounds.clock import Clock
from fedkd.rounds.round import Round, private_of_all
from kdcore.training.optimizers import Clipping, TrainingConfig
from kdsim import api
from simulations.config.experiments import FedExperiment
from simulations.config.resources import Resources
from simulations.results import run_folder
from simulations.runners import federated, privacy
from tests.simulations.conftest import timeless

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
    _, *found = made()
    assert found == [experiment(), None, None]


def test_noise_by_hand_is_counted_client_by_client():
    clients, e, costs, _ = made(noise=1.3)
    sizes = [len(client.private) for client in clients]
    assert len(set(sizes)) == 3
    steps = [2 * -(-n // 8) for n in sizes]
    events = {
        k: (Gaussian(1.3, s, min(1, 8 / n)),)
        for k, (s, n) in enumerate(zip(steps, sizes, strict=True))
    }
    assert costs.taking_part == events
    drawn = private_of_all(e.algorithm, clients, 0, 1)
    assert [one.steps for one in drawn] == steps
    assert (costs.unit, costs.relation, costs.delta, costs.beyond) == ("record", "add", 1e-5, ())
    assert e.algorithm.local.privacy == Clipping(1.0, 1.3)


def test_under_epsilon_noise_is_enough_for_the_client_who_spends_most():
    _, e, costs, _ = made(epsilon=6.0, clip_norm=0.5)
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
    clients, _, costs, _ = made("fedavg", noise=1.0, private_size="noisy", size_noise=9.0)
    assert all(events[-1] == Gaussian(9.0) for events in costs.taking_part.values())
    for disclosure, beyond in (("hidden", ()), ("public", ("weight",))):
        _, e, costs, _ = made("fedavg", noise=1.0, private_size=disclosure)
        assert costs.beyond == beyond
        assert all(len(events) == 1 for events in costs.taking_part.values())
    assert "hidden or noisy" in privacy.notes(e, costs)[1]
    assert privacy.notes(*made()[1:3]) == []
    assert len(clients) == 3


SENT_AS_IT_IS = {"fd": "means", "fedproto": "prototypes", "fedtgp": "prototypes", "pooled": "x"}
SENT_AS_IT_IS |= {"fedgkt": "features", "fedgen": "label_counts", "fedgh": "prototypes"}
SENT_AS_IT_IS |= {"fedhkd": "features", "selectivefd": "rows", "fedcache": "hashes"}
SENT_AS_IT_IS |= {"fedaux": "certainty"}
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


# Runs and their records


def ran(*given, **more):
    *rounds, end = federated.run(experiment(*given, **more))
    return rounds, end


def by_hand(noise, rate, steps, delta=1e-5):
    """Epsilon by the library alone."""
    gaussian = dp_accounting.GaussianDpEvent(noise)
    sampled = dp_accounting.PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian
    return PLDAccountant().compose(sampled, steps).get_epsilon(delta)


def test_epsilon_is_that_of_the_library_for_the_steps_that_each_client_took():
    rounds, end = ran(noise=4.0, fraction=0.6, sampling="poisson", seed=1)
    clients, *_ = made(noise=4.0, seed=1)
    parts = Counter(client for record in rounds for client in record["cohort"])
    assert len(set(parts.values())) > 1
    expected = {}
    for client in clients:
        n = len(client.private)
        steps = parts[client.id] * 2 * -(-n // 8)
        expected[str(client.id)] = by_hand(4.0, min(1, 8 / n), steps) if steps else 0.0
    assert end["privacy"]["clients"] == pytest.approx(expected, rel=0.01)
    worst = max(expected, key=expected.get)
    assert (str(end["privacy"]["client"]), end["metrics"]["delta"]) == (worst, 1e-5)
    assert end["metrics"]["epsilon_record_add"] == end["privacy"]["clients"][worst]
    spent = [record["epsilon_record_add"] for record in rounds]
    assert spent == sorted(spent)
    assert rounds[-1]["privacy"] == {k: v for k, v in end["privacy"].items() if k != "clients"}


@pytest.mark.parametrize(
    "way",
    ["server", *(pytest.param(w, marks=pytest.mark.slow) for w in ("clock", "peers"))],
)
def test_a_run_that_goes_on_has_spent_what_one_that_never_stopped_has(way, tmp_path):
    ways = {"server": {}, "peers": {"topology": "ring"}}
    ways["clock"] = {"clock": Clock(step_seconds=1.0, spread=0.5, dropout=0.3, buffer=1)}
    e = experiment("fedmd", noise=6.0, fraction=0.5, sampling="poisson", rounds=5, **ways[way])
    often = Resources(checkpoint_every=1)
    whole = list(federated.run(e))
    first = list(itertools.islice(federated.run(e, None, often, tmp_path / "checkpoint"), 3))
    rest = list(federated.run(e, None, often, tmp_path / "checkpoint"))
    stopped = first[: 5 - (len(rest) - 1)] + rest
    assert 2 <= len(rest) < 6
    assert [one | {"notes": 0} for one in timeless(stopped)] == [
        one | {"notes": 0}
        for one in timeless(whole)  # the first record of each start has them
    ]
    trained = Counter()
    for record in whole[:-1]:
        trained += Counter(set(record["cohort"]) - set(map(int, record["failed"])))
    worst = whole[-1]["privacy"]
    (own,) = worst["events"]
    assert own["count"] == trained[worst["client"]] * steps_of_client(e, worst["client"])


def steps_of_client(e, client):
    n = len(federated.dealt(e, federated.datasets.load(e.data)).clients[client].private)
    return 2 * -(-n // 8)


@pytest.mark.usefixtures("no_report")
def test_secret_noise_is_of_a_number_that_is_nowhere_and_the_ledger_is_the_same(
    kdsim, small, monkeypatch
):
    drawn = iter([2**61 + 12345, 2**61 + 54321])
    monkeypatch.setattr("secrets.randbits", lambda bits: next(drawn))
    flags = ["--local-privacy-norm", "1", "--local-privacy-noise", "5", "--no-baseline"]
    flags += ["--secret-noise", "true", "--checkpoint-every", "1"]
    runs = []
    for out in ("one", "other"):
        assert kdsim("fed", "dsfl", *small, *flags, "--out", out)[0] == 0
        (folder,) = Path(out).glob("dsfl-*")
        runs.append(run_folder.load(folder)[0].records[-1])
        texts = [path.read_text() for path in folder.rglob("*.json*")]
        assert not any(str(2**61)[:9] in text for text in texts)
        assert not (folder / "checkpoint").exists()
        assert "drawn from the system" in run_folder.head(folder)["notes"][0]
    assert runs[0]["state"] != runs[1]["state"]
    assert runs[0]["privacy"] == runs[1]["privacy"]
    status, _, err = kdsim("inspect", folder, "--round", "1", "--client", "0")
    assert (status, err.count("\n")) == (2, 1)
    assert "secret noise, which nobody can draw again" in err


def test_the_seed_draws_the_same_noise_again_and_says_so():
    (first, *_), end = ran(noise=5.0, rounds=1)
    assert ran(noise=5.0, rounds=1)[1]["state"] == end["state"]
    assert "whoever reads it can take the noise off" in first["notes"][0]


class Own(DSFL):
    """An algorithm of a user's, of which no contract knows."""


@pytest.mark.parametrize(("kind", "said"), [(DSFL, False), (Own, True)], ids=["ours", "own"])
def test_what_an_own_algorithm_says_of_itself_is_not_taken_for_proved(kind, said):
    training = dataclasses.replace(TRAINING, privacy=Clipping(1.0, 2.0))
    e = FedExperiment(kind(local=training), **SMALL)
    costs = RoundCosts("record", "add", 1e-5, {0: (Gaussian(2.0),)})
    assert any("nobody has checked" in note for note in privacy.notes(e, costs)) == said


# Clients as the unit


def test_noise_for_clients_is_on_the_sum_and_costs_those_who_are_drawn():
    shared = dict(privacy_unit="client", epsilon=3.0, delta=0.1)
    rounds, end = ran("fedmd", **shared, fraction=0.67)
    parts = Counter(client for record in rounds for client in record["cohort"])
    said = end["privacy"]
    assert (said["unit"], said["relation"]) == ("client", "replace")
    (event,) = said["events"]
    assert (event["count"], event["rate"]) == (max(parts.values()), 1.0)
    assert said["epsilon"] == pytest.approx(3.0, rel=0.01)
    expected = {str(k): by_hand(event["noise"], 1.0, parts[k], 0.1) for k in range(3)}
    assert said["clients"] == pytest.approx(expected, rel=0.01)
    assert end["metrics"]["epsilon_client_replace"] == said["epsilon"]


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "counted"), [("client", {0, 2}), ("record", {0})])
def test_who_fails_sends_nothing_but_as_a_whole_it_may_have_failed_by_its_data(unit, counted):
    costs = RoundCosts(unit, "add", 1e-5, {k: (Gaussian(2.0),) for k in range(3)})
    current = Round(1, {}, (), (0, 2), {}, Bytes(), {2: "ZeroDivisionError"})
    spent = privacy.after(Spending(costs), current)
    assert {k for k in range(3) if spent.guarantee(k).epsilon > 0} == counted


def test_a_poisson_sample_of_clients_costs_all_of_them_less():
    _, e, costs, aggregation = made(
        "fedmd", privacy_unit="client", epsilon=3.0, delta=0.1, fraction=0.5, sampling="poisson"
    )
    (event,) = costs.every_round
    assert (event.rate, costs.relation, set(costs.taking_part.values())) == (0.5, "add", {()})
    assert by_hand(event.noise, 0.5, 3, 0.1) == pytest.approx(3.0, rel=0.01)
    assert aggregation.noise.events() == costs.every_round
    assert privacy.DRAWN in privacy.notes(e, costs)


CLIENTS = [
    (dict(name="fedmd", topology="ring"), "take the topology server"),
    (dict(name="fedmd", clock=Clock(step_seconds=1.0)), "without a clock"),
    (dict(name="fedmd", delta=0.5), "delta is 0.5, above 1/3"),
    (dict(name="feddf"), "needs each upload on its own"),
    (dict(name="fedmd", noise=1.0), "leave out one"),
]


@pytest.mark.parametrize(("settings", "message"), CLIENTS, ids=lambda one: str(one)[:40])
def test_what_noise_on_a_sum_would_not_cover_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**{"privacy_unit": "client", "epsilon": 3.0, "delta": 0.1, **settings})


@pytest.mark.parametrize("unit", ["client", "label"])
def test_who_sends_nothing_has_nothing_to_hide_at_a_server(unit):
    assert made("local", privacy_unit=unit, epsilon=1.0)[2:] == (None, None)


@pytest.mark.parametrize("what", [{"secure_sum": True}, {"votes": NoisyVotes(most=5)}], ids=str)
def test_who_sends_nothing_stands_beside_secure_sums_and_elections(what):
    assert made("local", **what)[2:] == (None, None)


KNOWING = [
    dict(privacy_unit="client", epsilon=8.0, delta=0.1),
    dict(privacy_unit="label", epsilon=2.0),
    dict(votes=NoisyVotes(most=5), delta=0.1),
]


@pytest.mark.parametrize("noise", KNOWING, ids=["client", "label", "votes"])
def test_liars_who_know_what_others_send_are_in_no_account(noise):
    told = dict(name="fedmd", clients=4, **noise)
    with pytest.raises(ValueError, match="they know what others send before there is noise on it"):
        made(**told, liars="0.25:weakest-class")
    assert made(**told, liars="0.25:label-flip")[2] is not None


def test_liars_may_repeat_what_was_trained_with_noise():
    assert made("fedmd", noise=2.0, clients=4, liars="0.25:weakest-class")[2] is not None


# Labels as the unit


def test_labels_are_randomised_and_both_figures_are_said():
    _, end = ran("dsfl", privacy_unit="label", epsilon=1.5, rounds=2)
    said = end["privacy"]
    assert said["events"] == [
        {"kind": "randomized_response", "epsilon": 1.5, "classes": 10, "count": 2 * 20}
    ]
    assert (said["unit"], said["relation"], said["epsilon"]) == ("label", "replace", 1.5)
    assert (said["composed"]["unit"], said["composed"]["relation"]) == ("client", "replace")
    assert 15 < said["composed"]["epsilon"] < 40 * 1.5
    assert end["metrics"]["epsilon_label_replace"] == 1.5
    assert end["metrics"]["epsilon_client_replace"] == said["composed"]["epsilon"]
    _, same = ran("dsfl", compression="krr", epsilon_label=1.5, rounds=2)
    assert (same["privacy"], same["state"]) == (said, end["state"])


LABELS = [
    (dict(name="fd"), "no distributions"),
    (dict(name="fedavg"), "no distributions"),
    (dict(compression="argmax"), "leave out compression argmax"),
    (dict(compression="krr", epsilon_label=1.0), "epsilon_label sets it; leave out one"),
    (
        dict(compression="krr", epsilon_label=1.0, noise=1.0, epsilon=None, privacy_unit="record"),
        "an account has one unit",
    ),
]


@pytest.mark.parametrize(("settings", "message"), LABELS, ids=lambda one: str(one)[:40])
def test_labels_that_would_not_be_all_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**{"privacy_unit": "label", "epsilon": 1.5, **settings})


# Beside accuracy


@pytest.mark.slow
def test_tables_and_frames_name_unit_relation_and_delta(kdsim, small):
    flags = ["--local-privacy-norm", "1", "--local-privacy-noise", "5", "--no-baseline"]
    _, shown, _ = kdsim("fed", "dsfl", *small, *flags, "--out", "runs")
    assert all(word in shown for word in ("epsilon", "record", "delta", "1e\N{MINUS SIGN}05"))
    runs = api.load("runs")
    (row,) = runs.final().to_dict("records")
    said = runs.runs[0].records[-1]["privacy"]
    assert (row["epsilon_record_add"], row["delta"]) == (said["epsilon"], 1e-5)
    assert runs.frame().epsilon_record_add.tolist()[-1] == said["epsilon"]
    text = Path("runs/tables.md").read_text()
    assert "Epsilon per record (added)" in text
    assert "1e\N{MINUS SIGN}05" in text
    page = Path("runs/report.html").read_text()
    assert "Epsilon per record (added)" in page
    assert "against whoever sees all messages and not the seed" in page
