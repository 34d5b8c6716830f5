"""Graphs of several parties side by side: what the numbers of nodes stand for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.graph import Graph
from graphkd.ops import sparse
from graphkd.ops.sparse import Matrix, Rows

T = TypeVar("T")
KEPT = 8  # of what is worked out, so many are kept: a cohort that is drawn is another each time
NOBODY = 0  # the number that is no node's


class SideBySide(NamedTuple):
    """K blocks for K models, each padded to the height H of the highest by nodes without edges.

    Shapes:
        adjacency: (K H, K H), block-diagonal.
        features: sparse (K H, K D), block-diagonal; or, where features are dense, (K, H, D), the
            adjacency times the features.
    """

    adjacency: Matrix
    features: Matrix | Tensor
    height: int


class Union:
    """Graphs side by side, the blocks, with no edge between two of them.

    Node i of block b has the number `starts[b] + i`. Number 0 is nobody's: padding may point there.

    Shapes:
        table: (N + 1, 1) the numbers themselves, whole: the inputs of all networks.
        y: (N + 1,) labels; of nobody, and of blocks that are not here, 0.
        starts: (blocks,); owner: (N + 1,) the block of each node, of nobody -1.
    """

    whole = True  # a few nodes of a block cost as much as all

    def __init__(self, blocks: Sequence[Graph | int]) -> None:
        """The blocks, in order; a number stands for one of so many nodes that is not here."""
        self._blocks = {b: one for b, one in enumerate(blocks) if isinstance(one, Graph)}
        sizes = torch.tensor([one if isinstance(one, int) else one.num_nodes for one in blocks])
        self.starts = 1 + sizes.cumsum(0) - sizes
        numbers = torch.arange(len(blocks)).repeat_interleave(sizes)
        self.owner = torch.cat([torch.tensor([-1]), numbers])
        self.table = torch.arange(len(self.owner)).unsqueeze(1)
        labels = [self.starts.new_zeros(b) if isinstance(b, int) else b.y for b in blocks]
        self.y = torch.cat([torch.tensor([0]), *labels])
        any_of_them = next(iter(self._blocks.values()))
        self.features, self.classes = any_of_them.x.shape[1], any_of_them.classes
        self._known: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is worked out is worked out again elsewhere."""
        return self.__dict__ | {"_known": {}}

    def __deepcopy__(self, memo: Any) -> "Union":
        return self  # it does not change, and networks that are copied have it in common

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def held(self) -> frozenset[int]:
        """The blocks whose graphs are here."""
        return frozenset(self._blocks)

    def numbers(self, block: int) -> Tensor:
        """(n,) the numbers of the nodes of a block."""
        return self.starts[block] + torch.arange(self._size(block))

    def only(self, numbers: Tensor) -> "Union":
        """The same numbers, with none but the graphs in which some nodes are."""
        kept = set(self.owner[numbers.cpu()].tolist())
        other = object.__new__(Union)
        other.__dict__ = self.__getstate__()
        other._blocks = {b: graph for b, graph in self._blocks.items() if b in kept}
        return other

    def contents(self, x: Tensor) -> int:
        """Bytes of the graphs in which nodes (n, 1) are, all of each."""
        owner = self.owner[x[:, 0].long().cpu()].unique()
        return sum(self._block(b).nbytes for b in owner.tolist() if b >= 0)

    def block(self, number: int, device: torch.device) -> Graph:
        """The graph of a block.

        Raises:
            LookupError: it is not here.
        """
        return self._once(("block", number, device), lambda: self._block(number).to(device))

    def found(self, x: Tensor) -> tuple[Graph, Tensor]:
        """The graph in which nodes (B, 1) are, and their places there, (B,); of nobody any place.

        Of several blocks it is these side by side, in their order.
        """
        numbers = x[..., 0]
        device = numbers.device
        owner = self._on("owner", device)[numbers]
        blocks = tuple(b for b in owner.unique().tolist() if b >= 0) or (min(self._blocks),)
        if len(blocks) == 1:
            places = numbers - self._on("starts", device)[blocks[0]]
            return self.block(blocks[0], device), places.clamp(min=0)
        graph, moved = self._once(("side", blocks, device), lambda: self._in_one(blocks, device))
        return graph, (numbers - moved[owner]).clamp(min=0)

    def alone(self, x: Tensor) -> tuple[int, ...] | None:
        """The block of each of K sets of nodes (K, B, 1); None where one is of several."""
        owner = self._on("owner", x.device)[x[..., 0]]
        blocks = owner.amax(dim=1)
        fits = ((owner == blocks.unsqueeze(1)) | (owner < 0)).all() & (blocks >= 0).all()
        return tuple(blocks.tolist()) if bool(fits) else None

    def places(self, x: Tensor, blocks: Sequence[int]) -> Tensor:
        """(K, B) places in K blocks of nodes (K, B, 1); of nobody the first."""
        starts = self._on("starts", x.device)[list(blocks)]
        return (x[..., 0] - starts.unsqueeze(1)).clamp(min=0)

    def side_by_side(
        self, blocks: tuple[int, ...], adjacency: str, device: torch.device
    ) -> SideBySide:
        """Blocks for as many models, with the adjacency of this name (an attribute of `Graph`)."""
        key = "stack", blocks, adjacency, device
        graphs = [self.block(b, device) for b in blocks]
        return self._once(key, lambda: _padded_side_by_side(graphs, adjacency))

    def highest(self, blocks: Sequence[int]) -> int:
        """How many nodes the largest of some blocks has."""
        return max(map(self._size, blocks))

    def _block(self, number: int) -> Graph:
        if number not in self._blocks:
            raise LookupError(f"the graph of block {number} is not here; {self._said()}")
        return self._blocks[number]

    def _said(self) -> str:
        return f"here are those of {', '.join(map(str, sorted(self._blocks))) or 'none'}"

    def _size(self, block: int) -> int:
        ends = [*self.starts[1:].tolist(), len(self.owner)]
        return int(ends[block] - self.starts[block])

    def _in_one(self, blocks: tuple[int, ...], device: torch.device) -> tuple[Graph, Tensor]:
        """Blocks as one graph; and by how much its places differ from numbers, for each block."""
        graphs = [self._block(b) for b in blocks]
        starts = _starts([graph.num_nodes for graph in graphs])
        edges = [g.edge_index + start for g, start in zip(graphs, starts, strict=True)]
        x, y = torch.cat([g.x for g in graphs]), torch.cat([g.y for g in graphs])
        moved = torch.zeros(len(self) + 1, dtype=torch.long)  # the last: of nobody, who is at -1
        moved[list(blocks)] = self.starts[list(blocks)] - torch.tensor(starts)
        graph = Graph(x, torch.cat(edges, dim=1), y, self.classes, "side by side")
        return graph.to(device), moved.to(device)

    def _on(self, name: str, device: torch.device) -> Tensor:
        own: Tensor = getattr(self, name)
        if own.device == device:
            return own
        return self._once((name, device), lambda: own.to(device))

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What is worked out, kept for as long as there are not many newer ones of its kind."""
        if key not in self._known:
            self._known[key] = make()
            same = [k for k in self._known if k[0] == key[0]]
            if key[0] in ("side", "stack") and len(same) > KEPT:
                del self._known[same[0]]
        found: T = self._known[key]
        return found


def _padded_side_by_side(graphs: Sequence[Graph], adjacency: str) -> SideBySide:
    height = max(graph.num_nodes for graph in graphs)
    own = [getattr(graph, adjacency) for graph in graphs]
    mixed = sparse.block_diagonal([_padded(one, height, height) for one in own])
    given = [graph.features for graph in graphs]
    if all(isinstance(one, Matrix) for one in given):
        wide = [_padded(one, height, one.transposed.offsets.numel() - 1) for one in _sparse(given)]
        return SideBySide(mixed, sparse.block_diagonal(wide), height)
    dense = [getattr(graph, f"{adjacency}_features") for graph in graphs]
    taller = [F.pad(one, (0, 0, 0, height - len(one))) for one in dense]
    return SideBySide(mixed, torch.stack(taller), height)


def _sparse(given: Sequence[Matrix | Tensor]) -> Iterator[Matrix]:
    return (one for one in given if isinstance(one, Matrix))


def _padded(matrix: Matrix, rows: int, columns: int) -> Matrix:
    """The matrix with rows and columns of nothing behind its own."""
    return Matrix(_longer(matrix.rows, rows), _longer(matrix.transposed, columns), matrix.order)


def _longer(rows: Rows, count: int) -> Rows:
    more = rows.offsets[-1:].expand(count + 1 - len(rows.offsets))
    return replace(rows, offsets=torch.cat([rows.offsets, more]))


def _starts(sizes: Sequence[int]) -> list[int]:
    found = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    return [int(one) for one in found]
