"""The tables of ways to a consensus: what is paired with what, and who is left out."""

from pathlib import Path

import pytest

from benchmarks import consensus
from benchmarks.consensus import Setting, above, against_known, known, read, table
from fedkd.algorithms import REGISTRY
from kdcore.training.loop import TrainingConfig
from simulations.config.experiments import FedExperiment
from simulations.results.run_folder import Run
from simulations.runners import federated

HONEST = Setting("dsfl", "digits", "10", "0.3", "none")
LYING = HONEST._replace(liars="0.2:noise")
# Gaps of 1, 2 and 3 points: mean 2, deviation 1, t with two degrees of freedom 4.303, so the
# interval is 2 +- 4.303 / sqrt(3) = 2.48.
MEAN, MORE = {0: 0.5, 1: 0.6, 2: 0.7}, {2: 0.73, 0: 0.51, 1: 0.62}


def test_differences_are_paired_by_seed():
    assert above(MORE, MEAN) == "+2.0 (-0.5 to +4.5) 3/3"
    assert above(MORE, {1: 0.65, 0: 0.5}).endswith(" 1/2")


def test_a_row_is_the_mean_and_what_is_above_it():
    runs = {LYING: {"variance": MORE, "sa": MEAN}, HONEST: {"sa": MEAN, "era": MEAN}}
    head, _, honest, lying = table(runs, levels=False)
    assert head == "| liars | sa | era | variance |"  # all else is the same
    assert honest == "| none | 60.0 ± 10.0 | +0.0 (+0.0 to +0.0) 0/3 | – |"
    assert lying == "| 0.2:noise | 60.0 ± 10.0 | – | +2.0 (-0.5 to +4.5) 3/3 |"
    *_, lying = table(runs, levels=True)
    assert lying.endswith("| 60.0 ± 10.0 | – | 62.0 ± 11.0 |")


def test_one_seed_has_no_interval_and_without_a_mean_there_is_no_difference():
    head, _, lone, only = table(
        {HONEST: {"sa": {0: 0.5}, "era": {0: 0.625}}, LYING: {"era": MEAN}}, levels=False
    )
    assert head == "| liars | sa | era |"
    assert lone == "| none | 50.0 | +12.5 1/1 |"
    assert only == "| 0.2:noise | – | – |"


def test_runs_that_differ_in_what_no_table_shows_are_not_mixed():
    flat = {"algorithm": "dsfl", "data": "digits", "clients": 10, "alpha": 0.3, "seed": 1}
    short, long, again = (
        Run(Path(name), flat | {"rounds": rounds}, "", [{"record": "run", "metrics": metrics}])
        for name, rounds, metrics in (
            ("short", 1, {"accuracy": 0.4}),
            ("long", 10, {"accuracy": 0.5}),
            ("again", 10, {"accuracy": 0.5}),
        )
    )
    assert read([long, again]) == {HONEST: {"sa": {1: 0.5}}}
    with pytest.raises(ValueError, match="^long: another run of sa with seed 1"):
        read([short, long])
    with pytest.raises(ValueError, match="no finished run"):
        read([])


def test_the_best_rule_of_each_lie_is_held_against_those_who_remain():
    runs = {LYING: {"sa": MEAN, "filter": MORE}, HONEST: {"sa": MORE}}
    left = {LYING._replace(liars="0.2"): {"sa": MEAN, "variance": {k: 0.4 for k in MEAN}}}
    head, row = against_known(runs, left)
    assert "`sa` 60.0 ± 10.0, `variance` 40.0 ± 0.0" in head
    assert row == "| 0.2:noise | `filter` | 62.0 ± 11.0 | +2.0 (-0.5 to +4.5) 3/3 |"


def experiment(liars, aggregation="sa"):
    training = TrainingConfig(learning_rate=0.1, epochs=1, batch_size=16)
    learner = REGISTRY.get("dsfl")(local=training, distill=training, aggregation=aggregation)
    return FedExperiment(
        learner,
        clients=5,
        models=("mlp-8",),
        partition="iid",
        private=100,
        public=60,
        test=100,
        rounds=2,
        engine="batched",
        liars=liars,
    )


def test_who_lies_takes_part_in_no_round():
    lying = experiment("0.4:confident")
    who, _ = lying.lie
    *rounds, _ = federated.run(consensus.WithoutLiars(**vars(lying)))
    for record in rounds:
        assert record["cohort"] == [k for k in range(5) if k not in who]


def test_runs_are_read_and_those_who_remain_are_trained_once(tmp_path, monkeypatch):
    flat = {"kind": "fed", "algorithm": "dsfl", "aggregation": "sa", "data": "digits"}
    flat |= {"clients": 10, "alpha": 0.3, "seed": 1}
    end = {"record": "run", "metrics": {"accuracy": 0.5}}
    lies = [flat | {"liars": f"0.2:{lie}"} for lie in ("noise", "confident")]
    found = [Run(Path("a"), one, "", [end]) for one in (flat, *lies)]
    found.append(Run(Path("b"), flat | {"seed": 2}, "", []))  # has not ended
    assert read(found)[HONEST] == {"sa": {1: 0.5}}
    untold = {key: value for key, value in flat.items() if key != "aggregation"}
    assert read([Run(Path("c"), untold, "", [end])]) == {HONEST: {"sa": {1: 0.5}}}
    trained = []
    monkeypatch.setattr(consensus, "_without_liars", lambda run, root: trained.append(run) or 0.6)
    left = known(found, None)
    assert left == {LYING._replace(liars="0.2"): {"sa": {1: 0.6}}}
    assert trained == [found[1]]


@pytest.mark.parametrize("lie", ["noise", "confident"])
def test_what_would_have_been_said_does_not_matter(lie, tmp_path):
    flat = {"algorithm": "dsfl", "seed": 0, "clients": 5, "private": 100, "public": 60}
    flat |= {"rounds": 1, "models": ["mlp-8"], "liars": f"0.4:{lie}", "engine": "batched"}
    run = Run(tmp_path, flat, "", [])
    other = Run(tmp_path, flat | {"liars": "0.4:class-prior"}, "", [])
    assert consensus._without_liars(run, None) == consensus._without_liars(other, None)
