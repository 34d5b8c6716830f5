"""Sets of nodes as people have them: a mask (N,), masks (N, S), ids, or the names of nodes.

Of several masks, as some data sets of PyTorch Geometric have them, a seed takes the one of its own
number modulo S.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkd.graph import Graph

SAYS = {"train": "train", "val": "val", "tran": "test", "ind": "held_out"}  # in messages


def ids(graph: Graph, part: str, given: Any, seed: int) -> Tensor:
    """The sorted ids of nodes that are given as a mask, as ids, or by their names."""
    if not isinstance(given, Tensor):
        given = torch.as_tensor(_numbers(graph, part, np.asarray(list(given))))
    found: Tensor = given.cpu()
    if found.dtype == torch.bool:
        return _masked(graph, part, found, seed)
    n, found = graph.num_nodes, found.reshape(-1)
    if found.is_floating_point() and (found.frac() != 0).any():
        raise ValueError(f"the part {SAYS[part]} has ids that are no whole numbers; give node ids")
    found = found.long().sort().values
    if len(found) and not 0 <= found[0] <= found[-1] < n:
        wrong = int(found[0] if found[0] < 0 else found[-1])
        raise ValueError(
            f"the part {SAYS[part]} has the node {wrong}; {graph.name} has nodes 0 to {n - 1}"
        )
    return found


def _masked(graph: Graph, part: str, mask: Tensor, seed: int) -> Tensor:
    mask = mask[:, seed % mask.shape[1]] if mask.ndim == 2 and mask.shape[1] else mask
    if mask.shape != (graph.num_nodes,):
        raise ValueError(
            f"the mask {SAYS[part]} is {tuple(mask.shape)}; expected one value for each of the "
            f"{graph.num_nodes} nodes of {graph.name}"
        )
    return mask.nonzero()[:, 0]


def chosen(parts: Mapping[str, Any], seed: int) -> list[str]:
    """Which of several masks a seed takes, in words; [] if there is one of each."""
    many = [mask for mask in parts.values() if isinstance(mask, Tensor | np.ndarray)]
    counts = {mask.shape[1] for mask in many if mask.ndim == 2 and mask.shape[1] > 1}
    return [f"of {count} masks of a part number {seed % count} is taken" for count in counts]


def _numbers(graph: Graph, part: str, given: np.ndarray) -> np.ndarray:
    """The ids of nodes by name, where the graph has names; else what was given."""
    if not given.size:
        return np.zeros(0, dtype=np.int64)
    if not graph.node_names or given.dtype == bool:
        return given
    place = {name: i for i, name in enumerate(graph.node_names)}
    for node in given.tolist():
        if node not in place:
            raise ValueError(
                f"the part {SAYS[part]} has the node {node!r}; {graph.name} has nodes such as "
                f"{', '.join(map(repr, graph.node_names[:3]))}"
            )
    return np.asarray([place[node] for node in given.tolist()], dtype=np.int64)


def check_parts(graph: Graph, parts: Mapping[str, Tensor]) -> None:
    """Every part has nodes, each of them once and with a label, and shares none."""
    for name, ids in parts.items():
        if not len(ids):
            raise ValueError(f"the part {SAYS[name]} is empty; give it one node or more")
        if len(bare := ids[~graph.labelled.cpu()[ids]]):
            raise ValueError(
                f"{len(bare)} nodes of the part {SAYS[name]} have no label, first "
                f"{_called(graph, int(bare[0]))}; take them out of it: they stay in the graph"
            )
    joined = torch.cat(list(parts.values()))
    if len(twice := (torch.bincount(joined) > 1).nonzero()[:, 0]):
        node = int(twice[0])
        where = [SAYS[name] for name, ids in parts.items() for _ in range(int((ids == node).sum()))]
        raise ValueError(
            f"{len(twice)} nodes are in two parts or twice in one, first {_called(graph, node)} in "
            f"{' and '.join(where[:2])}; each node is in one part, once"
        )


def _called(graph: Graph, node: int) -> str:
    return repr(graph.node_names[node]) if graph.node_names else str(node)
