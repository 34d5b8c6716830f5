"""A Ray to run actors on: an existing cluster, or one of our own on this machine's loopback."""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fedkd.engines.ray.placement import GRAIN, Node, Share, check_room
from kdcore.references import users_modules

# Ray reads its switches on import, and in the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it binds 0.0.0.0

import ray as ray  # noqa: E402  (others take it from here, behind the switches)
from ray.util.placement_group import (  # noqa: E402
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (  # noqa: E402
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

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
        join(address)
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
        join(address)
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


class Room(NamedTuple):
    """Room for an actor: a group of resources of Ray's, and whether it is there for it alone."""

    group: Any
    own: bool

    def wait(self, seconds: float) -> bool:
        """Whether there is room within some seconds.

        A group that was complete once, and has lost a machine, is so no more until it has another.
        """
        if self.own:
            return bool(self.group.wait(seconds))
        until = time.monotonic() + seconds
        while not self.there():
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def there(self) -> bool:
        """Whether no machine of it is lost, as far as is known by now."""
        return bool(placement_group_table(self.group)["state"] == "CREATED")

    def release(self) -> None:
        """Give it back."""
        if self.own:
            remove_placement_group(self.group)


def reserve(share: Share) -> Room:
    """Ask for room for one actor.

    A task that room was reserved for, with that of its actors, has it already.
    """
    around = get_current_placement_group()
    if around is not None:
        return Room(around, own=False)
    return Room(placement_group([resources(share)]), own=True)


def resources(share: Share) -> dict[str, float]:
    """A share in Ray's words."""
    wanted = {"CPU": share.cpus, "GPU": share.gpus}
    return {k: v for k, v in wanted.items() if v} or {"CPU": GRAIN}


def within(room: Room) -> Any:
    """The strategy of Ray's that puts an actor where room is reserved for it."""
    return PlacementGroupSchedulingStrategy(room.group, 0 if room.own else -1)


def within_group(group: Any) -> Any:
    """The same for a task that has the first room of a group, and its actors the others."""
    return PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)


def head() -> str:
    """The address of the head of the cluster that this process is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def is_reachable(address: str) -> bool:
    """Whether the head of a cluster is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError:
        return False
    return True


def on_node(identity: str) -> Any:
    """The strategy of Ray's that puts a task on a node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(identity, soft=False)


def join(address: str, **options: Any) -> None:
    """Connect to a cluster, with options of `ray.init`. Raise ValueError where that is impossible.

    Ray itself would wait for minutes where nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    expected = "expected HOST:PORT of one that `ray start --head` has started"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, ValueError) as reason:
        raise ValueError(f"no Ray cluster answers at {address!r} ({reason}); {expected}") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RuntimeError, ConnectionError) as reason:  # other versions of Ray or Python, say
        raise ValueError(f"cannot join the Ray cluster at {address!r}: {reason}") from reason
