"""A Ray to run actors on: an existing cluster, or one of our own on this machine's loopback."""

import logging
import math
import os
import socket
import sys
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from kdcore.references import users_modules

# Ray reads its switches on import, and in the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it binds 0.0.0.0

import ray as ray  # noqa: E402  (others take it from here, behind the switches)
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402

CONNECT = 5.0  # seconds to wait for the address of a cluster
GRAIN = 1e-4  # Ray counts resources in ten thousandths


class Share(NamedTuple):
    """What an actor takes of a machine; `gpus` may be a fraction of one."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU cores and {self.gpus:g} GPUs"


class Node(NamedTuple):
    """A machine of a cluster, and all it has."""

    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.name} has {self.cpus:g} CPU cores and {self.gpus:g} GPUs"

    def places(self, share: Share) -> float:
        """How many actors of a share it holds as long as it holds no others.

        A fraction of a GPU is of one GPU: three actors of 0.6 do not fit on two.
        """
        fractions = 0 < share.gpus < 1
        on_gpus = (
            _times(1, share.gpus) * _times(self.gpus, 1)
            if fractions
            else _times(self.gpus, share.gpus)
        )
        return min(_times(self.cpus, share.cpus), on_gpus)


def send_users_code() -> None:
    """Have Ray send what is in modules of the user's with each call, as no worker may find them."""
    for module in users_modules():
        if module.__name__ in sys.modules:
            ray.cloudpickle.register_pickle_by_value(module)


def check(workers: int, shares: Collection[Share], address: str | None) -> None:
    """Raise ValueError for what could not start: no such cluster, or no room in it.

    Where this process is connected to no Ray yet, it joins that of the address, to look at it, and
    leaves it again.
    """
    if ray.is_initialized():
        check_room(workers, shares, nodes())
    elif address is not None:
        _join(address)
        try:
            check_room(workers, shares, nodes())
        finally:
            ray.shutdown()
    else:
        here = Node("this machine", os.cpu_count() or 1, torch.cuda.device_count())
        check_room(workers, shares, [here])


def connect(address: str | None, workers: int, shares: set[Share]) -> bool:
    """Join a cluster or start one; True for one of our own. Raise ValueError if it has no room."""
    own = not ray.is_initialized()
    if own and address is not None:
        _join(address)
    elif own:
        check(workers, shares, None)
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(sum(workers * share.cpus for share in shares) - GRAIN)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        check_room(workers, shares, nodes())
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


def check_room(workers: int, shares: Collection[Share], there: Sequence[Node]) -> None:
    """Raise ValueError for actors that cannot all be held, however they are placed.

    That others hold part of the machines, or that actors of several shares get into each other's
    way, only shows when they are started.

    Args:
        workers: actors of each share.
        shares: what an actor takes; it has to find all of that on one machine.
        there: the machines.
    """
    for what, wanted, have in (
        ("CPU cores", sum(workers * s.cpus for s in shares), sum(node.cpus for node in there)),
        ("GPUs", sum(workers * s.gpus for s in shares), sum(node.gpus for node in there)),
    ):
        if wanted > have + GRAIN:
            raise ValueError(
                f"{workers} workers with their shares need {wanted:g} {what}, and there are "
                f"{have:g}; take fewer workers, or smaller shares"
            )
    for share in shares:
        if share.gpus > 1 and share.gpus % 1:
            raise ValueError(f"a share above one GPU has to be whole, got {share.gpus:g}")
        places = sum(node.places(share) for node in there)
        if places < workers:
            raise ValueError(
                f"{workers} workers of {share} each do not fit: {said(there)}, which is room for "
                f"{places:g} of them; take fewer workers, or smaller shares"
            )


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


def said(there: Sequence[Node], most: int = 8) -> str:
    """The machines in words, the first few of them."""
    more = [f"and {len(there) - most} more"] if len(there) > most else []
    return ", ".join([*map(str, there[:most]), *more]) or "there is no machine"


def _times(have: float, share: float) -> float:
    """How many shares there are in what a machine has."""
    return math.floor((have + GRAIN) / share) if share else math.inf


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
