"""The rows of the tables of all algorithms, of numbers that are known."""

import pytest

from benchmarks.zoo import rewritten, row, scores, table
from simulations.results.run_results import Result


def run(accuracy, up=0, **more):
    own = {"accuracy_median": accuracy, "accuracy_min": accuracy - 0.2}
    bytes_sent = {"bytes_up": up, "bytes_down": 2 * up}
    return {"accuracy": accuracy, "accuracy_local": accuracy + 0.1, **own, **bytes_sent, **more}


LOCAL = dict(enumerate((run(0.5), run(0.6), run(0.7))))
# Gaps of 1, 2 and 3 points: mean 2, deviation 1, t with two degrees of freedom 4.303, so the
# interval is 2 +- 4.303 / sqrt(3) = 2.48.
FEDMD = {
    seed: run(0.5 + 0.1 * seed + gap, 1500, accuracy_consensus=0.25 + gap)
    for seed, gap in enumerate((0.01, 0.02, 0.03))
}
RUNS = {("0.3", "local"): LOCAL, ("0.3", "fedmd"): FEDMD, ("1", "local"): LOCAL}


def test_a_row_has_differences_to_local_that_are_paired_by_seed():
    gap = "+2.0 (-0.5 to +4.5)"
    assert row(RUNS, "0.3", "fedmd") == (
        f"| `fedmd` | 3 | 62.0 +- 11.0 | {gap} | 62.0 | 42.0 | 72.0 +- 11.0 | {gap} | 27.0 | "
        "1.5 kB | 3.0 kB |"
    )
    assert row(RUNS, "0.3", "local") == (
        "| `local` | 3 | 60.0 +- 10.0 |  | 60.0 | 40.0 | 70.0 +- 10.0 |  |  | 0 B | 0 B |"
    )


def test_what_excludes_0_is_bold():
    runs = RUNS | {("0.3", "fedmd"): {seed: run(0.52 + 0.1 * seed) for seed in range(3)}}
    assert row(runs, "0.3", "fedmd").count("**+2.0 (+2.0 to +2.0)**") == 2


def test_the_page_keeps_what_is_around_its_tables():
    marks = "a\n<!-- zoo: 0.3 -->\nold\n<!-- end -->\nb\n<!-- zoo: 1 -->\n<!-- end -->\nc\n"
    found = rewritten(marks, RUNS)
    first, second = ("\n".join(table(RUNS, alpha)) for alpha in ("0.3", "1"))
    assert found == (
        f"a\n<!-- zoo: 0.3 -->\n{first}\n<!-- end -->\nb\n<!-- zoo: 1 -->\n{second}\n"
        "<!-- end -->\nc\n"
    )
    assert rewritten(found, RUNS) == found


def result(seed, rate, alpha, value):
    settings = {"alpha": alpha, "local.learning_rate": rate, "rounds": "20"}
    metrics = {} if value is None else {"accuracy_validation": value}
    return Result("fed", "digits", "p", "fd", seed, metrics, [], settings, "fd")


def test_settings_are_ranked_by_their_mean_over_seeds_and_dirichlet_parameters():
    found = scores(
        [result(100, "0.1", "0.3", 0.5), result(100, "0.1", "1.0", 0.7)]
        + [result(100, "0.2", "0.3", None), result(100, "0.2", "1.0", 0.9)]  # diverged once
    )
    assert list(found["fd"].items()) == [
        ("local.learning_rate = 0.1", pytest.approx(0.6)),
        ("local.learning_rate = 0.2", pytest.approx(0.45)),
    ]
