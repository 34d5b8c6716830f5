"""Who takes part: how many, how often, and always by the generator alone."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.rounds.client_sampling import available, everyone, uniform, weighted

NUMBERS = [3, 5, 8, 13, 21]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def frequencies(sample, clients, draws=4000):
    generator, count = stream(), Counter()
    for _ in range(draws):
        count.update(sample(clients, generator))
    return [count[client] / draws for client in clients]


def test_everyone_is_everyone():
    assert everyone(NUMBERS, stream()) == NUMBERS


@given(st.integers(1, 60), st.floats(0.001, 1.0), st.integers(0, 99))
def test_a_uniform_share_is_drawn_without_replacement_and_never_empty(count, fraction, seed):
    clients = list(range(100, 100 + count))
    for sample in (uniform(fraction), weighted(range(1, count + 1), fraction)):
        cohort = sample(clients, stream(seed))
        assert len(cohort) == max(1, round(fraction * count))
        assert cohort == sorted(set(cohort))
        assert set(cohort) <= set(clients)
        assert sample(clients, stream(seed)) == cohort


def test_a_uniform_share_favours_nobody():
    # Standard deviation of a frequency: sqrt(0.4 * 0.6 / 4000) = 0.008.
    assert frequencies(uniform(0.4), NUMBERS) == pytest.approx([0.4] * 5, abs=0.035)


def test_each_client_is_there_with_its_probability_on_its_own():
    sample = available(0.3)
    assert frequencies(sample, NUMBERS) == pytest.approx([0.3] * 5, abs=0.035)
    generator = stream()
    sizes = Counter(len(sample(NUMBERS, generator)) for _ in range(4000))
    assert sizes[0] / 4000 == pytest.approx(0.7**5, abs=0.03)  # and sometimes nobody is
    assert sizes[5] / 4000 == pytest.approx(0.3**5, abs=0.01)
    assert available(1.0)(NUMBERS, stream()) == NUMBERS


def test_large_clients_are_drawn_more_often():
    # One of three, with chances 1, 2 and 5 in eight.
    share = frequencies(weighted([1, 2, 5], 1 / 3), [7, 8, 9])
    assert share == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.035)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.0001, float("nan")])
def test_shares_that_cannot_be_are_an_error(share):
    for make in (uniform, available, lambda f: weighted([1.0], f)):
        with pytest.raises(ValueError, match=r"must be in \(0, 1\], got"):
            make(share)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_sizes_that_cannot_be_are_an_error(size):
    with pytest.raises(ValueError, match="finite size > 0"):
        weighted([1.0, size], 0.5)


def test_a_size_for_each_client_is_needed():
    with pytest.raises(ValueError, match="2 sizes were given for 5 clients"):
        weighted([1.0, 2.0], 0.5)(NUMBERS, stream())
