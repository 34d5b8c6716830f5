"""The tables of one-shot methods, of numbers that are known; and that a number is that of a run."""

import json

import pytest

from benchmarks import one_shot
from benchmarks.one_shot import TRIED, WAYS, Way, best, read, rewritten, run, table
from fedkd.algorithms.dense import DENSE
from kdcore.training.loop import TrainingConfig
from simulations.config.experiments import FedExperiment
from simulations.runners import federated

TWO = {"a": DENSE(), "b": DENSE(statistics=0.0)}
SOME = {
    "local": Way("`local`", {"": DENSE()}),
    "noise": Way("noise", TWO),
    "dense": Way("`dense`", TWO, "noise"),
    "group local": Way("`local`", {"": DENSE()}, network="cnn"),
}
# b is better by the seeds of settings, a by those that are reported.
ACCURACY = {
    ("local", ""): {0: 0.5, 1: 0.6, 2: 0.7},
    ("group local", ""): {0: 0.1, 1: 0.1, 2: 0.1},
    ("noise", "a"): {100: 0.8, 101: 0.5, 0: 0.9, 1: 0.9, 2: 0.9},
    ("noise", "b"): {100: 0.7, 101: 0.7, 0: 0.4, 1: 0.5, 2: 0.6},
    ("dense", "a"): {100: 0.5, 101: 0.5, 0: 0.9, 1: 0.9, 2: 0.9},
    ("dense", "b"): {100: 0.4, 101: 0.7, 0: 0.51, 1: 0.62, 2: 0.73},
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file of numbers that are known, of ways that are few."""
    monkeypatch.setattr(one_shot, "WAYS", SOME)
    monkeypatch.setattr(one_shot, "REPORTED", (0, 1, 2))
    lines = [
        json.dumps({"way": way, "setting": setting, "seed": seed, "accuracy": value})
        for (way, setting), found in ACCURACY.items()
        for seed, value in found.items()
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "runs.jsonl"


# Gaps to local of 1, 2 and 3 points: mean 2, deviation 1, and the interval 4.303 / sqrt(3) = 2.48.
EXPECTED = [
    "|  | setting | seed 0 | seed 1 | seed 2 | mean | minus `local` | minus control |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    "| `local` |  | 50.0 | 60.0 | 70.0 | 60.0 |  |  |",
    "| noise | b | 40.0 | 50.0 | 60.0 | 50.0 | **-10.0 (-10.0 to -10.0)** |  |",
    "| `dense` | b | 51.0 | 62.0 | 73.0 | 62.0 | +2.0 (-0.5 to +4.5) | **+12.0 (+9.5 to +14.5)** |",
]


def test_a_row_has_every_seed_and_differences_that_are_paired(path):
    assert table(read(path), ["local", "noise", "dense"]) == EXPECTED


def test_a_setting_is_chosen_by_the_seeds_that_no_result_is_of(path):
    assert best(read(path), "noise") == best(read(path), "dense") == "b"
    with pytest.raises(SystemExit, match="noise: setting 'a' lacks a seed; run --settings first"):
        best({}, "noise")


def test_the_page_keeps_what_is_around_its_tables(path):
    marks = "".join(f"{n}\n<!-- one-shot: {n} -->\nold\n<!-- end -->\n" for n in one_shot.NETWORKS)
    found = rewritten(marks, read(path))
    assert "\n".join(EXPECTED) in found
    assert "old" not in found
    assert rewritten(found, read(path)) == found


@pytest.mark.parametrize("lost", [("local", ""), ("group local", ""), ("noise", "b")])
def test_no_table_is_made_of_a_part_of_the_seeds(path, lost):
    marks = "".join(f"<!-- one-shot: {n} -->\n<!-- end -->\n" for n in one_shot.NETWORKS)
    done = read(path)
    del done[lost][1]
    with pytest.raises(SystemExit, match=rf"{lost[0]}: no result of seeds \[1\]; run --results"):
        rewritten(marks, done)
    if lost[1] == "":  # what all others are held against
        del done[lost]
        with pytest.raises(SystemExit, match=rf"{lost[0]}: no result of seeds \[0, 1, 2\]"):
            rewritten(marks, done)


def test_what_is_there_is_not_run_again(path, monkeypatch):
    asked = []

    def score(algorithm, network, seed):
        asked.append((algorithm, seed))
        return 0.25

    known = SOME | {"dense": Way("`dense`", TWO, "noise", score=score)}
    monkeypatch.setattr(one_shot, "WAYS", known)
    run(path, ["dense"], TRIED, chosen=False)
    assert asked == []
    run(path, ["dense"], (2, 3), chosen=True)
    assert asked == [(TWO["b"], 3)]
    assert read(path)["dense", "b"][3]["accuracy"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boosted noise", "mean"])
def test_a_number_is_that_of_a_run(name):
    """Clients that are trained once, or by the loop over rounds, are those of the runner."""
    algorithm = next(iter(WAYS[name].settings.values()))
    few = TrainingConfig("momentum", 0.05, epochs=2, batch_size=32)
    algorithm = type(algorithm)(**(vars(algorithm) | {"distill": few}))
    network = (WAYS[name].network,)
    where = dict(data="digits", clients=5, alpha=0.3, private=500, public=578, rounds=1)
    *_, end = federated.run(FedExperiment(algorithm, models=network, seed=3, **where))
    assert one_shot.in_use(algorithm, network[0], 3) == pytest.approx(end["metrics"]["accuracy"])
