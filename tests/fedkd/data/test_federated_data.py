"""Pools that never overlap, and clients that are what was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import Pools, federate, pools
from fedkd.data.partition import iid
from kdcore.rng import generator


def dataset(count=60, official=0, classes=3):
    x = torch.arange(float(count)).reshape(count, 1, 1, 1).expand(count, 1, 4, 4)
    return Dataset(x, torch.arange(count) % classes, classes, official)


def rows(chosen):
    return [getattr(chosen, key).tolist() for key in ("private", "public", "validation", "test")]


@given(
    st.integers(1, 30),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_pools_are_disjoint_and_of_the_sizes_asked_for(private, public, validation, test, seed):
    for official in (0, 9):
        data = dataset(60 + official, official)
        chosen = pools(data, private, public, validation, test, seed)
        parts = rows(chosen)
        left = official or 60 - private - public - validation
        assert [len(part) for part in parts] == [private, public, validation, test or left]
        together = sum(parts, [])
        assert len(set(together)) == len(together)
        assert set(together) <= set(range(60 + official))
        assert rows(pools(data, private, public, validation, test, seed)) == parts


def test_an_official_test_set_is_kept_apart():
    data = dataset(60, official=20)
    private, public, validation, test = rows(pools(data, 25, 10, 5, 0, 0))
    assert sorted(test) == list(range(40, 60))
    assert max(private + public + validation) < 40
    few = rows(pools(data, 25, 10, 5, 7, 0))[3]
    assert len(few) == 7
    assert set(few) <= set(test)


def test_seeds_differ():
    data = dataset()
    assert rows(pools(data, 20, 10, 5, 0, 0)) != rows(pools(data, 20, 10, 5, 0, 1))


@pytest.mark.parametrize(
    ("numbers", "official"),
    [
        ((0, 10, 0, 0), 0),
        ((-1, 10, 0, 0), 0),
        ((10, -1, 0, 0), 0),
        ((60, 0, 0, 0), 0),  # nothing is left to test on
        ((40, 10, 5, 6), 0),
        ((31, 10, 0, 0), 20),
    ],
)
def test_more_than_there_is_or_less_than_nothing_is_an_error(numbers, official):
    with pytest.raises(ValueError, match=f"were asked for, and the data set has {60 - official}"):
        pools(dataset(60, official), *numbers, 0)


def test_more_test_examples_than_official_ones_are_an_error():
    with pytest.raises(ValueError, match="21 test examples were asked for, and 20 are left"):
        pools(dataset(60, 20), 10, 10, 10, 21, 0)


@given(st.integers(1, 20), st.integers(0, 25), st.integers(0, 9), st.integers(0, 9))
def test_public_examples_of_another_data_set_are_all_that_is_taken_of_it(
    private, public, validation, seed
):
    for official in (0, 9):
        data = dataset(60 + official, official)._replace(foreign=25)
        found = rows(pools(data, private, public, validation, 0, seed))
        left = official or 35 - private - validation
        assert [len(part) for part in found] == [private, public, validation, left]
        assert set(found[1]) <= set(range(25))
        assert len(set(found[1])) == public
        own = found[0] + found[2] + found[3]
        assert min(own) >= 25
        assert len(set(own)) == len(own)


def test_more_than_the_other_data_set_has_or_its_absent_classes_are_an_error():
    data = dataset(60)._replace(foreign=25)
    with pytest.raises(ValueError, match="26 public examples .* the other data set has 25"):
        pools(data, 5, 26, 0, 0, 0)
    with pytest.raises(ValueError, match="were asked for, and the data set has 35"):
        pools(data, 30, 25, 5, 1, 0)
    with pytest.raises(ValueError, match="absent classes are for one data set"):
        pools(data, 5, 5, 0, 0, 0, absent=1)


def test_everything_may_be_used():
    assert [len(part) for part in rows(pools(dataset(60, 20), 40, 0, 0, 20, 0))] == [40, 0, 0, 20]
    assert [len(part) for part in rows(pools(dataset(60), 40, 10, 5, 5, 0))] == [40, 10, 5, 5]


def federation(models=("mlp-4", "cnn-4", "mlp-4"), clients=5, seed=0, public=10):
    data = dataset()
    chosen = pools(data, 30, public, 5, 0, 0)
    parts = iid(data.y[chosen.private], clients, generator(0, "partition"))
    return data, chosen, parts, federate(data, chosen, parts, models, seed)


def test_clients_get_their_own_examples_and_nobody_elses():
    data, chosen, parts, fed = federation()
    assert [client.id for client in fed.clients] == [0, 1, 2, 3, 4]
    held = [client.private.rows for client in fed.clients]
    assert sorted(torch.cat(held).tolist()) == sorted(chosen.private.tolist())
    for client, places in zip(fed.clients, parts, strict=True):
        assert torch.equal(client.private.rows, chosen.private[places])
        assert client.private.x is data.x  # shared, so that engines need not copy it


def test_public_examples_come_without_labels_and_in_the_order_of_the_pool():
    data, chosen, _, fed = federation()
    assert torch.equal(fed.task.public, data.x[chosen.public])
    assert federation(public=0)[3].task.public is None
    assert fed.test.rows is chosen.test
    assert fed.validation.rows is chosen.validation


def test_labels_are_counted():
    data, _, _, fed = federation()
    assert fed.label_counts.shape == (5, 3)
    for client, counts in zip(fed.clients, fed.label_counts, strict=True):
        mine = data.y[client.private.rows].tolist()
        assert counts.tolist() == [mine.count(0), mine.count(1), mine.count(2)]


def test_architectures_are_dealt_out_in_turn():
    fed = federation()[3]
    assert [client.group for client in fed.clients] == ["mlp-4", "cnn-4", "mlp-4", "mlp-4", "cnn-4"]
    assert set(fed.task.models) == {"mlp-4", "cnn-4"}


def test_every_client_starts_from_parameters_of_its_own_drawn_by_the_seed_alone():
    one, again, other = (federation(seed=seed)[3] for seed in (0, 0, 1))
    key = "layer0.weight"
    assert torch.equal(one.clients[0].params[key], again.clients[0].params[key])
    assert not torch.equal(one.clients[0].params[key], other.clients[0].params[key])
    assert not torch.equal(one.clients[0].params[key], one.clients[2].params[key])
    # and a client's do not depend on how many others there are
    fewer = federation(clients=3)[3]
    assert torch.equal(one.clients[2].params[key], fewer.clients[2].params[key])


def test_a_federation_without_models_or_with_unknown_ones_is_an_error():
    with pytest.raises(ValueError, match="name at least one architecture"):
        federation(models=())
    with pytest.raises(ValueError, match="unknown model 'former'"):
        federation(models=("mlp", "former"))


def test_a_client_may_have_no_examples():
    data = dataset()
    chosen = Pools(*torch.arange(60).split([20, 10, 10, 20]))
    fed = federate(data, chosen, [torch.arange(20), torch.arange(0)], ["mlp"], 0)
    assert fed.label_counts[1].tolist() == [0, 0, 0]


# Shifts


def pictures(count=40):
    """Squares of which the upper left corner is lit: where it is tells their turn."""
    x = torch.zeros(count, 1, 4, 4)
    x[:, :, 0, 0] = 1
    return Dataset(x, torch.arange(count) % 4, 4)


@pytest.mark.parametrize("rotations", [1, 2, 4])
def test_clients_are_turned_and_the_other_pools_have_an_even_part_of_each_domain(rotations):
    data = pictures()
    chosen = pools(data, 20, 8, 4, 8, 0)
    parts = iid(data.y[chosen.private], 5, generator(0, "partition"))
    fed = federate(data, chosen, parts, ["mlp-4"], 0, rotations)
    corners = [(0, 0), (3, 0), (3, 3), (0, 3)]  # rot90 turns against the clock
    for client in fed.clients:
        row, column = corners[client.id % rotations * 4 // rotations]
        assert (client.private.x[client.private.rows][:, 0, row, column] == 1).all()
    step = 4 // rotations
    test = fed.test.x[fed.test.rows][:, 0]
    for place, picture in enumerate(test):
        assert picture[corners[place % rotations * step]] == 1
    assert fed.kind_counts.shape == (5, 4 * rotations)
    assert fed.kind_counts.sum(dim=1).tolist() == [len(c.private) for c in fed.clients]
    for client in fed.clients:  # a client's kinds are all of its own domain
        own = fed.kind_counts[client.id].reshape(rotations, 4).sum(dim=1)
        assert (own > 0).nonzero().flatten().tolist() == [client.id % rotations]
    assert data.x[:, 0, 0, 0].all()  # the data set itself is left alone


def test_turns_that_cannot_be_are_errors():
    data = pictures()
    chosen = pools(data, 20, 8, 4, 8, 0)
    with pytest.raises(ValueError, match="rotations must be 1, 2 or 4"):
        federate(data, chosen, [torch.arange(20)], ["mlp-4"], 0, 3)
    flat = data._replace(x=torch.zeros(40, 1, 2, 8))
    with pytest.raises(ValueError, match="are no squares"):
        federate(flat, chosen, [torch.arange(20)], ["mlp-4"], 0, 2)


@given(st.integers(1, 2), st.integers(0, 50))
def test_classes_that_nobody_holds_stay_in_the_other_pools(absent, seed):
    data = dataset(90)
    chosen = pools(data, 25, 15, 10, 0, seed, absent)
    private, public, validation, test = rows(chosen)
    assert len(private) == 25
    assert len(data.y[chosen.private].unique()) <= 3 - absent
    assert len(set(private + public + validation + test)) == 90
    assert len(data.y[chosen.test].unique()) == 3


def test_the_pools_are_the_same_where_no_class_is_absent():
    assert rows(pools(dataset(), 20, 10, 5, 0, 3)) == rows(pools(dataset(), 20, 10, 5, 0, 3, 0))


def test_absent_classes_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="3 absent classes: the data set has 3"):
        pools(dataset(), 10, 0, 0, 0, 0, 3)
    with pytest.raises(ValueError, match="without 2 classes there are 20; take fewer of either"):
        pools(dataset(), 30, 0, 0, 0, 0, 2)


def test_a_client_may_have_one_example():
    data = dataset()
    chosen = pools(data, 5, 10, 0, 0, 0)
    parts = iid(data.y[chosen.private], 5, generator(0, "partition"))
    assert [len(c.private) for c in federate(data, chosen, parts, ["mlp-4"], 0).clients] == [1] * 5
