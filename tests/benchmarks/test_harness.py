"""Ratios are of pairs, and calls take turns."""

import pytest

from benchmarks.harness import Ratio, Spent, comparison, interleaved


def test_ratios_are_of_pairs_measured_one_after_the_other():
    slow = [Spent(2, 4), Spent(3, 9), Spent(8, 8)]
    fast = [Spent(1, 2), Spent(2, 3), Spent(2, 4)]
    found = comparison(slow, fast)
    assert found.cpu == Ratio(2, 1.5, 4, 3, 2)
    assert found.clock == Ratio(2, 2, 3, 8, 3)
    assert str(found).startswith("  2.00x [1.50 to 4.00]")
    assert "2.00x [2.00 to 3.00] by clock" in str(found)


def test_pairs_of_unlike_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        comparison([Spent(1, 1)] * 2, [Spent(1, 1)])


def test_calls_take_turns_and_the_first_do_not_count():
    order = []
    times = interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, uncounted=2
    )
    assert order == ["a", "b"] * 5
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}
