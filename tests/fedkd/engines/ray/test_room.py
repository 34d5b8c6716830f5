"""Whether actors find room on the machines of a cluster: sums are not enough."""

import math

import pytest
import torch

from fedkd.engines.ray.cluster import Node, Share, check, check_room

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
        match="1 workers of 2 CPU cores and 0 GPUs each do not fit: node a has 1 CPU cores and "
        "0 GPUs, node b has 1 CPU cores and 0 GPUs, which is room for 0 of them",
    ):
        check_room(1, [Share(2)], TWO)
    check_room(1, [Share(2)], [*TWO, Node("node c", 2, 0)])
    check_room(2, [Share(1)], TWO)


def test_fractions_of_several_gpus_do_not_add_up_to_one_share():
    gpus = [Node("node a", 8, 2)]
    with pytest.raises(ValueError, match="3 workers of 1 CPU cores and 0.6 GPUs each do not fit"):
        check_room(3, [Share(1, 0.6)], gpus)
    check_room(4, [Share(1, 0.5)], gpus)
    with pytest.raises(ValueError, match="above one GPU has to be whole, got 1.5"):
        check_room(1, [Share(1, 1.5)], gpus)


def test_all_kinds_of_shares_count_together():
    with pytest.raises(ValueError, match="need 3 CPU cores, and there are 2; take fewer"):
        check_room(1, [Share(1), Share(2)], [Node("node a", 2, 0)])
    with pytest.raises(ValueError, match="need 2.5 GPUs, and there are 2; take fewer"):
        check_room(1, [Share(0, 2), Share(0, 0.5)], [Node("node a", 2, 2)])


def test_many_machines_are_not_all_listed():
    with pytest.raises(ValueError, match="node 7 has .*, and 12 more, which is room for 0"):
        check_room(1, [Share(2)], [Node(f"node {i}", 1, 0) for i in range(20)])


def test_this_machine_is_looked_at_where_no_cluster_is_named(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check(2, [Share(1, 0.5)], None)
    with pytest.raises(ValueError, match="need 3 CPU cores, and there are 2"):
        check(3, [Share()], None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(ValueError, match="this machine has 2 CPU cores and 3 GPUs, which is room"):
        check(4, [Share(0.5, 0.6)], None)


def test_a_share_without_a_gpu_computes_on_the_cpu(monkeypatch):
    """Ray hides no GPU from it."""
    from fedkd.engines.ray.actor import _Worker

    worker = _Worker
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert worker(Share(1, 0))._device == torch.device("cpu")
    assert worker(Share(1, 0.5))._device == torch.device("cuda")
