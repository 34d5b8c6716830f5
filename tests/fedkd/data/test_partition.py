"""Every row exactly once, whatever the partition; and what each partition is for."""

import itertools

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from fedkd.data import partition as module
from fedkd.data.datasets import Dataset
from fedkd.data.partition import (
    PARTITIONS,
    bands,
    chosen,
    dirichlet,
    iid,
    in_bands,
    natural,
    partition,
    pathological,
    quantity,
    shards,
)
from fedkd.targets import REAL, SEQUENCE


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def balanced(count, classes=10):
    return torch.arange(count) % classes


def deal(name, labels, clients, generator, alpha=0.5):
    """By the partition of a name; natural domains are the labels."""
    return partition(name, labels, clients, generator, alpha, 2, 2, labels)


def counts(labels, parts, classes=10):
    return torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts])


def assert_each_once(parts, count):
    assert sorted(torch.cat(parts).tolist()) == list(range(count))


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(PARTITIONS)),
    count=st.integers(1, 200),
    classes=st.integers(1, 12),
    clients=st.integers(1, 30),
    alpha=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**31),
)
def test_every_row_is_dealt_out_exactly_once(name, count, classes, clients, alpha, seed):
    shard = 2
    assume(count >= clients * shard)
    labels = torch.randint(classes, (count,), generator=stream(seed))
    more = (len(labels.unique()), labels)
    if name in ("pathological", "natural"):  # each client is to have some of each label
        assume(int(torch.bincount(labels)[labels.unique()].min()) >= clients)
    try:
        parts = partition(name, labels, clients, stream(seed), alpha, shard, *more)
    except ValueError as refused:  # what is drawn again until no part is small may never be so
        if name.startswith("dirichlet-") and "draws with alpha" in str(refused):
            reject()
        raise
    assert len(parts) == clients
    assert_each_once(parts, count)
    assert min(len(part) for part in parts) >= 1
    again = partition(name, labels, clients, stream(seed), alpha, shard, *more)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_seeds_differ(name):
    one, other = (deal(name, balanced(200), 5, stream(s)) for s in (0, 1))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99))
def test_iid_parts_differ_by_one_at_most(count, clients, seed):
    assume(count >= clients)
    sizes = [len(part) for part in iid(balanced(count), clients, stream(seed))]
    assert max(sizes) - min(sizes) <= 1


def test_iid_labels_are_mixed():
    parts = iid(balanced(10_000), 5, stream())
    shares = counts(balanced(10_000), parts) / 2000
    assert (shares - 0.1).abs().max() < 0.03  # standard deviation sqrt(0.09 / 2000) = 0.0067


# Dirichlet


def test_a_large_alpha_is_all_in_equal_parts():
    parts = dirichlet(balanced(10_000), 5, stream(), alpha=1e4)
    assert (counts(balanced(10_000), parts) / 200 - 1).abs().max() < 0.1


def test_a_tiny_alpha_gives_each_label_one_owner():
    for seed in range(5):
        parts = dirichlet(balanced(1000), 5, stream(seed), alpha=1e-3, minimum=0, attempts=1)
        table = counts(balanced(1000), parts)
        assert (table.max(dim=0).values == 100).sum() >= 9  # nearly all of the ten labels


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 10.0])
def test_shares_have_the_moments_of_the_distribution(alpha):
    # For K clients a share has mean 1/K and variance (1/K)(1 - 1/K) / (K alpha + 1).
    clients, draws = 4, 3000
    labels, generator = torch.zeros(1000, dtype=torch.long), stream(1)
    shares = torch.stack(
        [
            counts(labels, dirichlet(labels, clients, generator, alpha, 0, 1), 1).flatten() / 1000
            for _ in range(draws)
        ]
    )
    variance = 0.25 * 0.75 / (4 * alpha + 1)
    noise = 5 * (variance / draws) ** 0.5
    torch.testing.assert_close(shares.mean(dim=0), torch.full((4,), 0.25), rtol=0, atol=noise)
    torch.testing.assert_close(shares.var(dim=0), torch.full((4,), variance), rtol=0.2, atol=1e-6)


def test_alphas_beyond_all_reason_are_still_safe():
    for alpha in (1e-300, 1e-100, 1e300):
        parts = dirichlet(balanced(100), 4, stream(), alpha=alpha)
        assert_each_once(parts, 100)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(0, 6), st.floats(1e-3, 10), st.integers(0, 99))
def test_nobody_gets_less_than_the_minimum(clients, minimum, alpha, seed):
    labels = balanced(120)
    for parts in (
        dirichlet(labels, clients, stream(seed), alpha, minimum, attempts=2),
        quantity(labels, clients, stream(seed), alpha, minimum),
    ):
        assert min(len(part) for part in parts) >= minimum
        assert_each_once(parts, 120)


@pytest.fixture
def draws(monkeypatch):
    """The draws that were made, one entry for each."""
    made, draw = [], module._draw

    def noted(*given):
        made.append(given)
        return draw(*given)

    monkeypatch.setattr(module, "_draw", noted)
    return made


def test_the_draw_of_200_clients_that_others_never_finish_ends(draws):
    # HtFLlib repeats the draw until it fits: with 200 clients and alpha 0.1, for ever
    # (https://github.com/TsingZ0/HtFLlib/issues/14).
    parts = dirichlet(balanced(2000), 200, stream(), alpha=0.1, minimum=10)
    assert len(draws) == 1
    assert_each_once(parts, 2000)
    assert min(len(part) for part in parts) == 10


@pytest.mark.parametrize(("count", "clients"), [(50_000, 5000), (5000, 5000), (2000, 300)])
def test_a_draw_that_leaves_many_short_is_not_repeated(draws, count, clients):
    parts = dirichlet(balanced(count), clients, stream(), alpha=0.1)
    assert len(draws) == 1
    assert_each_once(parts, count)
    assert min(len(part) for part in parts) == 1


def test_a_draw_that_leaves_few_short_is_repeated(draws):
    # Ten clients with 20 examples at the least of 60 on average: some draws fit, most do not.
    parts = dirichlet(balanced(600), 10, stream(), alpha=0.3, minimum=20)
    assert 1 < len(draws) < 100
    assert min(len(part) for part in parts) >= 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 9), st.integers(0, 99))
def test_levelling_is_moving_one_at_a_time_from_the_largest_to_the_smallest(sizes, minimum, seed):
    assume(sum(sizes) >= minimum * len(sizes))
    expected = list(sizes)
    while min(expected) < minimum:
        expected[expected.index(max(expected))] -= 1
        expected[expected.index(min(expected))] += 1
    parts = list(torch.arange(sum(sizes)).split(sizes))
    found = module._level(parts, minimum, stream(seed))
    assert_each_once(found, sum(sizes))
    assert sorted(map(len, found)) == sorted(expected)
    for before, after in zip(parts, found, strict=True):  # nobody gives and receives
        kept = min(len(before), len(after))
        assert torch.equal(before[:kept], after[:kept])


@pytest.mark.parametrize("clients", [4, 200])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_nobody_is_favoured(clients, alpha):
    # All clients are alike in the draw, and so each has N / K examples of a label on average,
    # whether or not draws are repeated or mended.
    labels, generator, repeats = balanced(240, 3), stream(5), 100
    tables = torch.stack(
        [counts(labels, dirichlet(labels, clients, generator, alpha), 3) for _ in range(repeats)]
    ).double()
    error = tables.std(dim=0) / repeats**0.5
    gap = (tables.mean(dim=0) - 80 / clients) / error
    assert gap.abs().max() < 4.5  # of up to 600 means, each off by a standard error or so


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_which_examples_of_a_label_a_client_gets_is_drawn_too(name):
    # One label: unshuffled, client 0 would get the first rows, in their order.
    labels = torch.zeros(400, dtype=torch.long)
    (first, *_) = partition(name, labels, 4, stream(), 100.0, 2, 1, labels)
    assert first.tolist() != sorted(first.tolist())
    assert first.max() > 2 * len(first)


def test_a_draw_that_fits_is_not_mended():
    # With minimum 0 the first draw is taken; the same draw with a minimum that it meets is equal.
    free = dirichlet(balanced(500), 3, stream(), alpha=5.0, minimum=0)
    bound = dirichlet(balanced(500), 3, stream(), alpha=5.0, minimum=min(map(len, free)))
    assert all(torch.equal(a, b) for a, b in zip(free, bound, strict=True))


# Shards and quantity


def test_shards_show_each_client_few_labels():
    labels = balanced(1000)
    for per_client in (1, 2, 3):
        parts = shards(labels, 10, stream(), per_client)
        assert (counts(labels, parts) > 0).sum(dim=1).max() <= 2 * per_client
        assert {len(part) for part in parts} <= {99, 100, 101, 102}
    # twenty shards of fifty: each is of one label, as in McMahan et al.
    assert (counts(labels, shards(labels, 10, stream(), 2)) > 0).sum(dim=1).max() <= 2


def test_quantity_differs_and_labels_do_not():
    labels = balanced(20_000)
    parts = quantity(labels, 5, stream(3), alpha=0.5)
    sizes = torch.tensor([len(part) for part in parts])
    assert sizes.max() > 3 * sizes.min()
    shares = counts(labels, parts) / sizes.unsqueeze(1)
    assert (shares[sizes > 1000] - 0.1).abs().max() < 0.04


# Pathological and natural


@given(st.integers(1, 30), st.integers(1, 10), st.integers(0, 99))
def test_each_client_has_exactly_so_many_labels_and_each_label_an_owner(clients, classes, seed):
    assume(clients * classes >= 10)
    labels = balanced(1000)
    parts = pathological(labels, clients, stream(seed), classes)
    assert_each_once(parts, 1000)
    held = counts(labels, parts) > 0
    assert (held.sum(dim=1) == classes).all()
    owners = held.sum(dim=0)
    assert owners.max() - owners.min() <= 1
    for label, number in enumerate(owners.tolist()):  # and they share it evenly
        sizes = counts(labels, parts)[:, label]
        assert set(sizes[sizes > 0].tolist()) <= {100 // number, -(-100 // number)}


def test_pathological_requests_that_cannot_be_are_errors():
    with pytest.raises(
        ValueError, match="11 classes for each client .* there are 10; take 1 to 10"
    ):
        pathological(balanced(100), 5, stream(), 11)
    with pytest.raises(ValueError, match="4 clients of 2 classes each would leave .* 2 classes"):
        pathological(balanced(100), 4, stream(), 2)
    with pytest.raises(ValueError, match="class 0 has 1 examples for 2 clients"):
        pathological(torch.tensor([0, 1, 1, 1]), 2, stream(), 2)


def test_a_client_is_a_domain_or_a_part_of_one_or_a_few():
    domains = torch.tensor([5] * 6 + [7] * 4 + [9] * 2)

    def seen(clients):
        parts = natural(domains, clients, stream())
        assert_each_once(parts, 12)
        return [sorted(domains[part].tolist()) for part in parts]

    assert seen(3) == [[5] * 6, [7] * 4, [9] * 2]
    assert seen(2) == [[5] * 6 + [9] * 2, [7] * 4]  # domains 0 and 2 go to client 0
    assert seen(5) == [[5] * 3, [7] * 2, [9] * 2, [5] * 3, [7] * 2]
    with pytest.raises(ValueError, match="domain 9 has 2 examples for 3 clients"):
        natural(domains, 9, stream())
    with pytest.raises(ValueError, match="natural: of these data it is not known .* take fsdd"):
        partition("natural", balanced(10), 2, stream(), 0.5, 2)


# Errors


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_no_clients_and_too_few_examples_are_errors(name):
    with pytest.raises(ValueError, match="number of clients must be at least 1, got 0"):
        deal(name, balanced(10), 0, stream())
    with pytest.raises(ValueError, match="take fewer clients, or more private examples"):
        deal(name, balanced(10), 11, stream())


@pytest.mark.parametrize("deal", [dirichlet, quantity])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_an_alpha_that_cannot_be_is_an_error(deal, alpha):
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        deal(balanced(10), 2, stream(), alpha)


def test_other_settings_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="minimum size must be >= 0, got -1"):
        dirichlet(balanced(10), 2, stream(), minimum=-1)
    with pytest.raises(ValueError, match="attempts must be >= 1, got 0"):
        dirichlet(balanced(10), 2, stream(), attempts=0)
    with pytest.raises(ValueError, match="2 clients with at least 6 examples each need 12"):
        dirichlet(balanced(10), 2, stream(), minimum=6)
    with pytest.raises(ValueError, match="at least one shard, got 0"):
        shards(balanced(10), 2, stream(), 0)


def test_an_unknown_partition_is_an_error_that_names_the_nearest():
    with pytest.raises(
        ValueError, match="did you mean 'dirichlet'. choose one of bands, dirichlet, .*, iid"
    ):
        partition("dirichelt", balanced(10), 2, stream(), 0.5, 2)
    with pytest.raises(ValueError, match="unknown partition 'zzz'; choose one of bands, dirichlet"):
        partition("zzz", balanced(10), 2, stream(), 0.5, 2)


# Bands


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 9))
def test_bands_follow_each_other(count, clients, seed):
    assume(count >= clients)
    key = torch.randint(20, (count,), generator=stream(seed)).double()
    parts = bands(key, clients, stream(seed))
    assert_each_once(parts, count)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for lower, upper in itertools.pairwise(parts):
        assert key[lower].max() <= key[upper].min()


def test_in_whose_band_a_number_is():
    # Two clients hold 1, 2 and 5, 6: up to 2 is the first's, above the second's.
    key = torch.tensor([1.0, 6, 2, 5, 0, 2.5, 9])
    parts = bands(key[:4], 2, stream())
    assert [sorted(part.tolist()) for part in parts] == [[0, 2], [1, 3]]
    assert in_bands(key, parts).tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert in_bands(key, [torch.arange(4)]).tolist() == [0] * 7


def test_of_two_numbers_it_has_to_be_said_which():
    with pytest.raises(ValueError, match="not said by which"):
        partition("bands", torch.zeros(9, 2), 3, stream(), 1.0, 2, target=REAL)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "dirichlet"),
        ({"domains": torch.zeros(9, dtype=torch.long)}, "natural"),
        ({"y": torch.zeros(9, 1), "target": REAL}, "bands"),
        ({"y": torch.zeros(9, 2), "target": REAL}, "iid"),
        ({"y": torch.zeros(9, 2), "target": REAL, "key": torch.zeros(9)}, "bands"),
        ({"y": torch.zeros(9, 2, dtype=torch.long), "target": SEQUENCE}, "iid"),
    ],
    ids=str,
)
def test_what_fits_data_is_chosen(given, expected):
    plain = Dataset(torch.zeros(9, 3), torch.arange(9) % 3, 3)
    assert chosen("auto", plain._replace(**given)) == expected
    assert chosen("quantity", plain._replace(**given)) == "quantity"
