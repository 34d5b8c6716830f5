"""Peers and clocks from the command line to the record: numbers, notes, and resuming."""

import dataclasses
import itertools
import json
import os
import signal

import pytest

from fedkd import algorithms
from fedkd.privacy.accounting import Ledger
from fedkd.privacy.votes import NoisyVotes
from fedkd.rounds import checkpoint
from fedkd.rounds.clock import Clock
from kdcore.training.loop import TrainingConfig
from simulations.cli import app
from simulations.config.experiments import FedExperiment
from simulations.runners import federated
from tests.simulations.conftest import SMALL as FLAGS
from tests.simulations.conftest import timeless

SMALL = dict(clients=5, private=60, public=20, test=40, rounds=3, models=("mlp-8", "mlp-9"))
SLOW = Clock(step_seconds=1.0, stragglers=0.2, slowdown=5.0)


def experiment(name="fedmd", **settings):
    return FedExperiment(algorithms.get(name)(), **(SMALL | settings))


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_a_complete_topology_has_the_scores_of_the_server(name):
    served = list(federated.run(experiment(name)))
    among = list(federated.run(experiment(name, topology="complete")))
    for one, other in zip(served[:-1], among[:-1], strict=True):
        assert one["clients"]["accuracy"] == pytest.approx(other["clients"]["accuracy"], abs=1e-6)
    assert among[-1]["metrics"]["spectral_gap"] == pytest.approx(1)
    assert among[-1]["metrics"]["diameter"] == 1
    assert "spectral_gap" not in served[-1]["metrics"]


def test_bytes_of_peers_are_those_of_their_links():
    *rounds, end = federated.run(experiment(topology="ring"))
    each = 20 * 10 * 4  # public examples, classes, bytes
    assert rounds[0]["bytes_per_link"] == {str(peer): each for peer in range(5)}
    assert [record["bytes_up"] for record in rounds] == [10 * each, 20 * each, 30 * each]
    assert end["metrics"]["bytes_down"] == 0
    assert end["topology"]["links"] == [[0, 1], [0, 4], [1, 2], [2, 3], [3, 4]]
    assert len(end["topology"]["positions"]) == 5
    assert end["metrics"]["diameter"] == 2
    assert end["metrics"]["consensus_distance"] == rounds[-1]["consensus_distance"] > 0


def test_peers_on_a_ring_come_to_agree():
    training = TrainingConfig("momentum", 0.05, epochs=2, batch_size=16)
    algorithm = algorithms.get("fedmd")(local=training, distill=training)
    settings = dict(clients=8, private=400, public=200, models=("mlp-32",), alpha=1.0)
    settings |= dict(topology="ring", engine="batched", rounds=12, eval_every=4)
    *rounds, _ = federated.run(FedExperiment(algorithm, **settings))
    apart = [1 - record["agreement"] for record in rounds if "agreement" in record]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 0.7 * apart[0]


def test_time_is_told_and_a_deadline_saves_it():
    *waiting, end = federated.run(experiment(clock=SLOW))
    *rounds, sooner = federated.run(experiment(clock=dataclasses.replace(SLOW, deadline=15.0)))
    times = [record["virtual_seconds"] for record in rounds]
    assert times == sorted(times)
    assert end["metrics"]["virtual_seconds"] == waiting[-1]["virtual_seconds"]
    assert sooner["metrics"]["virtual_seconds"] < end["metrics"]["virtual_seconds"] / 2
    assert [len(record["cohort"]) for record in rounds[:2]] == [5, 4]
    assert end["protocol"] == sooner["protocol"]  # how long to wait is what is compared
    assert end["protocol"].endswith("1 s a step, 20% of clients 5 times slower")


def test_the_same_timed_experiment_gives_the_same_records():
    late = dataclasses.replace(SLOW, spread=0.5, dropout=0.3, deadline=10.0, staleness=2)
    one, again = (timeless(federated.run(experiment(clock=late))) for _ in range(2))
    assert one == again


def test_peers_have_no_clock():
    with pytest.raises(ValueError, match="topology ring: peers have no common clock"):
        experiment(topology="ring", clock=SLOW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(topology="ring", clients=1), "needs at least 2 clients"),
        (dict(topology="small-world", clients=4), "is complete; take a smaller degree"),
        (dict(topology="random-geometric", radius=0.01), "raise the radius"),
        (dict(topology="ring", compression="root8-delta"), "its neighbours do not know"),
    ],
)
def test_topologies_that_cannot_be_are_refused_before_anything_runs(settings, message):
    with pytest.raises(ValueError, match=message):
        federated.prepare(experiment(**settings))


def test_late_predictions_about_other_examples_are_refused_before_anything_runs():
    algorithm = algorithms.get("fedmd")(public_size=5)
    clock = dataclasses.replace(SLOW, deadline=5.0, staleness=1)
    with pytest.raises(ValueError, match="late predictions would be about other public examples"):
        federated.prepare(FedExperiment(algorithm, clock=clock, **SMALL))


WAYS = {"server": {}, "peers": {"topology": "ring"}, "clock": {"clock": SLOW}}


@pytest.mark.parametrize("way", WAYS)
def test_of_a_poisson_sample_there_may_be_nobody_and_the_round_counts(way):
    sparse = dict(sampling="poisson", fraction=0.15, rounds=6, eval_every=3)
    *rounds, end = federated.run(experiment("fedavg", models=("mlp-8",), **sparse, **WAYS[way]))
    cohorts = [record["cohort"] for record in rounds]
    assert cohorts.count([]) >= 2
    assert len({len(cohort) for cohort in cohorts}) > 1
    moved = [0, *(record["bytes_up"] for record in rounds)]
    if way != "clock":  # there an upload may come a round later
        assert [b > a for a, b in itertools.pairwise(moved)] == [c != [] for c in cohorts]
    assert "15% of clients a round (Poisson)" in end["protocol"]
    assert end["metrics"]["accuracy"] == rounds[-1]["accuracy"]


def test_hidden_sizes_change_weighted_means_and_say_so():
    def ran(**settings):
        return list(federated.run(experiment("fedavg", models=("mlp-8",), **settings)))[-1]

    exact, hidden, noisy = (ran(private_size=told) for told in ("public", "hidden", "noisy"))
    assert len({one["state"] for one in (exact, hidden, noisy)}) == 3
    assert exact["metrics"]["bytes_up"] - hidden["metrics"]["bytes_up"] == 5 * 3 * 8
    assert hidden["protocol"].endswith("hidden numbers of examples")
    assert ran(private_size="noisy", size_noise=5.0)["state"] != noisy["state"]


def test_randomised_labels_cross_in_four_bits_each():
    krr = dict(compression="krr", epsilon_label=4.0)
    *rounds, last = federated.run(experiment("dsfl", **krr))
    # Five clients and twenty labels of ten classes in four bits each, behind a shape of nine bytes.
    assert [one["bytes_up"] for one in rounds] == [95, 190, 285]  # 5 (20 / 2 + 9) a round
    assert "rejected" not in last


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fedavg", {"epsilon_label": 4.0}, "no distributions over them; take dsfl or fedmd"),
        ("fd", {"epsilon_label": 4.0}, "no distributions over them; take dsfl or fedmd"),
        ("dsfl", {}, "krr and epsilon_label None: .* give both, or neither"),
        ("dsfl", {"epsilon_label": 4.0, "topology": "ring"}, "are for a server"),
        ("dsfl", {"epsilon_label": 4.0, "compression": "argmax"}, "argmax and epsilon_label 4.0"),
    ],
    ids=["parameters", "held", "alone", "peers", "other"],
)
def test_what_no_epsilon_of_labels_covers_is_refused_before_anything_runs(name, settings, said):
    with pytest.raises(ValueError, match=said):
        next(federated.run(experiment(name, **({"compression": "krr"} | settings))))


def test_a_secure_sum_says_what_is_no_longer_checked_and_weighs_its_masks():
    told = dict(models=("mlp-8",), rounds=1)
    plain, secure = (
        list(federated.run(experiment("dsfl", secure_sum=how, **told))) for how in (False, True)
    )
    # 5 vectors of 20 times 10 numbers, 10 keys, two shares and a tag for each of 20 pairs, and of
    # each a share of each.
    vectors, masks = 5 * 4 * 20 * 10, 10 * 32 + 20 * (2 * 32 + 16) + 25 * 32
    assert secure[0]["bytes_up"] == vectors + masks
    assert plain[0]["bytes_up"] == vectors
    assert any("secure sum is simulated" in note for note in secure[0]["notes"])
    assert secure[-1]["metrics"]["accuracy"] == pytest.approx(plain[-1]["metrics"]["accuracy"])


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fedgkt", {}, "needs each upload on its own"),
        ("fedmd", {"topology": "ring"}, "the topology server without a clock"),
        ("fedmd", {"clock": SLOW}, "the topology server without a clock"),
        ("fedmd", {"compression": "uint8"}, "take compression none"),
        ("fedmd", {"epsilon": 4.0, "privacy_unit": "client", "delta": 1e-2}, "take one of them"),
    ],
    ids=["each", "peers", "clock", "compression", "noise"],
)
def test_what_is_no_secure_sum_is_refused_before_anything_runs(name, settings, said):
    with pytest.raises(ValueError, match=said):
        next(federated.run(experiment(name, secure_sum=True, **settings)))


def test_elections_are_counted_for_those_who_vote():
    votes = NoisyVotes(most=10, threshold=3.0, test_noise=4.0, noise=2.0)
    told = dict(models=("mlp-8",), rounds=2, votes=votes, delta=1e-2)
    *rounds, last = federated.run(experiment("fedmd", **told))
    spent = Ledger("client", "replace", votes.events((20, 10)) * 2).guarantee(1e-2)
    assert last["metrics"]["epsilon_client_replace"] == pytest.approx(spent.epsilon, rel=1e-4)
    assert rounds[0]["privacy"]["unit"] == "client"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("dsfl", {}, "sharpens, and makes a distribution of a row without a winner"),
        ("fedavg", {}, "an election is of the classes"),
        ("fedmd", {"topology": "ring"}, "take the topology server"),
        ("fedmd", {"epsilon": 4.0, "privacy_unit": "client"}, "votes sets it"),
        ("fedmd", {"compression": "krr", "epsilon_label": 1.0}, "an account has one unit"),
        ("fedmd", {"secure_sum": True}, "take one of them"),
    ],
    ids=["sharpened", "parameters", "peers", "epsilon", "labels", "secure"],
)
def test_what_is_no_election_is_refused_before_anything_runs(name, settings, said):
    votes = NoisyVotes(most=10)
    with pytest.raises(ValueError, match=said):
        next(federated.run(experiment(name, **({"votes": votes, "delta": 1e-2} | settings))))


@pytest.mark.parametrize("what", [{"secure_sum": True}, {"liars": "0.2:noise"}], ids=str)
def test_clients_alone_stand_beside_for_comparison_whatever_is_about_uploads(what):
    federated.prepare(experiment("local", models=("mlp-8",), **what))


def test_mistakes_are_one_line(kdsim, small):
    cases = [("fedmd", ["--topology", "ring", "--clients", "1"])]
    cases += [("fedmd", ["--clock-stragglers", "0.2"]), ("fedgen", ["--private-size", "hidden"])]
    cases += [("pooled", ["--private-size", "noisy"]), ("fedavg", ["--size-noise", "0"])]
    for name, flags in cases:
        status, _, err = kdsim("fed", name, *small, *flags, "--no-baseline")
        assert (status, err.count("\n")) == (2, 1), err


RUNS = {
    "clock": ["--clock-step-seconds", "1", "--clock-stragglers", "0.4", "--clock-slowdown", "3"]
    + ["--clock-deadline", "12", "--clock-staleness", "1", "--clock-dropout", "0.1"],
    "asynchronous": ["--clock-step-seconds", "1", "--clock-spread", "0.5", "--clock-buffer", "1"],
    "peers": ["--topology", "ring"],
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed(name, kdsim, tmp_path, monkeypatch):
    command = ["fed", "fedmd", *FLAGS, "--rounds", "6", "--checkpoint-every", "1", "--no-baseline"]
    command += ["--out", "runs", *RUNS[name]]

    def records(folder):
        (path,) = folder.glob("runs/*/metrics.jsonl")
        return timeless([json.loads(line) for line in path.read_text().splitlines()])

    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert kdsim(*command)[0] == 0
    (tmp_path / "cut").mkdir()
    monkeypatch.chdir(tmp_path / "cut")
    child = os.fork()
    if child == 0:
        good, calls = checkpoint.save, []

        def deadly(*given):
            calls.append(given)
            return good(*given) if len(calls) < 4 else os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save = deadly
        os._exit(app.main(command))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert kdsim("resume", "runs")[0] == 0
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
