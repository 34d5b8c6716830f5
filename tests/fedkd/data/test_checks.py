"""Labels and examples of one's own: what is converted, and what is refused in one line."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd import algorithms
from fedkd.data.checks import all_finite, integers
from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import Pools, federate, pools
from fedkd.data.partition import PARTITIONS, partition
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Examples

N, C = 30, 3
Y = torch.arange(N) % C
X = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def dealt(data):
    """From a data set to clients, as the README does."""
    chosen = pools(data, private=12, public=6, validation=0, test=0, seed=0)
    parts = [torch.arange(12)[k::3] for k in range(3)]
    return federate(data, chosen, parts, ["mlp-8"], 0)


@pytest.mark.parametrize(
    "convert",
    [
        lambda y: y.unsqueeze(1),
        lambda y: y.float(),
        lambda y: y.double().unsqueeze(1),
        lambda y: y.int(),
        lambda y: y.to(torch.uint8),
    ],
    ids=["(N, 1)", "float", "double (N, 1)", "int32", "uint8"],
)
def test_labels_that_can_only_mean_one_thing_are_converted(convert):
    expected, found = dealt(Dataset(X, Y, C)), dealt(Dataset(X, convert(Y), C))
    assert found.clients[0].private.y.dtype == torch.int64
    assert torch.equal(found.clients[0].private.y, Y)
    assert torch.equal(found.label_counts, expected.label_counts)
    assert torch.equal(found.task.labels, expected.task.labels)


@given(st.sampled_from(sorted(PARTITIONS)), st.integers(0, 9))
def test_a_partition_is_of_what_labels_mean(name, seed):
    def deal(y):
        generator = torch.Generator().manual_seed(seed)
        return partition(name, y, 3, generator, 0.5, 2, 2, y)

    for one, other in zip(deal(Y), deal(Y.float().unsqueeze(1)), strict=True):
        assert torch.equal(one, other)


HOLED = torch.where(torch.arange(N) == 7, torch.nan, X.reshape(N, -1)[:, 0]).reshape(N, 1)
MISTAKES = [
    (X, Y + 1, "labels are 1, 2, 3 up to 3, which are not 0 to 2; renumber them"),
    (X, Y * 5, "labels are 0, 5, 10 up to 10, which are not 0 to 2"),
    (X, torch.where(Y == 1, -1, Y), "labels are -1, 0, 2 up to 2, which are not 0 to 2"),
    (X, Y + 0.5, r"labels hold 0.5 \(row 0\), and are to be whole numbers"),
    (X, torch.where(Y == 1, torch.nan, Y), r"labels hold nan \(row 1\)"),
    (X, torch.where(Y == 1, torch.inf, Y), r"labels hold inf \(row 1\)"),
    (X, torch.eye(C)[Y], r"labels have shape \(30, 3\); expected \(N,\): take the argmax"),
    (X, Y[:-1], "29 labels for 30 examples; each example needs one"),
    (X, Y.tolist(), "labels are of <class 'list'>; expected a tensor"),
    (HOLED, Y, "examples hold NaN or infinite numbers in 1 rows, first row 7; drop or fill"),
    (X / 0, Y, "examples hold NaN or infinite numbers in 30 rows, first row 0"),
    (X[:0], Y[:0], "needs examples x"),
]


@pytest.mark.parametrize(("x", "y", "message"), MISTAKES)
def test_data_that_are_none_are_refused_in_one_line(x, y, message):
    for refuse in (
        lambda: pools(Dataset(x, y, C), 12, 6, 0, 0, 0),
        lambda: federate(Dataset(x, y, C), Pools(*torch.arange(4)[:, None]), [], ["mlp-8"], 0),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            refuse()
        assert "\n" not in str(refused.value)


def test_whole_numbers_are_what_they_were():
    assert integers(torch.tensor([[2.0], [0.0]]), "labels").tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"labels hold 1e\+30"):
        integers(torch.tensor([1e30]), "labels")


def test_domains_are_checked_as_labels_are():
    with pytest.raises(ValueError, match="domains must be >= 0, got -1; renumber them from 0"):
        pools(Dataset(X, Y, C, domains=Y - 1), 12, 6, 0, 0, 0)
    with pytest.raises(ValueError, match="10 domains for 30 examples"):
        pools(Dataset(X, Y, C, domains=Y[:10]), 12, 6, 0, 0, 0)


def own(x, y, rows=None):
    """The federation with the private examples of one client replaced."""
    federation = dealt(Dataset(X, Y, C))
    rows = torch.arange(len(x)) if rows is None else rows
    first, *others = federation.clients
    return federation.task, [replace(first, private=Examples(x, y, rows)), *others]


@pytest.mark.parametrize("name", ["fedmd", "local"])
@pytest.mark.parametrize(
    ("private", "message"),
    [
        ((X, Y + 1), "labels are 1, 2, 3 up to 3, which are not 0 to 2"),
        ((X, Y.float()), r"labels are torch.float32 of shape \(30,\)"),
        ((X, Y[:, None]), r"labels are torch.int64 of shape \(30, 1\)"),
        ((X, Y[:20]), "clients hold rows 0 to 29 of 30 examples and 20 labels"),
        ((X, Y, torch.tensor([-1])), "clients hold rows -1 to "),
        ((HOLED.expand(N, 16).reshape(X.shape), Y), "private examples hold NaN .* in 1 rows"),
    ],
)
def test_clients_of_ones_own_are_refused_before_anything_runs(name, private, message):
    task, clients = own(*private)
    algorithm = algorithms.get(name)()
    with pytest.raises(ValueError, match=message):
        next(simulate(algorithm, task, clients, rounds=1))


def test_rows_that_nobody_holds_may_be_anything():
    x, y = HOLED.expand(N, 16).reshape(X.shape), torch.where(torch.arange(N) == 7, -1, Y)
    task, clients = own(x, y, torch.arange(7))
    (done,) = simulate(algorithms.get("local")(), task, clients, rounds=1)
    assert not done.rejected


def test_public_examples_that_are_not_finite_are_refused_where_they_are_needed():
    federation = dealt(Dataset(X, Y, C))
    task = replace(federation.task, public=federation.task.public / 0)
    with pytest.raises(ValueError, match="public examples hold NaN or infinite numbers"):
        next(simulate(algorithms.get("fedmd")(), task, federation.clients, rounds=1))
    next(simulate(algorithms.get("fd")(), task, federation.clients, rounds=1))


@pytest.mark.parametrize(
    "lost", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf], [math.nan, math.inf]]
)
def test_what_is_no_number_is_seen_in_the_sum(lost):
    assert not all_finite(torch.cat([torch.rand(50), torch.tensor(lost)]))


def test_a_sum_that_overflows_is_no_sign_of_what_is_no_number():
    x = torch.full((4,), 3e38)
    assert x.sum().isinf()
    assert all_finite(x)
    assert all_finite(torch.empty(0))
