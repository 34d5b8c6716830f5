"""Who is there: from Flower's node numbers, which change, to client numbers, which do not."""

import time
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.flower.wire.serde import WHO, brief, integer


class NodeRegistry(NamedTuple):
    """The clients of a run, in the order of their numbers.

    Attributes:
        nodes: client number -> Flower's node number.
        groups: client number -> its architecture.
    """

    nodes: dict[int, int]
    groups: dict[int, str]


def meet(grid: Grid, clients: int, patience: float) -> NodeRegistry:
    """Wait until all clients have come, and ask each node which one it is.

    Args:
        grid: where they are.
        clients: how many there must be.
        patience: seconds to wait for them to come, and again for their answers.

    Raises:
        ValueError: there are more or fewer, or not everybody says who it is.
    """
    nodes = _gathered(grid, clients, patience)
    asked = [Message(RecordDict(), node, WHO) for node in nodes]
    found: dict[int, tuple[int, str]] = {}
    for reply in grid.send_and_receive(asked, timeout=patience):
        if reply.has_error():
            raise ValueError(f"a client cannot take part: {brief(reply.error.reason)}")
        who = reply.content.config_records["who"]
        number = integer(who, "client")
        if number in found:
            raise ValueError(f"two Flower nodes say that they are client {number}")
        found[number] = reply.metadata.src_node_id, str(who["group"])
    if len(found) != clients:
        raise ValueError(
            f"of {clients} clients only {sorted(found)} said who they are in {patience:g} seconds; "
            "if that is nobody, Flower's backend may not have started, and its log says why"
        )
    order = sorted(found)
    return NodeRegistry({n: found[n][0] for n in order}, {n: found[n][1] for n in order})


def _gathered(grid: Grid, clients: int, patience: float) -> list[int]:
    until = time.monotonic() + patience
    nodes = sorted(grid.get_node_ids())
    while len(nodes) < clients and time.monotonic() < until:
        time.sleep(0.2)
        nodes = sorted(grid.get_node_ids())
    if len(nodes) != clients:
        raise ValueError(
            f"{len(nodes)} Flower nodes are there, and {clients} clients were expected; start as "
            "many nodes as there are clients (num-supernodes in a simulation)"
        )
    return nodes
