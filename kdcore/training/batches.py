"""Which examples a training sees, in which order: drawn beforehand, so that training is pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kdcore.devices import moved
from kdcore.rng import in_turn
from kdcore.training.optimizers import TrainingConfig

DRAWN = 2**22  # chances of an example to be in a step that are drawn at once


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


NONE = torch.empty(0, dtype=torch.long, device="cpu")
NOBODY = -1  # in the place of a row, or of a seed, where there is none


class Batches(NamedTuple):
    """Shuffled, padded mini-batches, drawn before training begins.

    Of DP-SGD each is drawn for itself, and a record may be in many of them or in none: so the
    records have a list of their own, and a batch without any example is a step like the others.

    Shapes:
        x: (N, ...) features and y: (N, ...) targets: labels, or one row of probabilities each;
            either may be a tuple of such tables.
        order: (S, B) rows of x and y; mask: (S, B) bool, whether it is an example or padding.
        size: () how many different examples there are, a whole number.
        noise: (S,) seeds of the noise that is added at each step, or -1 behind the last step; empty
            where training is not private.
        own: (M,) the rows of all records, or -1 behind the last; empty where epochs go through all.
    """

    x: Any
    y: Any
    order: Tensor
    mask: Tensor
    size: Tensor
    noise: Tensor = NONE
    own: Tensor = NONE

    @property
    def steps(self) -> int:
        """S, the number of mini-batches over all epochs."""
        return self.order.shape[0]

    @property
    def records(self) -> tuple[Tensor, Tensor]:
        """Rows of x, and which of them stand for a record, each record once: (M,), (M,) bool.

        Of epochs those are the examples of the first, M = S B; what comes behind are padding and
        repetitions.
        """
        if len(self.own):
            return self.own.clamp(min=0), self.own != NOBODY
        mask = self.mask.flatten().bool()
        return self.order.flatten(), mask & (mask.cumsum(dim=0) <= self.size)

    def examples(self) -> tuple[Tensor, ...]:
        """The rows of each mini-batch, without padding: S tensors, of which some may be empty.

        All at once, as a device is waited for at each question of how many there are.
        """
        mask = self.mask.bool()
        found: tuple[Tensor, ...] = self.order[mask].split(mask.sum(dim=1).tolist())
        return found

    def padded(self, steps: int) -> "Batches":
        """The same batches followed by all-padding ones, `steps` in total."""
        more = steps - self.steps
        missing, seeds = (more, self.order.shape[1]), more if len(self.own) else 0
        return self._replace(
            order=torch.cat([self.order, self.order.new_zeros(missing)]),
            mask=torch.cat([self.mask, self.mask.new_zeros(missing)]),
            noise=torch.cat([self.noise, self.noise.new_full((seeds,), NOBODY)]),
        )


def draw(examples: Examples, training: TrainingConfig, generator: torch.Generator) -> Batches:
    """Cut examples into shuffled mini-batches, anew for each epoch; the last one is padded.

    No example is dropped: a client with a single example trains on it in every epoch. The padding
    repeats examples of the client's own, so that nobody's else are ever touched. Where steps are
    counted, the last epoch ends when there are enough; nobody trains on no examples.

    With `training.privacy` each step takes every example with probability `rate_of`, whatever the
    other steps and examples do, and none is cut off: batches are as wide as the largest.
    """
    return _drawn([examples], training, lambda places: [generator])[0]


def draw_all(
    examples: Sequence[Examples], training: TrainingConfig, seeds: Sequence[int]
) -> list[Batches]:
    """`draw` for each of some clients, by a generator of its seed; they move in few copies.

    Shuffles are drawn on the CPU, the same for any device, and those of one length are cut at once.
    A mini-batch of all examples has as many places as the largest client has examples.
    """
    return _drawn(examples, training, lambda places: in_turn(seeds[place] for place in places))


def _drawn(
    examples: Sequence[Examples],
    training: TrainingConfig,
    streams: Callable[[Sequence[int]], Iterable[torch.Generator]],
) -> list[Batches]:
    """The mini-batches of each; `streams` gives the generators of those at some places, in turn."""
    if not examples:
        return []
    if training.privacy is not None:
        return _poisson_all(examples, training, streams(range(len(examples))))
    lengths = [own.rows.shape[0] for own in examples]
    alike: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        alike.setdefault(length, []).append(place)
    held = moved([own.rows for own in examples], "cpu")
    width = training.batch_size or max(1, *lengths)
    cut: dict[int, tuple[Tensor, Tensor]] = {}
    for places in alike.values():
        own = torch.stack([held[place] for place in places])
        order, mask = _cut(own, training, width, streams(places))
        cut |= {place: (one, mask) for place, one in zip(places, order.unbind(), strict=True)}
    orders, masks = zip(*(cut[place] for place in range(len(examples))), strict=True)
    sizes = torch.tensor(lengths, device="cpu").unbind()
    there = moved([*orders, *masks, *sizes], leading(examples[0].x).device)
    drawn = (there[place :: len(examples)] for place in range(len(examples)))
    return [
        Batches(own.x, own.y, order, mask, size)
        for own, (order, mask, size) in zip(examples, drawn, strict=True)
    ]


def _cut(
    rows: Tensor, training: TrainingConfig, width: int, streams: Iterable[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """The mini-batches of clients with as many examples: (K, M) -> (K, S, B), and a mask (S, B)."""
    count = rows.shape[1]
    once = -(-count // width)
    steps = steps_of(count, training)
    epochs = -(-steps // max(once, 1))
    shuffles = torch.empty(len(rows), epochs, count, dtype=torch.long, device="cpu")
    shuffle = iter(shuffles.flatten(0, 1).unbind())
    for stream, _ in zip(streams, rows, strict=True):
        for _ in range(epochs):
            torch.randperm(count, generator=stream, out=next(shuffle))
    order = rows.gather(1, shuffles.flatten(1)).view(shuffles.shape)
    places = torch.arange(once * width, device="cpu")
    if once * width > count:
        order = order[..., places % max(count, 1)]
    mask = (places < count).repeat(epochs).view(-1, width)
    return order.reshape(len(rows), -1, width)[:, :steps], mask[:steps]


def steps_of(count: int, training: TrainingConfig) -> int:
    """S, how many mini-batches there are of so many examples: none of none."""
    if training.steps is not None:
        return training.steps * min(count, 1)
    return training.epochs * -(-count // (training.batch_size or max(count, 1)))


def rate_of(count: int, training: TrainingConfig) -> float:
    """With which probability a step of DP-SGD takes one of so many examples."""
    return min(1.0, training.batch_size / max(count, 1))


def _poisson_all(
    examples: Sequence[Examples], training: TrainingConfig, streams: Iterable[torch.Generator]
) -> list[Batches]:
    """`_drawn` for DP-SGD: steps drawn one by one, and a seed for the noise of each."""
    drawn = []
    for rows, stream in zip(moved([own.rows for own in examples], "cpu"), streams, strict=True):
        order, mask = _poisson(rows, training, stream)
        noise = torch.randint(2**62, (len(order),), generator=stream, device="cpu")
        size = torch.tensor(len(rows), device="cpu")
        own = rows if len(rows) else torch.full((1,), NOBODY, device="cpu")
        drawn.append((order, mask, size, noise, own))
    flat = moved([table for tables in drawn for table in tables], leading(examples[0].x).device)
    several = len(flat) // len(examples)
    each = (flat[k * several : (k + 1) * several] for k in range(len(examples)))
    return [Batches(own.x, own.y, *tables) for own, tables in zip(examples, each, strict=True)]


def _poisson(
    rows: Tensor, training: TrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each row in each step with the same probability: (M,) -> (S, B), and a mask (S, B)."""
    count = len(rows)
    steps, rate = steps_of(count, training), rate_of(count, training)
    found = []
    for first in range(0, steps, several := max(1, DRAWN // max(count, 1))):
        shape = min(several, steps - first), count
        chance = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        taken = chance < rate
        found.append((taken.sum(dim=1), rows[taken.nonzero()[:, 1]]))
    if not found:
        return rows.new_empty(0, 1), torch.empty(0, 1, dtype=torch.bool, device="cpu")
    counts, places = map(torch.cat, zip(*found, strict=True))
    mask = torch.arange(max(1, int(counts.max())), device="cpu") < counts.unsqueeze(1)
    order = rows[:1].expand(mask.shape).clone()
    order[mask] = places
    return order, mask


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
    if isinstance(table, Tensor):  # nearly always, and a tree takes longer than its rows
        return _rows(table, index)
    return tree_map(lambda one: _rows(one, index), table)


def taken(table: Any, index: Tensor) -> Any:
    """Rows of tables (1 or K, N, ...) at an index (1 or K, B): (1 or K, B, ...)."""
    if isinstance(table, tuple):
        return tuple(taken(one, index) for one in table)
    if len(table) == 1:
        found: Tensor = rows(table[0], index)
        return found
    offset = torch.arange(len(table), device=index.device).unsqueeze(1) * table.shape[1]
    return rows(table.flatten(0, 1), index + offset)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    if not table.is_floating_point():
        return table[index]
    found = torch.nn.functional.embedding(index, table.reshape(len(table), -1))
    return found.reshape(*index.shape, *table.shape[1:])
