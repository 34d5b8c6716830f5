"""Whether workers find room on the machines of a cluster: sums are not enough."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedkd.engines.ray.cluster import check
from fedkd.engines.ray.placement import Node, Share, check_room, place

TWO = [Node("node a", 1, 0), Node("node b", 1, 0)]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (Share(1), 4),
        (Share(3), 1),
        (Share(5), 0),
        (Share(0.3), 13),
        (Share(0.1), 40),
        (Share(1, 1), 2),
        (Share(1, 0.5), 4),
        (Share(1, 0.6), 2),  # one on each GPU, and 0.4 of each is left over
        (Share(0, 0.1), 20),
        (Share(1, 2), 1),
        (Share(1, 3), 0),
        (Share(0, 0), math.inf),
    ],
)
def test_places_on_four_cores_and_two_gpus(share, expected):
    assert Node("a", 4, 2).places(share) == expected


def test_rounding_costs_no_place():
    """0.6 / 0.2 is 2.9999999999999996."""
    assert Node("a", 0.6, 0).places(Share(0.2)) == 3


def test_cores_of_several_machines_do_not_add_up_to_one_share():
    with pytest.raises(
        ValueError,
        match="1 worker of 2 CPU cores and 0 GPUs each do not fit: node a has 1 CPU cores and "
        "0 GPUs, node b has 1 CPU cores and 0 GPUs, which is room for 0 of them",
    ):
        check_room([Share(2)], TWO)
    check_room([Share(2)], [*TWO, Node("node c", 2, 0)])
    check_room([Share(1)] * 2, TWO)


def test_fractions_of_several_gpus_do_not_add_up_to_one_share():
    gpus = [Node("node a", 8, 2)]
    with pytest.raises(ValueError, match="3 workers of 1 CPU cores and 0.6 GPUs each do not fit"):
        check_room([Share(1, 0.6)] * 3, gpus)
    check_room([Share(1, 0.5)] * 4, gpus)
    with pytest.raises(ValueError, match="above one GPU has to be whole, got 1.5"):
        check_room([Share(1, 1.5)], gpus)


def test_all_kinds_of_shares_count_together():
    with pytest.raises(ValueError, match="need 3 CPU cores, and there are 2; take fewer"):
        check_room([Share(1), Share(2)], [Node("node a", 2, 0)])
    with pytest.raises(ValueError, match="need 2.5 GPUs, and there are 2; take fewer"):
        check_room([Share(0, 2), Share(0, 0.5)], [Node("node a", 2, 2)])


def test_many_machines_are_not_all_listed():
    with pytest.raises(ValueError, match="node 7 has .*, and 12 more, which is room for 0"):
        check_room([Share(2)], [Node(f"node {i}", 1, 0) for i in range(20)])


def test_this_machine_is_looked_at_where_no_cluster_is_named(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check([Share(1, 0.5)] * 2, None)
    with pytest.raises(ValueError, match="need 3 CPU cores, and there are 2"):
        check([Share()] * 3, None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(ValueError, match="this machine has 2 CPU cores and 3 GPUs, which is room"):
        check([Share(0.5, 0.6)] * 4, None)


def test_a_share_without_a_gpu_computes_on_the_cpu(monkeypatch):
    """Ray hides no GPU from it."""
    from fedkd.engines.ray.actor import _Worker

    worker = _Worker
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert worker(Share(1, 0))._device == torch.device("cpu")
    assert worker(Share(1, 0.5))._device == torch.device("cuda")


def holds(chosen, wanted, there):
    """Whether the machines hold the workers: on each, GPUs are dealt out in every way."""
    on = defaultdict(list)
    for share, node in zip(wanted, chosen, strict=True):
        on[node].append(share)
    return all(
        sum(share.cpus for share in shares) <= there[node].cpus + 1e-9
        and any(deals(shares, there[node]))
        for node, shares in on.items()
    )


def deals(shares, node):
    """Of each way to give GPUs to workers on a machine, whether it works."""
    count = int(node.gpus)
    ways = [
        [()] if not s.gpus else itertools.combinations(range(count), max(1, math.ceil(s.gpus)))
        for s in shares
    ]
    for way in itertools.product(*map(list, ways)):
        taken = [0.0] * count
        for share, gpus in zip(shares, way, strict=True):
            for gpu in gpus:
                taken[gpu] += share.gpus / len(gpus)
        yield all(amount <= 1 + 1e-9 for amount in taken)


AMOUNTS = st.sampled_from([0.0, 0.2, 0.25, 0.4, 0.5, 0.6, 1.0, 2.0])
SHARES = st.builds(Share, st.sampled_from([0.5, 1.0, 2.0]), AMOUNTS)
NODES = st.builds(Node, st.just("node"), st.sampled_from([1.0, 2.0, 4.0]), st.integers(0, 2))


@settings(max_examples=50)
@given(st.lists(SHARES, max_size=4), st.lists(NODES, min_size=1, max_size=3))
@example([Share(1, 0.6)] * 3, [Node("a", 8, 2)])
@example([Share(2), Share(1), Share(1)], [Node("a", 2, 0), Node("b", 2, 0)])
def test_workers_are_placed_exactly_where_they_can_be(wanted, there):
    """Beside all assignments of workers to machines, and of GPUs on each."""
    chosen = place(wanted, there)
    every = itertools.product(range(len(there)), repeat=len(wanted))
    if chosen is None:
        assert not any(holds(one, wanted, there) for one in every)
    else:
        assert holds(chosen, wanted, there)


def test_the_best_fit_is_no_dead_end():
    """After 0.6 and 0.5, the tightest GPU for the first 0.3 leaves none for both others of 0.2."""
    shares = [Share(1, g) for g in (0.6, 0.5, 0.3, 0.2, 0.2, 0.2)]
    assert holds(place(shares, [Node("a", 8, 2)]), shares, [Node("a", 8, 2)])


def test_shares_that_get_into_each_others_way_are_refused():
    """Each kind alone would fit, and so would the sums."""
    there = [Node("node a", 5, 0), Node("node b", 5, 0)]
    with pytest.raises(
        ValueError,
        match="^1 worker of 4 CPU cores and 0 GPUs and 2 workers of 3 CPU cores and 0 GPUs do not "
        "fit together: node a has 5 .*, node b has 5 .*; take fewer workers, or smaller shares$",
    ):
        check_room([Share(4), Share(3), Share(3)], there)
    check_room([Share(3), Share(3), Share(2), Share(2)], there)


def test_many_workers_are_placed_on_as_few_of_many_machines_as_hold_them():
    there = [Node(f"node {i}", 8, 4) for i in range(200)]
    assert set(place([Share(2, 1)] * 400, there)) == set(range(100))
    assert place([Share(8, 4)] * 201, there) is None
