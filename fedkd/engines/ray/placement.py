"""Which workers find room on which machines: a pure function, asked before anything is started.

A worker takes cores and GPUs of one machine, and a fraction of a GPU is of one GPU: three workers
of 0.6 do not fit on two GPUs, though the sums would allow it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

GRAIN = 1e-4  # Ray counts resources in ten thousandths
TRIES = 20_000  # placements that are looked at before it is said that there is none

Free = tuple[int, tuple[int, ...]]  # of a machine, in grains: its cores, and each of its GPUs


class Share(NamedTuple):
    """What a worker takes of a machine; `gpus` may be a fraction of one."""

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
        """How many workers of a share it holds as long as it holds no others."""
        fractions = 0 < share.gpus < 1
        on_gpus = (
            _times(1, share.gpus) * _times(self.gpus, 1)
            if fractions
            else _times(self.gpus, share.gpus)
        )
        return min(_times(self.cpus, share.cpus), on_gpus)


def place(wanted: Sequence[Share], there: Sequence[Node]) -> list[int] | None:
    """The machine of each worker, by its place in `there`; None where they do not all fit.

    The largest come first, each to where the least is left over (best fit decreasing); where that
    leads nowhere, other placements are tried, so that small cases are answered exactly.
    """
    order = sorted(range(len(wanted)), key=lambda i: (-wanted[i].gpus, -wanted[i].cpus))
    sizes = [(_grains(wanted[i].cpus), _grains(wanted[i].gpus)) for i in order]
    start = tuple((_grains(n.cpus), (_grains(1),) * math.floor(n.gpus + GRAIN)) for n in there)
    chosen: list[int] = []
    open_ = [_choices(sizes[0], start)] if sizes else []
    seen, tries = set[tuple[int, tuple[Free, ...]]](), 0
    while len(chosen) < len(sizes):
        found = next(open_[-1], None)
        if found is None:
            open_.pop()
            if not open_:
                return None
            chosen.pop()
            continue
        node, after = found
        known = len(chosen), tuple(sorted(after))  # which machine is which makes no difference
        if known in seen:
            continue
        seen.add(known)
        tries += 1
        if tries > TRIES:
            return None
        chosen.append(node)
        if len(chosen) < len(sizes):
            open_.append(_choices(sizes[len(chosen)], after))
    return [node for _, node in sorted(zip(order, chosen, strict=True))]


def check_room(wanted: Sequence[Share], there: Sequence[Node]) -> None:
    """Raise ValueError for workers that cannot all be held, however they are placed.

    That others hold part of the machines only shows when they are started.

    Args:
        wanted: what each worker takes; it has to find all of that on one machine.
        there: the machines.
    """
    way_out = "take fewer workers, or smaller shares"
    for what, need, have in (
        ("CPU cores", sum(s.cpus for s in wanted), sum(node.cpus for node in there)),
        ("GPUs", sum(s.gpus for s in wanted), sum(node.gpus for node in there)),
    ):
        if need > have + GRAIN:
            raise ValueError(
                f"{_count(len(wanted))} with their shares need {need:g} {what}, and there are "
                f"{have:g}; {way_out}"
            )
    counts = Counter(wanted)
    for share, count in counts.items():
        if share.gpus > 1 and share.gpus % 1:
            raise ValueError(f"a share above one GPU has to be whole, got {share.gpus:g}")
        places = sum(node.places(share) for node in there)
        if places < count:
            raise ValueError(
                f"{_count(count)} of {share} each do not fit: {said(there)}, which is room for "
                f"{places:g} of them; {way_out}"
            )
    if place(wanted, there) is None:
        kinds = " and ".join(f"{_count(count)} of {share}" for share, count in counts.items())
        raise ValueError(f"{kinds} do not fit together: {said(there)}; {way_out}")


def said(there: Sequence[Node], most: int = 8) -> str:
    """The machines in words, the first few of them."""
    more = [f"and {len(there) - most} more"] if len(there) > most else []
    return ", ".join([*map(str, there[:most]), *more]) or "there is no machine"


def _choices(
    size: tuple[int, int], free: tuple[Free, ...]
) -> Iterator[tuple[int, tuple[Free, ...]]]:
    """Machines for a worker, best fit first, and what is then free of all."""
    found = []
    for (cpus, gpus), node in {one: node for node, one in reversed([*enumerate(free)])}.items():
        if cpus >= size[0]:  # of equal machines the first
            found += [(left, cpus - size[0], node) for left in _taken(size[1], gpus)]
    for gpus, cpus, node in sorted(found, key=lambda one: (sum(one[0]), one[1])):
        yield node, (*free[:node], (cpus, gpus), *free[node + 1 :])


def _taken(share: int, gpus: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What is free of a machine's GPUs after a share of them: a way for each that differs."""
    whole = _grains(1)
    if share > whole:
        if share % whole:
            return []
        free, others = gpus.count(whole), [g for g in gpus if g < whole]
        taken = share // whole
        return [(*others, *[whole] * (free - taken), *[0] * taken)] if free >= taken else []
    if not share:
        return [gpus]
    fitting = sorted({g for g in gpus if g >= share})
    return [tuple(sorted(_without(gpus, g) + [g - share])) for g in fitting]


def _without(gpus: tuple[int, ...], one: int) -> list[int]:
    place = gpus.index(one)
    return [*gpus[:place], *gpus[place + 1 :]]


def _grains(amount: float) -> int:
    return round(amount / GRAIN)


def _times(have: float, share: float) -> float:
    """How many shares there are in what a machine has."""
    return math.floor((have + GRAIN) / share) if share else math.inf


def _count(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"
