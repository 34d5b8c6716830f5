"""A Ray to run actors on: an existing cluster, or one of our own on this machine's loopback."""

import logging
import math
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import torch

from fedkd.engines.ray.placement import GRAIN, Node, Share, check_room
from kdcore.references import users_modules

# Ray reads its switches on import, and in the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it binds 0.0.0.0

import ray as ray  # noqa: E402  (others take it from here, behind the switches)
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402

CONNECT = 5.0  # seconds to wait for the address of a cluster


def send_users_code() -> None:
    """Have Ray send what is in modules of the user's with each call, as no worker may find them."""
    for module in users_modules():
        if module.__name__ in sys.modules:
            ray.cloudpickle.register_pickle_by_value(module)


def check(wanted: Sequence[Share], address: str | None) -> None:
    """Raise ValueError for workers that could not start: no such cluster, or no room in it.

    Where this process is connected to no Ray yet, it joins that of the address, to look at it, and
    leaves it again.
    """
    if ray.is_initialized():
        check_room(wanted, nodes())
    elif address is not None:
        _join(address)
        try:
            check_room(wanted, nodes())
        finally:
            ray.shutdown()
    else:
        here = Node("this machine", os.cpu_count() or 1, torch.cuda.device_count())
        check_room(wanted, [here])


def connect(address: str | None, wanted: Sequence[Share]) -> bool:
    """Join a cluster or start one; True for one of our own. Raise ValueError if it has no room."""
    own = not ray.is_initialized()
    if own and address is not None:
        _join(address)
    elif own:
        check(wanted, None)
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(sum(share.cpus for share in wanted) - GRAIN)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        check_room(wanted, nodes())
    except ValueError:
        if own:
            ray.shutdown()
        raise
    return own


def nodes() -> list[Node]:
    """The machines of the cluster that this process is connected to, less those that are lost."""
    return [
        Node(
            node_name(node["NodeID"]),
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def node_name(identity: str) -> str:
    """What to call a node of Ray."""
    return f"node {identity[:12]}"


def reserve(share: Share) -> Any:
    """Ask for room for one actor; `wait` of what is returned says whether there is some."""
    wanted = {"CPU": share.cpus, "GPU": share.gpus}
    return placement_group([{k: v for k, v in wanted.items() if v} or {"CPU": GRAIN}])


def within(room: Any) -> Any:
    """The strategy of Ray's that puts an actor where room is reserved for it."""
    return PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=0)


def release(room: Any) -> None:
    """Give a reservation back."""
    remove_placement_group(room)


def _join(address: str) -> None:
    """Connect to a cluster. Raise ValueError where that is impossible.

    Ray itself would wait for minutes where nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    expected = "expected HOST:PORT of one that `ray start --head` has started"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, ValueError) as reason:
        raise ValueError(f"no Ray cluster answers at {address!r} ({reason}); {expected}") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError) as reason:  # other versions of Ray or Python, say
        raise ValueError(f"cannot join the Ray cluster at {address!r}: {reason}") from reason
