"""What becomes of nodes, or of whole graphs: settings, which need no graph to be read."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kdcore.settings import Setting, check_ranges

BY_EDGES = ("louvain", "greedy", "natural", "random")
"""Partitions of `fedgraphkd.partition` that are of graphs alone."""
OF_WHOLE = ("natural", "random", "size")
"""And those of many graphs, of which each goes to one client."""


@dataclass(frozen=True)
class NodeShares:
    """What becomes of the nodes of a graph; what is left is tested on."""

    train: Annotated[
        float, Setting("share of the private nodes of each class to train on", gt=0, lt=1)
    ] = 0.2
    validation: Annotated[float, Setting("share of them to select on", ge=0, lt=1)] = 0.4
    public: Annotated[
        float, Setting("share of all nodes that all may see, without labels", ge=0, lt=1)
    ] = 0.1
    public_edges: Annotated[bool, Setting("whether public nodes come with their edges")] = True
    edges: Annotated[
        Literal["cut", "kept"],
        Setting("edges between clients: cut, or kept as a control, all clients seeing all nodes"),
    ] = "cut"

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to test on."""
        check_ranges(self)
        _check_left(self.train, self.validation, "nodes")


@dataclass(frozen=True)
class GraphShares:
    """What becomes of whole graphs, each an example; what is left is tested on."""

    train: Annotated[float, Setting("share of a client's graphs to train on", gt=0, lt=1)] = 0.5
    validation: Annotated[float, Setting("share of them to select on", ge=0, lt=1)] = 0.2
    public: Annotated[
        float, Setting("share of all graphs that all may see, without labels", ge=0, lt=1)
    ] = 0.2

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to test on."""
        check_ranges(self)
        _check_left(self.train, self.validation, "graphs")


def _check_left(train: float, validation: float, what: str) -> None:
    if train + validation >= 1:
        raise ValueError(
            f"{what}.train {train:g} and {what}.validation {validation:g} leave no {what} to test "
            "on; they have to be below 1 together"
        )
