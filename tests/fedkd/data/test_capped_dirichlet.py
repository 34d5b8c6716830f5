"""Dirichlet partitions of public code, against loops that follow that code step by step."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data import capped_dirichlet
from fedkd.data.capped_dirichlet import dirichlet_balanced, dirichlet_min
from fedkd.data.partition import partition
from kdcore.rng import generator

PARTITIONS = {"dirichlet-min": dirichlet_min, "dirichlet-balanced": dirichlet_balanced}


def labels(count=600, classes=6):
    return torch.arange(count) % classes


def recorded(monkeypatch):
    """All shares that are drawn, in order, as proportions."""
    seen, draw = [], capped_dirichlet.log_shares

    def record(*settings):
        found = draw(*settings)
        seen.append(found.softmax(dim=0).numpy())
        return found

    monkeypatch.setattr(capped_dirichlet, "log_shares", record)
    return seen


def their_loop(counts, clients, drawn, least):
    """How many of each label each client gets, and how many draws it took.

    As in the loop that HtFLlib and FedDF have in common: shares of clients with N / K are 0.
    """
    total, smallest, tries = sum(counts), -1, 0
    while smallest < least:
        tries += 1
        table = np.zeros((len(counts), clients), int)
        for label, count in enumerate(counts):
            share = next(drawn)
            share = np.array(
                [p * (n < total / clients) for p, n in zip(share, table.sum(0), strict=True)]
            )
            share = share / share.sum()
            cuts = (np.cumsum(share) * count + 1e-9).astype(int)[:-1]  # but for rounding
            table[label] = np.diff([0, *cuts, count])
        smallest = table.sum(0).min()
    return table, tries


def table_of(parts, y):
    return np.stack([np.bincount(y[part], minlength=int(y.max()) + 1) for part in parts], axis=1)


@pytest.mark.parametrize(("clients", "alpha"), [(4, 0.1), (6, 0.3), (10, 0.5), (10, 10.0)])
@pytest.mark.parametrize("seed", range(3))
def test_least_sizes_are_drawn_as_in_htfllib(clients, alpha, seed, monkeypatch):
    y, drawn = labels(), recorded(monkeypatch)
    parts = dirichlet_min(y, clients, generator(seed, "parts"), alpha)
    least = int(min(10 / (1 - 0.75), len(y) / clients / 2))
    expected, tries = their_loop([100] * 6, clients, iter(drawn), least)
    assert table_of(parts, y.numpy()).tolist() == expected.tolist()
    assert len(drawn) == 6 * tries


@pytest.mark.parametrize("clients", [3, 10, 14, 30])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_blocks_are_drawn_as_in_feddf(clients, seed, monkeypatch):
    y, drawn = labels(), recorded(monkeypatch)
    expected = []
    parts = dirichlet_balanced(y, clients, generator(seed, "parts"), alpha=0.5)
    order = torch.randperm(len(y), generator=generator(seed, "parts")).numpy()
    stream, start = iter(drawn), 0
    blocks = math.ceil(clients / 10)
    for block in range(blocks):
        many = min(10, clients - 10 * block)
        last = len(y) if block == blocks - 1 else start + int(10 / clients * len(y))
        counts = np.bincount(y.numpy()[order[start:last]], minlength=6).tolist()
        table, _ = their_loop(counts, many, stream, int(0.5 * (last - start) / many))
        expected += table.T.tolist()
        start = last
    assert next(stream, None) is None
    joined = torch.cat(list(parts))
    sizes = [sum(row) for row in expected]  # before all is cut again into equal parts
    found = [np.bincount(y[rows], minlength=6).tolist() for rows in joined.split(sizes)]
    assert found == expected
    assert sorted(map(len, parts), reverse=True) == [
        len(one) for one in joined.tensor_split(clients)
    ]


@given(
    st.sampled_from(sorted(PARTITIONS)),
    st.integers(1, 12),
    st.sampled_from([0.3, 1.0, 100.0]),
    st.integers(0, 20),
)
def test_every_row_is_dealt_once_and_nobody_is_poor(name, clients, alpha, seed):
    y = labels(240)
    parts = partition(name, y, clients, generator(seed, "parts"), alpha, 2)
    assert sorted(torch.cat(parts).tolist()) == list(range(240))
    sizes = [len(part) for part in parts]
    if name == "dirichlet-min":
        assert min(sizes) >= min(40, 240 // (2 * clients))
    else:
        assert max(sizes) - min(sizes) <= 1
    again = partition(name, y, clients, generator(seed, "parts"), alpha, 2)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_a_small_alpha_is_more_skewed_than_a_large_one(name):
    def most(alpha):  # the share of the most frequent label, mean over clients
        parts = PARTITIONS[name](labels(), 6, generator(0, "parts"), alpha)
        table = table_of(parts, labels().numpy())
        return (table.max(axis=0) / table.sum(axis=0)).mean()

    assert most(0.1) > 0.4
    assert most(1000.0) < 0.25  # 1 / 6 in all


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_what_cannot_be_drawn_is_refused(name):
    deal = PARTITIONS[name]
    with pytest.raises(ValueError, match="alpha must be positive"):
        deal(labels(), 3, generator(0, "parts"), 0.0)
    with pytest.raises(ValueError, match="5 clients with at least 1 examples each need 5"):
        deal(labels(3, 2), 5, generator(0, "parts"), 1.0)
    with pytest.raises(ValueError, match="in 1000 draws with alpha 1e-05 no one gave each of 9"):
        deal(labels(90, 2), 9, generator(0, "parts"), 1e-5)
