"""What a report says in words, from numbers that are worked out by hand."""

import pytest

from simulations.reporting.outcomes import claimed, compared, of_section
from simulations.results.run_results import Result
from simulations.results.tables import summary, table
from simulations.survey.claims import findings


def fed(method, seed, accuracy, diverged=""):
    metrics = {"accuracy": accuracy}
    about = "fed", "digits", "2 clients", method, seed, metrics, (), {}, method
    return Result(*about, diverged=diverged)


def told(**accuracies):
    """The words about methods with these accuracies, seed by seed."""
    group = [
        fed(method, seed, value)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return of_section(table(group), group)


def test_a_gain_beyond_doubt_has_its_interval():
    # Differences 10, 12, 8, 10, 10: mean 10, deviation 1.414; 2.7764 x 1.414 / sqrt(5) = 1.76.
    alone = [0.70, 0.72, 0.74, 0.5, 0.6]
    assert told(local=alone, dsfl=[0.80, 0.84, 0.82, 0.6, 0.7]) == (
        "dsfl is 10.0 points above local over 5 seeds (95% interval +8.2 to +11.8)."
    )
    assert told(local=alone, dsfl=[0.60, 0.60, 0.66, 0.4, 0.5]) == (
        "dsfl is 10.0 points below local over 5 seeds (95% interval −11.8 to −8.2)."
    )


def test_an_interval_with_0_leaves_it_open():
    # Differences 3, -1, 2, 0, 1: mean 1, deviation 1.58; 2.7764 x 1.58 / sqrt(5) = 1.96.
    assert told(local=[0.5] * 5, fd=[0.53, 0.49, 0.52, 0.50, 0.51]) == (
        "Whether fd differs from local is open: +1.0 points over 5 seeds, and the 95% interval, "
        "−1.0 to +3.0, includes no difference."
    )


def test_few_seeds_are_shown_themselves():
    assert told(local=[0.5, 0.6], fd=[0.54, 0.58]) == (
        "fd against local: +4.0 and −2.0 points, too few seeds for an interval."
    )
    assert told(local=[0.5], fd=[0.51]) == (
        "fd is 1.0 point above local with one seed, which says nothing about chance."
    )
    assert told(local=[0.5, 0.6, 0.7], fd=[0.6, 0.71, 0.8]).endswith(
        "With so few seeds, an interval leans on differences being normally distributed."
    )


def test_only_seeds_that_both_have_are_paired():
    found = told(local=[0.5, 0.6, 0.7, 0.8, 0.5], dsfl=[0.6, 0.7])
    assert found == "dsfl against local: +10.0 and +10.0 points, too few seeds for an interval."


def test_the_same_numbers_are_called_equal():
    assert told(local=[0.5] * 5, fd=[0.5] * 5) == "fd equals local over 5 seeds."


def test_many_methods_are_three_lists():
    up = {f"up{i}": [0.6 + i / 100, 0.61 + i / 100, 0.6 + i / 100] for i in range(3)}
    found = told(local=[0.5] * 3, open=[0.4, 0.6, 0.52], down=[0.4, 0.41, 0.4], **up)
    assert found.startswith("Against local: 5 comparisons in points, paired by seed, 3 seeds each.")
    # 10, 11, 10: mean 10.33, deviation 0.577; 4.3027 x 0.577 / sqrt(3) = 1.43.
    assert "exclude no difference (3): up2 +12.3 (+10.9 to +13.8); up1 +11.3" in found
    assert "includes no difference (1): open +0.7 (" in found
    assert "Below it, with intervals that exclude no difference (1): down −9.7 (" in found


def test_without_a_reference_there_is_no_gain():
    assert told(fd=[0.5, 0.7], dsfl=[0.8, 0.9]) == (
        "Accuracy, global test set: dsfl has 85.0 % over 2 seeds, the highest mean. Next is fd "
        "with 60.0 % over 2 seeds. No run trains alone in the same federation, so there is "
        "no gain to state."
    )


def test_of_the_worst_client_there_is_one_column():
    metrics = {
        "rmse": 2.0,
        "rmse_median": 1.5,
        "rmse_most": 3.0,
        "rmse_max": 3.0,
        "rounds_to_90": 1,
    }
    found = table([Result("fed", "houses", "2 clients", "fd", 0, metrics, (), {}, "fd")])
    assert [column.metric for column in found.columns if column.metric.startswith("rmse_m")] == [
        "rmse_median",
        "rmse_most",
    ]
    assert not any("accuracy" in note for note in found.notes)


def test_who_trains_alone_is_not_overlooked_where_all_others_have_no_number():
    lost = fed("fedmd", 0, 0.0, "predictions are no finite numbers")._replace(metrics={})
    group = [fed("local", 0, 0.5), lost]
    found = of_section(table(group), group)
    assert found.startswith("Accuracy, global test set: local has 50.0 % with one seed. fedmd div")
    assert "No run trains alone" not in found


def test_who_has_no_teacher_is_not_compared_with_itself():
    group = [
        Result("graph", "cora", "inductive", m, seed, metrics, (), {}, m)
        for seed in range(5)
        for m, metrics in (
            ("mlp", {"accuracy": 0.5, "accuracy_baseline": 0.5}),
            ("glnn", {"accuracy": 0.6, "accuracy_baseline": 0.5, "accuracy_teacher": 0.6}),
        )
    ]
    found = of_section(table(group), group)
    assert "mlp" not in found
    assert found.startswith("glnn is 10.0 points above the same student without a teacher over 5")


def test_a_divergence_is_told():
    group = [fed("local", s, 0.5) for s in range(2)]
    group += [fed("fedavg", 0, 0.6), fed("fedavg", 1, 0.0, "too fast")]
    assert of_section(table(group), group).endswith(
        "fedavg diverged in 1 of 2 runs (seed 1): all means here count what those have recorded."
    )


def runs(**metrics):
    rows = zip(*metrics.values(), strict=True)
    return {seed: dict(zip(metrics, row, strict=True)) for seed, row in enumerate(rows)}


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        # Ratios 0.9, 0.8, 1.0: mean 0.9, deviation 0.1; 4.3027 x 0.1 / sqrt(3) = 0.248.
        (
            "rmse / rmse_baseline <= 0.92",
            "rmse is 0.9 times rmse baseline over 3 seeds (95% interval 0.652 to 1.15), in the "
            "claimed direction in 2 of 3; the claim (rmse / rmse_baseline <= 0.92) holds.",
        ),
        (
            "rmse - rmse_baseline < 0",
            "rmse minus rmse baseline is −0.1 over 3 seeds (95% interval −0.348 to +0.148), in the "
            "claimed direction in 2 of 3; the claim (rmse - rmse_baseline < 0) does not hold.",
        ),
        ("lost > 1", "lost was not measured, so the claim (lost > 1) is open."),
    ],
)
def test_a_claim_in_words(claim, words):
    (found,) = findings([claim], runs(rmse=[0.9, 0.8, 1.0], rmse_baseline=[1.0, 1.0, 1.0]))
    assert claimed(found) == words


def test_names_keep_their_hyphens():
    assert compared("a-b", summary([0.01, -0.03]), "local").startswith("a-b against local: +1.0")
