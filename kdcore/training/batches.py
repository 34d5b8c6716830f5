"""Which examples a training sees, in which order: drawn beforehand, so that training is pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kdcore.devices import moved
from kdcore.training.optimizers import TrainingConfig


@dataclass(frozen=True)
class Examples:
    """Some rows of a data set; the tensors may be shared with many others, the rows say which.

    Shapes:
        x: (N, ...) features, or a tuple of such tables where the network looks at several;
        y: (N,) labels; rows: (M,) indices into both, M <= N.
    """

    x: Any
    y: Tensor
    rows: Tensor

    def __len__(self) -> int:
        """How many examples there are, M."""
        return len(self.rows)

    def to(self, device: "torch.device | str | Moved") -> "Examples":
        """The same examples on a device."""
        move = device if isinstance(device, Moved) else Moved(device)
        return Examples(move(self.x), move(self.y), move(self.rows))


class Moved:
    """Moves tensors to a device, each once: those that many share are shared there too."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # the first is kept, so its id is taken

    def __call__(self, tree: Any) -> Any:
        """The tensors of a tree on the device."""
        return tree_map(lambda leaf: self._one(leaf) if isinstance(leaf, Tensor) else leaf, tree)

    def _one(self, value: Tensor) -> Tensor:
        if id(value) not in self._known:
            self._known[id(value)] = value, value.to(self._device)
        return self._known[id(value)][1]


class Batches(NamedTuple):
    """Shuffled, padded mini-batches, drawn before training begins.

    Shapes:
        x: (N, ...) features and y: (N, ...) targets: labels, or one row of probabilities each;
            either may be a tuple of such tables.
        order: (S, B) rows of x and y; mask: (S, B) bool, whether it is an example or padding.
        size: () how many different examples there are, a whole number.
    """

    x: Any
    y: Any
    order: Tensor
    mask: Tensor
    size: Tensor

    @property
    def steps(self) -> int:
        """S, the number of mini-batches over all epochs."""
        return self.order.shape[0]

    @property
    def first(self) -> Tensor:
        """(S B,) bool, whether an entry of the order is the first for its example.

        Those are the examples of the first epoch; what comes behind are padding and repetitions.
        """
        mask = self.mask.flatten().bool()
        return mask & (mask.cumsum(dim=0) <= self.size)

    def examples(self) -> tuple[Tensor, ...]:
        """The rows of each mini-batch, without padding: S tensors, of which some may be empty.

        All at once, as a device is waited for at each question of how many there are.
        """
        mask = self.mask.bool()
        found: tuple[Tensor, ...] = self.order[mask].split(mask.sum(dim=1).tolist())
        return found

    def padded(self, steps: int) -> "Batches":
        """The same batches followed by all-padding ones, `steps` in total."""
        missing = (steps - self.steps, self.order.shape[1])
        return self._replace(
            order=torch.cat([self.order, self.order.new_zeros(missing)]),
            mask=torch.cat([self.mask, self.mask.new_zeros(missing)]),
        )


def draw(examples: Examples, training: TrainingConfig, generator: torch.Generator) -> Batches:
    """Cut examples into shuffled mini-batches, anew for each epoch; the last one is padded.

    No example is dropped: a client with a single example trains on it in every epoch. The padding
    repeats examples of the client's own, so that nobody's else are ever touched. Where steps are
    counted, the last epoch ends when there are enough; nobody trains on no examples.
    """
    return draw_all([examples], training, [generator])[0]


def draw_all(
    examples: Sequence[Examples], training: TrainingConfig, generators: Sequence[torch.Generator]
) -> list[Batches]:
    """`draw` for each of some clients, who move to their device together, in few copies.

    Shuffles are drawn on the CPU, the same for any device, and those of one length are cut at once.
    """
    if not examples:
        return []
    alike: dict[int, list[int]] = {}
    for place, own in enumerate(examples):
        alike.setdefault(len(own), []).append(place)
    held = moved([own.rows for own in examples], "cpu")
    cut: dict[int, tuple[Tensor, Tensor]] = {}
    for places in alike.values():
        mine = [generators[place] for place in places]
        order, mask = _cut(torch.stack([held[place] for place in places]), training, mine)
        cut |= {place: (one, mask) for place, one in zip(places, order.unbind(), strict=True)}
    orders, masks = zip(*(cut[place] for place in range(len(examples))), strict=True)
    sizes = torch.tensor([len(own) for own in examples], device="cpu").unbind()
    there = moved([*orders, *masks, *sizes], leading(examples[0].x).device)
    drawn = (there[place :: len(examples)] for place in range(len(examples)))
    return [
        Batches(own.x, own.y, order, mask, size)
        for own, (order, mask, size) in zip(examples, drawn, strict=True)
    ]


def _cut(
    rows: Tensor, training: TrainingConfig, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """The mini-batches of clients with as many examples: (K, M) -> (K, S, B), and a mask (S, B)."""
    count, width = rows.shape[1], training.batch_size
    once = -(-count // width)
    steps = training.epochs * once if training.steps is None else training.steps * min(count, 1)
    epochs = -(-steps // max(once, 1))
    shuffles = torch.empty(len(rows), epochs, count, dtype=torch.long, device="cpu")
    for own, stream in zip(shuffles, generators, strict=True):
        for epoch in own:
            torch.randperm(count, generator=stream, out=epoch)
    order = rows.gather(1, shuffles.flatten(1)).view(shuffles.shape)
    places = torch.arange(once * width, device="cpu")
    if once * width > count:
        order = order[..., places % max(count, 1)]
    mask = (places < count).repeat(epochs).view(-1, width)
    return order.reshape(len(rows), -1, width)[:, :steps], mask[:steps]


def leading(x: Any) -> Tensor:
    """A table of inputs; of several, the first: all have as many rows, and lie in one place."""
    found: Tensor = tree_leaves(x)[0]
    return found


def shape_of(x: Any) -> tuple[Any, ...]:
    """The shape of one example of (N, ...); of a tuple of such tables, a tuple of shapes."""
    if isinstance(x, tuple):
        return tuple(shape_of(one) for one in x)
    return tuple(x.shape[1:])


def widths(shape: Sequence[Any]) -> list[int]:
    """How many numbers an example has in each of several inputs; empty where there is but one."""
    return [math.prod(one) for one in shape if isinstance(one, tuple | list)]


def side_by_side(x: tuple[Tensor, ...], kind: torch.dtype, axes: int = 1) -> Tensor:
    """Several inputs as one table of numbers, (N, D): each flattened, one beside the other.

    Args:
        x: the inputs, (N, ...) each.
        kind: the type of the numbers.
        axes: how many stand before those of an example: 1, or 2 for (K, N, ...), where one that
            all K models share is (1, N, ...).
    """
    count = max(len(one) for one in x)
    flat = [one.to(kind).flatten(axes) for one in x]
    if axes > 1:
        flat = [one.expand(count, *one.shape[1:]) for one in flat]
    return torch.cat(flat, dim=-1)


def rows(table: Any, index: Tensor) -> Any:
    """table[index] for the first axis; for a tuple of tables, the rows of each.

    Floating-point rows are gathered as an embedding, which is several times faster than indexing.
    """
    return tree_map(lambda one: _rows(one, index), table)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    if not table.is_floating_point():
        return table[index]
    found = torch.nn.functional.embedding(index, table.reshape(len(table), -1))
    return found.reshape(*index.shape, *table.shape[1:])
