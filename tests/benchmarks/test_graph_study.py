"""The rows of the study of graph clients, of numbers that are known."""

from benchmarks.graph_study import ALL, OWN, Cell, table

CELL = Cell("10", '["gcn-16"]', "0.2")


def runs(**methods):
    return {
        (CELL, "louvain", f"`{name}`"): {
            seed: {"accuracy": value, "accuracy_local": value - 0.1}
            for seed, value in enumerate(values)
        }
        for name, values in methods.items()
    }


def test_others_stand_by_how_far_they_are_from_local_paired_by_seed():
    # Gaps of 1, 2 and 3 points: mean 2, deviation 1, and t with two degrees of freedom is 4.303, so
    # the interval is 2 +- 4.303 / sqrt(3) = 2.48. Gaps of 2 points each time exclude 0.
    found = table(
        runs(local=(0.5, 0.6, 0.7), fedmd=(0.51, 0.62, 0.73), dsfl=(0.52, 0.62, 0.72)),
        CELL,
        (OWN, ALL),
    )
    assert found == [
        "| | louvain, own | louvain, everybody's |",
        "| --- | --- | --- |",
        "| `local` | 50.0 ± 10.0 | 60.0 ± 10.0 |",
        "| `fedmd` | +2.0 (-0.5 to +4.5) | +2.0 (-0.5 to +4.5) |",
        "| `dsfl` | **+2.0 (+2.0 to +2.0)** | **+2.0 (+2.0 to +2.0)** |",
    ]


def test_what_was_not_run_has_no_number():
    found = table(runs(local=(0.5, 0.6)) | {(CELL, "greedy", "`local`"): {}}, CELL, (OWN, ALL))
    assert (
        found[0] == "| | louvain, own | louvain, everybody's | greedy, own | greedy, everybody's |"
    )
    assert found[2].endswith("| – | – |")
