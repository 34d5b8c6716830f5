"""Parameters in a store: the same numbers, in as little memory as was asked for."""

import os
from collections import UserDict
from dataclasses import replace

import pytest
import torch

from fedkd.storage.client_store import ALIGNMENT, ClientStore
from tests.conftest import tiny_federation


def clients():
    return list(tiny_federation(sizes=(5, 3, 4, 6, 2, 1)).clients)


def size(client):
    return sum(value.nbytes for value in client.params.values())


def assert_same(kept, given):
    for one, other in zip(kept, given, strict=True):
        assert (one.id, one.group, list(one.params)) == (other.id, other.group, list(other.params))
        assert one.private is other.private
        for name, value in other.params.items():
            assert torch.equal(one.params[name], value)


@pytest.mark.parametrize("budget", [None, 100.0, 1e-9])
def test_what_is_kept_is_what_was_given(budget, tmp_path):
    given = clients()
    store = ClientStore(budget, tmp_path)
    kept = store(given)
    assert_same(kept, given)
    assert_same(store(kept), given)
    assert bool(store.notes) == (budget == 1e-9)
    assert not list(tmp_path.iterdir())  # files are unlinked while they are in use


def test_one_client_does_not_keep_the_chunk_of_others_alive():
    given = clients()[:1]
    wide = {name: torch.stack([value] * 100) for name, value in given[0].params.items()}
    chunk = replace(given[0], params={name: value[7] for name, value in wide.items()})
    (kept,) = ClientStore()([chunk])
    assert all(v.untyped_storage().nbytes() == v.nbytes for v in kept.params.values())


def mapped(client):
    """Whether the kernel maps the first parameter's address to a file."""
    address = next(iter(client.params.values())).data_ptr()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return "kdsim-" in line
    return False


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux tells what is mapped")
def test_only_what_does_not_fit_is_in_files():
    given = [client for client in clients() if client.group == "mlp-8"]
    first, second = given[:1], given[1:2]
    store = ClientStore(1.5 * size(first[0]) / 1e6)
    (kept,), (other,) = store(first), store(second)
    assert not mapped(kept)
    assert mapped(other)
    (again,) = store([kept])  # what comes back frees its own place first
    assert not mapped(again)


KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]


@pytest.mark.parametrize("budget", [None, 1e-9], ids=["in memory", "in files"])
def test_parameters_begin_where_torch_would_have_them_begin(budget):
    """Arithmetic may round otherwise elsewhere: no number is to depend on the budget."""
    like = clients()[0]
    sizes = [(3,), (5, 7), (), (0,), (2, 3, 11)]
    given = [
        replace(
            like,
            id=k,
            params={
                f"{kind}{size}": (torch.rand(size) * 9).to(kind) for kind in KINDS for size in sizes
            },
        )
        for k in range(3)
    ]
    kept = ClientStore(budget)(given)
    assert_same(kept, given)
    for client in kept:
        assert all(value.is_contiguous() for value in client.params.values())
        assert {value.data_ptr() % ALIGNMENT for value in client.params.values()} == {0}


def test_writing_to_one_map_changes_no_other():
    given = clients()[:2]
    store = ClientStore(1e-9)
    one, two = store(given)
    with torch.no_grad():
        for value in one.params.values():
            value.zero_()
    assert_same([two], given[1:])


def test_parameters_that_live_elsewhere_stay_there():

    far = UserDict(clients()[0].params)
    client = replace(clients()[0], params=far)
    (kept,) = ClientStore(1e-9)([client])
    assert kept.params is far
