"""How long a prediction takes, in a scenario that is named: it decides the factor.

A student that needs no graph is some times faster than its teacher on a whole graph, and hundreds
of times where the teacher has to fetch a neighbourhood first, so a factor without its scenario says
nothing. Scenarios:

    cold    `nodes` nodes that were never asked for: fetch, in full, the neighbourhoods that the
            network needs, make a graph of them, and run; of a network without a graph only the rows
    warm    the same nodes when all of that is there already: only the network runs
    whole   every node of the graph, with all that a network prepares once

Of many graphs the nodes are whole graphs, which are cut out of the others to be fetched. Every call
asks for other nodes, drawn from a seed. All of it is wall time on the device of the graph, after
warming up; on a GPU until it has finished.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphkd.data.graph_collection import Graphs
from graphkd.data.neighbor_sampling import neighbourhood
from graphkd.graph import Graph
from graphkd.methods.adagmlp import Boosted
from graphkd.methods.cpf import Propagation
from graphkd.models import networks
from graphkd.models.adapters import FeatureModule
from graphkd.models.teacher_ensemble import TeacherEnsemble
from graphkd.training.given import TableNetwork
from kdcore.registry import unknown
from kdcore.rng import generator

SCENARIOS = ("cold", "warm", "whole")
FAR = 8  # edges, if it is not known how far a network looks


@dataclass(frozen=True)
class Latency:
    """Times of one network in one scenario.

    Args:
        scenario: one of `SCENARIOS`.
        nodes: asked for in a call.
        seconds: of every call, in order.
    """

    scenario: str
    nodes: int
    seconds: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The seconds that this share of the calls did not exceed, between neighbours linearly."""
        times = torch.tensor(self.seconds, dtype=torch.float64)
        return float(times.quantile(share))

    @property
    def p50(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """Seconds that 95 of 100 calls did not exceed."""
        return self.quantile(0.95)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 calls did not exceed."""
        return self.quantile(0.99)

    def __str__(self) -> str:
        """One line: scenario, nodes and the percentiles in milliseconds."""
        p50, p95, p99 = (1e3 * t for t in (self.p50, self.p95, self.p99))
        return (
            f"{self.scenario}, {self.nodes} nodes: p50 {p50:.3f} ms, p95 {p95:.3f} ms, "
            f"p99 {p99:.3f} ms ({len(self.seconds)} calls)"
        )


@dataclass(frozen=True)
class Comparison:
    """Teacher and student in one scenario, asked in turn for the same nodes."""

    teacher: Latency
    student: Latency

    @property
    def speedup(self) -> float:
        """How many times longer the median call of the teacher takes."""
        return self.teacher.p50 / self.student.p50


def compare(
    teacher: nn.Module,
    student: nn.Module,
    graph: Graph,
    scenario: str,
    *,
    nodes: int = 1,
    repeats: int = 100,
    warmup: int = 5,
    seed: int = 0,
) -> Comparison:
    """Teacher against student in a scenario, one call of each in turn.

    Args:
        teacher: a network of `graphkd.models.networks`.
        student: another.
        graph: that both run on.
        scenario: one of `SCENARIOS`.
        nodes: asked for in a call; "whole" asks for all.
        repeats: counted calls of each.
        warmup: calls before, not counted.
        seed: of the nodes asked for.

    Raises:
        ValueError: the scenario is unknown, or a number is out of range.
    """
    found = measure(
        {"teacher": teacher, "student": student},
        graph,
        scenario,
        nodes=nodes,
        repeats=repeats,
        warmup=warmup,
        seed=seed,
    )
    return Comparison(found["teacher"], found["student"])


@torch.no_grad()
def measure(
    several: Mapping[str, nn.Module],
    graph: Graph,
    scenario: str,
    *,
    nodes: int = 1,
    repeats: int = 100,
    warmup: int = 5,
    seed: int = 0,
) -> dict[str, Latency]:
    """The latency of several networks by name, one call of each in turn; see `compare`."""
    if scenario not in SCENARIOS:
        raise unknown("scenario", scenario, SCENARIOS)
    nodes = graph.num_nodes if scenario == "whole" else nodes
    if not 1 <= nodes <= graph.num_nodes or repeats < 1 or warmup < 0:
        raise ValueError(
            f"{nodes} nodes, {repeats} repeats and {warmup} to warm up: expected 1 to "
            f"{graph.num_nodes} nodes, 1 repeat or more and 0 or more to warm up"
        )
    draw, device = generator(seed, "latency"), graph.x.device
    seconds: dict[str, list[float]] = {name: [] for name in several}
    for network in several.values():
        network.eval()
    for turn in range(-warmup, repeats):
        asked = torch.randperm(graph.num_nodes, generator=draw)[:nodes].to(device)
        for name, network in several.items():
            spent = _seconds(_prepare(network, graph, scenario, asked), device)
            if turn >= 0:
                seconds[name].append(spent)
    return {name: Latency(scenario, nodes, tuple(times)) for name, times in seconds.items()}


def hops(network: nn.Module) -> int:
    """How far a network looks: the edges between a node and the farthest that it depends on.

    A module of the user's looks as far as it has layers of PyTorch Geometric's, or it is not known
    how far (`FAR`).
    """
    if isinstance(network, networks.MLP | FeatureModule | TableNetwork):
        return 0
    if isinstance(network, networks.APPNP):
        return network.steps
    if isinstance(network, networks.SGC):
        return int(network.layer.K)
    if isinstance(network, TeacherEnsemble):
        return max(map(hops, network.teachers))
    if isinstance(network, Boosted):
        return max(map(hops, network.students))
    if isinstance(network, Propagation):
        return network.rounds + hops(network.network)
    if type(network) in networks.NETWORKS.values():
        return int(getattr(network, "hops", len(network.layers)))  # type: ignore[arg-type]
    from torch_geometric.nn import MessagePassing  # late: only a GNN of the user's comes here

    steps = [int(getattr(m, "K", 1)) for m in network.modules() if isinstance(m, MessagePassing)]
    return sum(steps) or FAR


def _prepare(
    network: nn.Module, graph: Graph, scenario: str, nodes: Tensor
) -> Callable[[], object]:
    """What is timed, with everything done before that the scenario does not count."""
    if scenario == "whole":
        return lambda: network(graph)
    asked = None if isinstance(graph, Graphs) else torch.arange(len(nodes), device=nodes.device)
    if scenario == "cold":
        return lambda: network(_fetch(network, graph, nodes), asked)
    fetched = _fetch(network, graph, nodes)
    network(fetched, asked)
    return lambda: network(fetched, asked)


def _fetch(network: nn.Module, graph: Graph, nodes: Tensor) -> Graph:
    """A graph that starts with these nodes and has all others that the network looks at."""
    if isinstance(graph, Graphs):
        return graph.cut(nodes)
    return neighbourhood(graph, nodes, hops(network))[0]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
