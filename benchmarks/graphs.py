"""Graph networks: training steps, stacked seeds, a loss over all edges, sampling and latency.

Against PyG's message passing on `edge_index` with the same weights. `large` and `edges` take up to
8 GB on a drawn graph of 170,000 nodes, and of `large` there is one pair: run them alone.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks import plain_graphs
from benchmarks.harness import compare, comparison, interleaved, machine, profile, seconds
from graphkd import losses
from graphkd.core import TeacherSpec, View
from graphkd.data import datasets, neighbor_sampling, splits, synthetic
from graphkd.evaluation import latency
from graphkd.graph import Graph
from graphkd.models.stacked import stack as stack_parameters
from graphkd.training import loop
from graphkd.training import stacked as stack
from kdcore.outputs import Outputs
from kdcore.rng import generator

SEEDS, EPOCHS, FANOUTS, BATCH = 10, 50, (10, 5), 1024
FEW = 10  # epochs, of what takes long
WIDTHS = {"gcn": 256, "sage": 256, "gat": 64, "gatv2": 64}
RECIPES = {
    "mlp": TeacherSpec("mlp", 128, 2, 0.6, 0.01, 5e-3, EPOCHS, EPOCHS),
    "gcn": TeacherSpec("gcn", 64, 2, 0.8, 0.01, 1e-3, EPOCHS, EPOCHS),
}


def cora() -> Graph:
    """Cora, or a drawn graph of its size where its files are missing: speed is about the same."""
    try:
        return datasets.load("cora")
    except FileNotFoundError:
        drawn = synthetic.blocks(2708, 5278, 1433, 7, name="drawn, of Cora's size")
        keep = torch.rand(drawn.x.shape, generator=generator(0, "zeros")) < 0.0127
        return Graph(keep.float(), drawn.edge_index, drawn.y, drawn.classes, drawn.name)


def build(name: str, graph: Graph, width: int) -> nn.Module:
    how = TeacherSpec(name, width, 2, 0.0, 0.01, 0.0, 1, 1)
    return loop.build(how, graph, 0, "teacher").train()


def step(logits: Callable[[], Tensor], model: nn.Module, y: Tensor) -> Callable[[], float]:
    """Forward and backward over the whole graph; gives the loss."""

    def run() -> float:
        model.zero_grad()
        loss = F.cross_entropy(logits(), y)
        loss.backward()
        return float(loss.detach())

    return run


def steps(graph: Graph, names: Sequence[str], repeats: int) -> None:
    for name in names:
        network = build(name, graph, WIDTHS.get(name, 256))
        plain = plain_graphs.Plain(network, graph)
        slow = step(plain, network, graph.y)
        fast = step(lambda network=network: network(graph).logits, network, graph.y)
        gap = abs(slow() - fast())  # which warms up both as well
        assert gap < 1e-4, gap
        times = interleaved({"slow": slow, "fast": fast}, repeats, uncounted=0)
        ratio = comparison(times["slow"], times["fast"])
        print(f"  {name:5} PyG edge_index / graphkd ", ratio, flush=True)


def small(repeats: int) -> None:
    graph = cora()
    print(f"\nA training step on {graph.name}, {graph.num_nodes} nodes")
    steps(graph, ("gcn", "sage", "gat", "gatv2"), 10 * repeats)


def large(repeats: int) -> None:
    graph = datasets.load("sbm-170k")
    print(f"\nA training step on {graph.name}, {graph.edge_index.shape[1]} directed edges")
    steps(graph, ("gcn", "sage", "gat", "gatv2"), 1)


def members(how: TeacherSpec, views: Sequence[View]) -> list[stack.Member]:
    found = []
    for seed, view in enumerate(views):
        network = loop.build(how, view.graph, seed, "teacher")
        passes = stack.labels(view.graph, view.part("train"))
        found.append(stack.Member(network, view.graph, view.part("val"), passes, seed))
    return found


class Seeds(NamedTuple):
    """Some seeds of a recipe, each on a split of its own."""

    how: TeacherSpec
    views: Sequence[View]

    def stacked(self) -> None:
        """All of them as one stack."""
        for _ in stack.fit("teacher", self.how, members(self.how, self.views)):
            pass

    def in_turn(self) -> None:
        """One after another, by our own loop."""
        how = self.how
        for one in members(how, self.views):
            run = stack.alone(one.graph, one.passes)
            loop.finish(loop.fit("teacher", one.network, how, one.graph, one.val, run, one.seed))

    def by_pyg(self) -> None:
        """One after another, by a plain loop and PyG's layers."""
        how = self.how
        for one, view in zip(members(how, self.views), self.views, strict=True):
            model = plain_graphs.Plain(one.network, one.graph)
            parts = view.part("train"), view.part("val")
            plain_graphs.fit(model, one.graph.y, *parts, how.lr, how.weight_decay, how.epochs)


def seeds(epochs: int) -> dict[str, Seeds]:
    graph = cora()
    print(f"\n{SEEDS} seeds on {graph.name}, {epochs} epochs each, every seed a split of its own")
    views = [splits.split(graph, "transductive", seed).view("train") for seed in range(SEEDS)]
    return {
        name: Seeds(how._replace(epochs=epochs, patience=epochs), views)
        for name, how in RECIPES.items()
    }


def stacked(repeats: int) -> None:
    for name, some in seeds(EPOCHS).items():
        print(f"  {name}  graphkd in turn / stacked", compare(some.in_turn, some.stacked, repeats))
        print(f"  {profile(some.stacked)}")
        limit([tensor for layer in stack_of(some) for tensor in layer], repeats)


def pyg(repeats: int) -> None:
    for name, some in seeds(FEW).items():
        ratio = compare(some.by_pyg, some.stacked, repeats)
        print(f"  {name}  PyG in turn / stacked    ", ratio, flush=True)


def stack_of(some: Seeds) -> list[tuple[Tensor, Tensor]]:
    return stack_parameters([one.network for one in members(some.how, some.views)])


def limit(parameters: Sequence[Tensor], repeats: int) -> None:
    """How near Adam's step comes to what memory gives: it reads four tables and writes three."""
    for tensor in parameters:
        tensor.grad = torch.rand_like(tensor)
    source = torch.cat([tensor.detach().flatten() for tensor in parameters])
    target = torch.empty_like(source)
    works: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    for name, how in (("fused", {"fused": True}), ("foreach", {"foreach": True})):
        works[name] = torch.optim.Adam(parameters, 1e-3, weight_decay=5e-4, **how).step
    times = interleaved(works, 10 * repeats)
    took = {name: statistics.median(one.cpu for one in each) for name, each in times.items()}
    moved = source.nbytes / 1e9
    print(
        f"       Adam on {1e3 * moved:.1f} MB of weights: {1e3 * took['fused']:.2f} ms fused, "
        f"{7 * moved / took['fused']:.0f} GB/s ({1e3 * took['foreach']:.2f} ms by foreach); a copy "
        f"of them {2 * moved / took['copy']:.0f} GB/s",
        flush=True,
    )


def hidden_states() -> tuple[Graph, Tensor, Tensor]:
    graph = datasets.load("sbm-170k")
    draw = generator(0, "hidden states")
    h = [torch.randn(graph.num_nodes, 64, generator=draw) * 0.1 for _ in range(2)]
    return graph, h[0].requires_grad_(), h[1]


def gathered() -> Callable[[], object]:
    graph, h, t = hidden_states()
    return lambda: plain_graphs.local_structure(h, t, graph.edge_index).mean().backward()


def streamed() -> Callable[[], object]:
    graph, h, t = hidden_states()
    student, teacher = Outputs(graph.x, (h,)), Outputs(graph.x, (t,))
    return lambda: losses.local_structure(student, teacher, graph).mean().backward()


def sampled() -> Callable[[], object]:
    """Twenty steps on sampled batches of a SAGE of width 256."""
    graph = datasets.load("sbm-170k")
    network = build("sage", graph, 256)
    optimiser = torch.optim.Adam(network.parameters())
    nodes = torch.arange(20 * BATCH)

    def epoch() -> None:
        for part, _ in neighbor_sampling.batches(
            graph, nodes, BATCH, FANOUTS, generator(0, "batches")
        ):
            optimiser.zero_grad()
            seeds = torch.arange(BATCH)
            F.cross_entropy(network(part, seeds).logits, part.y[:BATCH]).backward()
            optimiser.step()

    return epoch


def peak(name: str) -> None:
    """Run a workload of this file once; print its peak memory in GB, and that above its inputs."""
    torch.set_num_threads(1)
    work = globals()[name]()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what drawing the graph took is no part of it
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    work()
    print(status("VmHWM"), status("VmHWM") - before)


def status(name: str) -> float:
    """A figure of this process from Linux, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith(f"{name}:"))


def memory(name: str) -> str:
    """The peak memory of a workload of this file, in a process of its own."""
    code = f"from benchmarks.graphs import peak; peak({name!r})"
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    whole, above = map(float, found.stdout.split())
    return f"{whole:.2f} GB, {above:.2f} GB above its inputs"


def edges(repeats: int) -> None:
    print("\nLSP over all edges of sbm-170k, width 64, forward and backward")
    print("  gather both ends / graphkd ", compare(gathered(), streamed(), min(repeats, 3)))
    print(f"  peak memory, both ends gathered: {memory('gathered')}")
    print(f"  peak memory, graphkd: {memory('streamed')}", flush=True)


def batches(repeats: int) -> None:
    print(f"\nSampled training on sbm-170k, SAGE 256, {BATCH} seeds, fan-out {FANOUTS}")
    graph = datasets.load("sbm-170k")
    seeds, draw = torch.arange(BATCH), generator(0, "seeds")
    for replacement in (False, True):

        def run(replacement: bool = replacement) -> None:
            neighbor_sampling.subgraph(graph, seeds, FANOUTS, draw, replacement=replacement)

        run()
        spent = min(seconds(run) for _ in range(5 * repeats))
        how = "with" if replacement else "without"
        print(f"  a batch drawn {how} replacement: {spent * 1e3:.1f} ms", flush=True)
    epoch = sampled()
    print(f"  a step: {seconds(epoch) / 20 * 1e3:.0f} ms")
    print(f"  peak memory: {memory('sampled')}", flush=True)


def served(repeats: int) -> None:
    for graph, name, width in ((cora(), "gcn", 64), (datasets.load("sbm-170k"), "sage", 256)):
        print(f"\nLatency on {graph.name}: {name} {width} as teacher, mlp {width} as student")
        serve(graph, build(name, graph, width), build("mlp", graph, width), repeats)


def serve(graph: Graph, teacher: nn.Module, student: nn.Module, repeats: int) -> None:
    for scenario, nodes in (("cold", 1), ("cold", 64), ("warm", 64), ("whole", 1)):
        slow = scenario == "whole" and graph.num_nodes > stack.LARGE
        calls = (4 if slow else 20) * repeats
        found = latency.compare(teacher, student, graph, scenario, nodes=nodes, repeats=calls)
        print(f"  teacher  {found.teacher}\n  student  {found.student}")
        print(f"  teacher / student {found.speedup:.1f}x", flush=True)


WORKLOADS = {
    "small": small,
    "stacked": stacked,
    "pyg": pyg,
    "served": served,
    "batches": batches,
    "edges": edges,
    "large": large,
}
QUICK = ("small", "stacked", "pyg", "batches")


def main() -> None:
    """Time the workloads and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=QUICK, help=", ".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"unknown workload {min(unknown)}; choose from {', '.join(WORKLOADS)}")
    torch.set_num_threads(options.threads)
    print(machine())
    for name in options.workloads:
        WORKLOADS[name](options.repeats)


if __name__ == "__main__":
    main()
