import dataclasses
import statistics
from pathlib import Path

import pytest
import torch

import simulations
from fedkd import algorithms
from fedkd.data.partition import PARTITIONS
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from simulations.config import files, grid, identity
from simulations.config.experiments import FedExperiment
from simulations.results.run_folder import finite
from simulations.runners import federated
from tests import by_default

SMALL = dict(clients=3, private=60, public=20, test=40, rounds=3, models=("mlp-8", "mlp-9-8"))


def timeless(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def experiment(name="fedmd", **settings):
    return FedExperiment(by_default.make(name), **(SMALL | settings))


SERVER_SCORED = {"fedet": ("accuracy_server",)}  # a model of the server's own
AGREED = ("accuracy_consensus",)  # on all that the last round asked about; others tell of a part
SERVER_SCORED |= dict.fromkeys(("cfd", "dsfl", "fedmd"), AGREED)


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_runs_to_a_record_of_the_run(name):
    *rounds, end = federated.run(experiment(name))
    assert [record["round"] for record in rounds] == [1, 2, 3]
    assert finite([*rounds, end]) == [*rounds, end]
    last = rounds[-1]
    assert end["metrics"] == {
        key: last[key]
        for key in ("accuracy", "accuracy_median", "accuracy_min", "accuracy_local")
        + ("agreement", "calibration_error", "bytes_up", *SERVER_SCORED.get(name, ()))
    } | {"bytes_down": last["bytes_down"] + last["bytes_deployed"]}
    assert last["accuracy"] == pytest.approx(statistics.fmean(last["clients"]["accuracy"]))
    assert last["accuracy_std"] == pytest.approx(statistics.stdev(last["clients"]["accuracy"]))
    assert last["accuracy_min"] == min(last["clients"]["accuracy"])
    assert last["accuracy_median"] == statistics.median(last["clients"]["accuracy"])
    assert last["clients"]["group"] == ["mlp-8", "mlp-9-8", "mlp-8"]
    assert (end["method"], end["data"], end["seed"]) == (name, "digits", 0)
    assert end["protocol"] == "3 clients, dirichlet 0.3, 3 rounds"


def test_a_method_of_one_round_says_so_where_there_are_more():
    short = TrainingConfig(epochs=1, batch_size=8)
    settings = {"models": ("mlp-8",), "private": 24, "clients": 2}
    for rounds, noted in ((1, 0), (2, 1)):
        method = algorithms.get("dense")(local=short, distill=short, generator=short, width=2)
        first, *_, end = federated.run(
            FedExperiment(method, **SMALL | settings | {"rounds": rounds})
        )
        said = [note for note in first.get("notes", []) if "--rounds 1 is the paper's" in note]
        assert len(said) == noted
        # Parameters go up in each round; down between rounds, and at the end.
        assert end["metrics"]["bytes_up"] == end["metrics"]["bytes_down"] > 0


def demo_dsfl(seed, **distill):
    local = TrainingConfig(learning_rate=0.1, epochs=2, batch_size=8)
    algorithm = algorithms.get("dsfl")(local=local, distill=TrainingConfig(**distill))
    return FedExperiment(algorithm, eval_every=5, seed=seed, engine="sequential")


def test_a_digest_that_wipes_a_client_out_is_named():
    # Seed 2 with steps that are too large: client 1 ends with one answer for everything.
    large = demo_dsfl(2, learning_rate=1.0, epochs=2, batch_size=32)
    *rounds, end = federated.run(dataclasses.replace(large, models=("mlp-64", "mlp-128-64")))
    assert set(rounds[-1]["collapsed"]) == {"1"}
    assert rounds[-1]["clients"]["accuracy"][1] < 0.2 < rounds[-1]["accuracy_median"]
    (note,) = end["notes"]
    assert "client 1 " in note
    assert "distill.learning_rate" in note


@pytest.mark.parametrize("seed", [2, 4])
def test_no_client_of_the_demo_is_wiped_out(seed):
    path = Path(simulations.__file__).parent / "experiments" / "demo.toml"
    experiments = grid.expand(files.read(path), path.name).experiments
    (chosen,) = (e for e in experiments if e.name == "dsfl" and e.seed == seed)
    *rounds, end = federated.run(dataclasses.replace(chosen, eval_every=chosen.rounds))
    assert end["metrics"]["accuracy_min"] > 0.5
    assert "collapsed" not in rounds[-1]


def test_bytes_add_up_over_rounds():
    rounds = list(federated.run(experiment()))[:-1]
    sent = [sum(record["traffic"]["up"].values()) for record in rounds]
    assert sent == [3 * 20 * 10 * 4] * 3  # clients, public examples, classes, bytes
    assert [record["bytes_up"] for record in rounds] == [sent[0], 2 * sent[0], 3 * sent[0]]
    half = list(federated.run(experiment(compression="float16")))[-1]
    assert half["metrics"]["bytes_up"] == rounds[-1]["bytes_up"] / 2


@pytest.mark.parametrize(
    ("name", "broadcasts"), [("dsfl", 3), ("fedmd", 2), ("fd", 2), ("local", 0)]
)
@pytest.mark.parametrize("every", [1, 3])
def test_bytes_down_are_those_of_the_models_that_are_scored(name, broadcasts, every):
    # Three rounds: the first has nothing to tell, and DS-FL's models have digested what the third
    # gave. However often models are scored on the way, that is told once.
    *rounds, end = federated.run(experiment(name, eval_every=every))
    each = {"dsfl": 3 * 20 * 10 * 4, "fedmd": 3 * 20 * 10 * 4, "fd": 3 * 10 * 10 * 4, "local": 0}
    assert [record["bytes_down"] for record in rounds] == [0, each[name], 2 * each[name]]
    assert end["metrics"]["bytes_down"] == broadcasts * each[name]
    assert rounds[-1]["bytes_deployed"] == (each[name] if name == "dsfl" else 0)


def test_a_single_round_of_dsfl_is_not_free():
    *_, end = federated.run(experiment("dsfl", rounds=1))
    assert end["metrics"]["bytes_down"] == end["metrics"]["bytes_up"] == 3 * 20 * 10 * 4


def test_the_same_experiment_gives_the_same_records_and_another_seed_others():
    one, again = list(federated.run(experiment())), list(federated.run(experiment()))
    other = list(federated.run(experiment(seed=1)))
    assert timeless(one) == timeless(again)
    assert one[-1]["metrics"] != other[-1]["metrics"]


def test_rounds_between_evaluations_have_no_scores_and_the_last_always_has():
    sparse = list(federated.run(experiment(eval_every=2)))
    dense = list(federated.run(experiment()))
    assert ["accuracy" in record for record in sparse[:-1]] == [False, True, True]
    assert sparse[-1]["metrics"] == dense[-1]["metrics"]


def test_validation_examples_are_scored_beside_the_test_set_which_stays_as_it_was():
    given = experiment("local", validation=50)
    *_, last, end = federated.run(given)
    federation = federated.prepare(given)
    *_, current = simulate(given.algorithm, federation.task, federation.clients, rounds=3)
    held_out = federation.validation
    x, y = held_out.x[held_out.rows], held_out.y[held_out.rows]
    right = [
        (federation.task.models[c.group].predict(c.params, x).logits.argmax(1) == y).double().mean()
        for c in current.clients
    ]
    assert end["metrics"]["accuracy_validation"] == last["accuracy_validation"]
    assert last["accuracy_validation"] == pytest.approx(float(sum(right) / 3))
    assert len(held_out.rows) == 50
    assert not set(held_out.rows.tolist()) & set(federation.test.rows.tolist())
    assert last["accuracy_validation"] != last["accuracy"]


def test_a_share_of_the_clients_takes_part():
    rounds = list(federated.run(experiment(fraction=0.67)))[:-1]
    assert {len(record["cohort"]) for record in rounds} == {2}


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_partition_can_be_asked_for(name):
    more = dict(partition=name, classes_per_client=4)
    if name == "natural":
        with pytest.raises(ValueError, match="not known where each example is from; take fsdd"):
            federated.prepare(experiment(**more))
    else:
        assert len(federated.prepare(experiment(**more)).clients) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(data="digit"), "unknown data set 'digit'; did you mean 'digits'"),
        (dict(clients=61), "61 clients with at least 1 examples each need 61, and there are 60"),
        (dict(private=2000), "2000 private, 20 public"),
        (dict(public=-1), "public must be >= 0, got -1"),
        (dict(models=("mpl",)), "unknown model 'mpl'; did you mean 'mlp'"),
        (dict(models=()), "models must have at least 1 values"),
        (dict(public=0), "FedMD needs public examples"),
        (dict(absent_classes=10), "10 absent classes: the data set has 10"),
        (dict(partition="pathological"), "3 clients of 2 classes each would leave"),
        (dict(partition="pathological", classes_per_client=11), "take 1 to 10"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(settings, message):
    with pytest.raises(ValueError, match=message):
        federated.prepare(experiment(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        dict(clients=3, private=3),  # one example each
        dict(rotations=4, clients=4),
        dict(rotations=2, partition="pathological", classes_per_client=4),
        dict(absent_classes=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["fedmd", "fd"])
def test_extreme_data_are_no_trouble(name, settings):
    *rounds, end = federated.run(experiment(name, **settings))
    assert not any(record["rejected"] or record["failed"] for record in rounds)
    assert 0 <= end["metrics"]["accuracy"] <= 1
    assert finite([*rounds, end]) == [*rounds, end]


def test_what_shifts_the_data_is_part_of_the_protocol():
    ((*_, end),) = [federated.run(experiment(rotations=2, absent_classes=1))]
    assert end["protocol"] == (
        "3 clients, dirichlet 0.3, 1 class that nobody holds, 2 rotations, 3 rounds"
    )


def test_wrong_labels_are_those_of_private_examples_and_of_none_that_are_scored():
    clean, noisy = (federated.prepare(experiment(label_noise=share)) for share in (0.0, 0.2))
    for before, after in zip(clean.clients, noisy.clients, strict=True):
        assert before.private.rows.tolist() == after.private.rows.tolist()
    private = torch.cat([client.private.rows for client in clean.clients])
    wrong = clean.clients[0].private.y != noisy.clients[0].private.y
    assert int(wrong.sum()) == int(wrong[private].sum()) == 12  # of 60
    assert torch.equal(clean.test.y[clean.test.rows], noisy.test.y[noisy.test.rows])
    assert torch.equal(clean.task.labels, noisy.task.labels)
    assert not torch.equal(clean.label_counts, noisy.label_counts)
    assert identity.digest(experiment()) == identity.digest(experiment(label_noise=0.0))
    assert identity.digest(experiment()) != identity.digest(experiment(label_noise=0.2))
    assert experiment(label_noise=0.2).protocol.endswith("20% wrong labels, 3 rounds")


def test_what_makes_no_experiment_is_refused():
    for settings, message in [
        (dict(clients=0), "clients must be >= 1"),
        (dict(rounds=-2), "rounds must be >= 1"),
        (dict(alpha=0.0), "alpha must be > 0 and finite, got 0"),
        (dict(fraction=1.5), "fraction must be > 0 and <= 1, got 1.5"),
        (dict(label_noise=1.5), "label_noise must be from 0 to 1, got 1.5"),
        (dict(rotations=3), "rotations must be 1, 2 or 4"),
        (dict(absent_classes=-1), "absent_classes must be >= 0, got -1"),
        (dict(classes_per_client=0), "classes_per_client must be >= 1"),
        (dict(corrupt="3:nan"), "client from 0 to 2"),
        (dict(corrupt="1:bad"), "unknown fault 'bad'; choose one of huge-values"),
    ]:
        with pytest.raises(ValueError, match=message):
            experiment(**settings)
    with pytest.raises(ValueError, match="uploads of fedavg are no distributions"):
        federated.prepare(experiment("fedavg", corrupt="1:simplex"))


def test_diverged_clients_give_null_not_nan():
    wild = dataclasses.replace(algorithms.get("local")().local, learning_rate=1e30, epochs=3)
    diverged = FedExperiment(algorithms.get("local")(local=wild), **SMALL)
    *rounds, end = federated.run(diverged)
    assert finite([*rounds, end]) == [*rounds, end]
