"""How private examples are dealt out to clients.

Each function takes the labels (N,) of all private examples, the number of clients and a generator,
and returns one tensor of row numbers per client; together they hold every row exactly once.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heapreplace
from typing import Any

import torch
from torch import Tensor

from fedkd.data.capped_dirichlet import dirichlet_balanced, dirichlet_min
from fedkd.data.checks import enough, integers
from fedkd.data.datasets import Dataset
from fedkd.data.proportions import check_alpha, shares
from fedkd.targets import CLASSES, Target
from kdcore.registry import Registry, members

Partition = list[Tensor]
HOPELESS = 20
"""So many clients that are short in a draw tell that no other draw will do.

How many are short is nearly Poisson distributed: with a mean at which one draw in a hundred has
none (4.6), more than 20 come twice in a hundred million draws.
"""


def iid(labels: Tensor, clients: int, generator: torch.Generator) -> Partition:
    """Shuffle, and cut into parts of equal size (one more for the first few).

    Raises:
        ValueError: fewer examples than clients, or no clients.
    """
    labels = enough(labels, clients)
    return list(torch.randperm(len(labels), generator=generator).tensor_split(clients))


def dirichlet(
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    alpha: float = 0.5,
    minimum: int = 1,
    attempts: int = 100,
) -> Partition:
    """Deal out each label in proportions drawn from a Dirichlet distribution.

    Tzu-Ming Harry Hsu, Hang Qi, Matthew Brown. "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification". 2019. https://arxiv.org/abs/1909.06335

    For each label the clients' shares are q ~ Dir(alpha, ..., alpha): alpha -> 0 gives each label
    to one client, alpha -> infinity to all in equal parts. Client sizes vary with it.

    Args:
        labels: (N,).
        clients: K.
        generator: of the proportions and the order.
        alpha: concentration, > 0.
        minimum: no client gets fewer examples. A draw that leaves some short is repeated; when
            `attempts` draws did, or one that leaves more than `HOPELESS` of them short, the last
            one is mended by moving examples, one at a time, from whoever has most.
        attempts: how many draws.

    Raises:
        ValueError: alpha or minimum out of range, or too few examples for all clients.
    """
    labels = enough(labels, clients, minimum)
    check_alpha(alpha)
    if attempts < 1:
        raise ValueError(f"attempts must be >= 1, got {attempts}")
    by_label = [torch.nonzero(labels == label).flatten() for label in labels.unique(sorted=True)]
    for _ in range(attempts):
        order, sizes = _draw(by_label, clients, generator, alpha)
        short = int((sizes.sum(dim=0) < minimum).sum())
        if not short or short > HOPELESS:
            break
    owner = torch.arange(clients).repeat(len(sizes)).repeat_interleave(sizes.flatten())
    dealt = order[owner.argsort(stable=True)].split(sizes.sum(dim=0).tolist())
    return _level(list(dealt), minimum, generator)


def shards(
    labels: Tensor, clients: int, generator: torch.Generator, per_client: int = 2
) -> Partition:
    """Sort by label, cut into shards, and give each client a few: it sees few labels.

    Brendan McMahan et al. "Communication-Efficient Learning of Deep Networks from Decentralized
    Data". AISTATS 2017. https://arxiv.org/abs/1602.05629 (two shards each: at most a few digits).

    Raises:
        ValueError: fewer examples than shards.
    """
    if per_client < 1:
        raise ValueError(f"each client needs at least one shard, got {per_client}")
    labels = enough(labels, clients, per_client)
    shuffled = torch.randperm(len(labels), generator=generator)
    ordered = shuffled[torch.argsort(labels[shuffled], stable=True)]
    pieces = ordered.tensor_split(clients * per_client)
    order = torch.randperm(len(pieces), generator=generator).reshape(clients, per_client)
    return [torch.cat([pieces[i] for i in row.tolist()]) for row in order]


def quantity(
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    alpha: float = 0.5,
    minimum: int = 1,
) -> Partition:
    """Sizes from a Dirichlet distribution, labels at random: clients differ in quantity alone.

    Qinbin Li, Yiqun Diao, Quan Chen, Bingsheng He. "Federated Learning on Non-IID Data Silos: An
    Experimental Study". ICDE 2022. https://arxiv.org/abs/2102.02079

    Raises:
        ValueError: alpha or minimum out of range, or too few examples for all clients.
    """
    labels = enough(labels, clients, minimum)
    check_alpha(alpha)
    drawn = shares(clients, alpha, generator)
    order = torch.randperm(len(labels), generator=generator)
    parts = list(order.tensor_split(_cuts(drawn, len(labels)).tolist()))
    return _level(parts, minimum, generator)


def pathological(
    labels: Tensor, clients: int, generator: torch.Generator, classes: int = 2
) -> Partition:
    """Each client has examples of so many labels and no others, shared evenly with those like it.

    Known as #C = k: Qinbin Li, Yiqun Diao, Quan Chen, Bingsheng He. "Federated Learning on Non-IID
    Data Silos: An Experimental Study". ICDE 2022. https://arxiv.org/abs/2102.02079. Labels are
    dealt out so that each has an owner, and none more than one owner more than another.

    Raises:
        ValueError: more labels for each client than there are, labels that nobody would have, or
            fewer examples of a label than clients that are to have it.
    """
    labels = enough(labels, clients)
    found = labels.unique(sorted=True)
    if not 1 <= classes <= len(found):
        raise ValueError(
            f"{classes} classes for each client were asked for, and there are {len(found)}; take "
            f"1 to {len(found)}"
        )
    if clients * classes < len(found):
        raise ValueError(
            f"{clients} clients of {classes} classes each would leave examples of "
            f"{len(found) - clients * classes} classes to nobody; take more clients or classes, or "
            "leave classes out with absent_classes"
        )
    owners: list[list[int]] = [[] for _ in found]
    for client in range(clients):
        drawn = torch.randperm(len(found), generator=generator).tolist()
        for label in sorted(drawn, key=lambda label: len(owners[label]))[:classes]:
            owners[label].append(client)
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for label, names in zip(found.tolist(), owners, strict=True):
        rows = torch.nonzero(labels == label).flatten()
        if len(rows) < len(names):
            raise ValueError(
                f"class {label} has {len(rows)} examples for {len(names)} clients that are to have "
                "it; take fewer clients or classes, or more private examples"
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        for client, piece in zip(names, rows.tensor_split(len(names)), strict=True):
            parts[client].append(piece)
    return [torch.cat(part) for part in parts]


def natural(domains: Tensor, clients: int, generator: torch.Generator) -> Partition:
    """By where examples are from: a client is a domain, or has an even part of one, or a few.

    Client k has domain k modulo their number; where there are fewer clients than domains, domain d
    goes to client d modulo the number of clients.

    Args:
        domains: (N,) of each example, such as its speaker (`fedkd.data.datasets.Dataset`).
        clients: K.
        generator: of the order.

    Raises:
        ValueError: a domain with fewer examples than clients that are to share it.
    """
    domains = enough(domains, clients)
    found = domains.unique(sorted=True)
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for place, domain in enumerate(found.tolist()):
        names = list(range(place % clients, clients, len(found)))
        rows = torch.nonzero(domains == domain).flatten()
        if len(rows) < len(names):
            raise ValueError(
                f"domain {domain} has {len(rows)} examples for {len(names)} clients; take fewer "
                "clients, or more private examples"
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        for client, piece in zip(names, rows.tensor_split(len(names)), strict=True):
            parts[client].append(piece)
    return [torch.cat(part) for part in parts]


def bands(key: Tensor, clients: int, generator: torch.Generator) -> Partition:
    """By the size of a number: client 0 has the smallest, and each next one those that follow.

    Quantiles: parts are of equal size (one more for the first few), which number is where the cuts
    are. Known as label skew of a regression where the number is the target itself, and as feature
    skew where it is another one, such as a latitude.

    Args:
        key: (N,) of each example.
        clients: K.
        generator: of the order within a part, and among equal numbers.

    Raises:
        ValueError: fewer examples than clients, or no clients.
    """
    order = iid(torch.zeros(len(key)), clients, generator)
    shuffled = torch.cat(order)
    ordered = shuffled[torch.argsort(key[shuffled], stable=True)]
    parts = ordered.tensor_split(clients)
    return [part[torch.randperm(len(part), generator=generator)] for part in parts]


def in_bands(key: Tensor, held: Partition) -> Tensor:
    """(N,) in whose band each number is, given the rows that each client of `bands` holds.

    A number between two bands is in the upper one; below all in the first, above all in the last.
    """
    ends = torch.stack([key[rows].max() for rows in held[:-1]]) if held[1:] else key[:0]
    return torch.bucketize(key.contiguous(), ends)


PARTITIONS: dict[str, Callable[..., Partition]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "dirichlet-min": dirichlet_min,
    "dirichlet-balanced": dirichlet_balanced,
    "shards": shards,
    "quantity": quantity,
    "pathological": pathological,
    "natural": natural,
    "bands": bands,
}
OF_ALL = ("iid", "quantity", "natural", "bands")  # that ask for no classes
BY_ALPHA = ("dirichlet", "dirichlet-min", "dirichlet-balanced", "quantity")
AUTO = "auto"

REGISTRY: Registry[Callable[..., Any]] = Registry(
    "partition",
    members(PARTITIONS),
    "kdsim.partitions",
    expected="a function (labels, clients, generator) that gives a list of row numbers for each "
    "client",
)
"""Functions (labels, clients, generator, ...) that give each client row numbers, in a list.

labels is (N,) of the private examples, and of targets that are no classes (N, ...); clients their
number K, generator of PyTorch and the only source of chance. A function that names `alpha`,
`shards`, `classes_per_client`, `domains` (N,) or `key` (N,) among its parameters is given these
too. Row numbers are tensors or lists of 0 to N - 1; no row is dealt twice, and every client gets
one at least. Rows that nobody gets are left out.
"""


def partition(
    name: str,
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    alpha: float,
    shard: int,
    classes: int = 2,
    domains: Tensor | None = None,
    target: Target = CLASSES,
    key: Tensor | None = None,
) -> Partition:
    """Deal out examples by the partition of a name, with whichever of the settings it uses.

    Raises:
        ValueError: there is no such partition; the message names the nearest and lists all. Or the
            partition is natural, and domains are not known; or it deals out by class, and there are
            none; or it is bands, and there is no number to cut by.
    """
    function = REGISTRY.get(name)
    if name not in PARTITIONS:
        given = {"alpha": alpha, "shards": shard, "classes_per_client": classes}
        known = {"domains": domains, "key": key}
        return _own(name, function, (labels, clients, generator), given | known)
    if target != CLASSES and name not in OF_ALL:
        raise ValueError(
            f"partition {name} deals examples out by class, and each has {target.words}; take "
            f"{', '.join(OF_ALL)}, or auto"
        )
    if name == "natural":
        return natural(_known(domains), clients, generator)
    if name == "bands":
        return bands(_number(labels if key is None else key), clients, generator)
    plain = labels if target == CLASSES else torch.zeros(len(labels))
    if name == "iid":
        return iid(plain, clients, generator)
    setting = {"shards": shard, "pathological": classes}.get(name, alpha)
    dealt: Partition = function(plain, clients, generator, setting)
    return dealt


def _known(domains: Tensor | None) -> Tensor:
    if domains is None:
        raise ValueError(
            "partition natural: of these data it is not known where each example is from; "
            "take fsdd, whose domains are speakers, or another partition"
        )
    return domains


def _number(values: Tensor) -> Tensor:
    """(N,) of a number for each example."""
    if values.ndim > 1 and values.shape[1] > 1:
        raise ValueError(
            "partition bands cuts by a number of each example, and it is not said by which; name "
            "it, such as by=..., or take iid"
        )
    return values.flatten()


def chosen(name: str, data: Dataset) -> str:
    """The partition of a name: "auto" is the one that fits the data.

    Natural where it is known where examples are from; of classes dirichlet; bands where there is a
    number to cut by (`key_of`), else iid.
    """
    if name != AUTO:
        return name
    if data.domains is not None:
        return "natural"
    if data.target == CLASSES:
        return "dirichlet"
    return "iid" if key_of(data) is None else "bands"


def key_of(data: Dataset) -> Tensor | None:
    """(N,) what `bands` cuts by: the data's key, or the one number that is the target; or None."""
    several = data.y.ndim > 1 and data.y.shape[1] > 1
    return data.key if several or data.key is not None else data.y.flatten()


def _own(
    name: str, function: Callable[..., Any], given: tuple[Any, ...], settings: Mapping[str, Any]
) -> Partition:
    """What a function of the user's deals out, checked."""
    taken = inspect.signature(function).parameters
    labels, clients, _ = given
    try:
        parts = function(*given, **{k: v for k, v in settings.items() if k in taken})
        if not isinstance(parts, Iterable):
            raise TypeError(f"it gives {type(parts).__name__}; expected row numbers of each client")
        dealt = [integers(torch.as_tensor(part), "row numbers") for part in parts]
        check_dealt(dealt, len(labels), clients)
    except (Exception, SystemExit) as error:
        raise ValueError(f"partition {name!r}: {type(error).__name__}: {error}") from error
    return dealt


def check_dealt(parts: Partition, count: int, clients: int) -> None:
    """Raise ValueError for parts that are none of `count` rows among so many clients."""
    if len(parts) != clients:
        raise ValueError(f"{len(parts)} parts for {clients} clients; each client needs one")
    for client, part in enumerate(parts):
        if part.ndim != 1 or not len(part):
            raise ValueError(
                f"client {client} has rows of shape {tuple(part.shape)}; it needs a list of one "
                "at least"
            )
        if not 0 <= int(part.min()) <= int(part.max()) < count:
            raise ValueError(
                f"client {client} has rows {int(part.min())} to {int(part.max())}, and there are 0 "
                f"to {count - 1}"
            )
    rows, times = torch.cat(parts).unique(return_counts=True)
    if (times > 1).any():
        row = int(rows[times > 1][0])
        owners = [client for client, part in enumerate(parts) if (part == row).any()]
        raise ValueError(
            f"row {row} is dealt out {int(times.max())} times, to {owners}; once is all"
        )


def _draw(
    by_label: list[Tensor], clients: int, generator: torch.Generator, alpha: float
) -> tuple[Tensor, Tensor]:
    """All rows, label by label, in the order drawn, and how many each client gets: (N,), (L, K)."""
    order, sizes = [], []
    for rows in by_label:
        order.append(rows[torch.randperm(len(rows), generator=generator)])
        cuts = _cuts(shares(clients, alpha, generator), len(rows))
        sizes.append(cuts.diff(prepend=torch.tensor([0]), append=torch.tensor([len(rows)])))
    return torch.cat(order), torch.stack(sizes)


def _cuts(shares: Tensor, count: int) -> Tensor:
    return (shares.cumsum(dim=0)[:-1] * count).round().long().clamp(0, count)


def _level(parts: Partition, minimum: int, generator: torch.Generator) -> Partition:
    """Move examples from the largest part to the smallest until none is below the minimum.

    Of parts of equal size, one is drawn. Whoever gives has more than the minimum, since all
    together have enough, and so never receives.
    """
    sizes = [len(part) for part in parts]
    if min(sizes) >= minimum:
        return parts
    ties = torch.randperm(len(parts), generator=generator).tolist()
    named = list(zip(sizes, ties, range(len(parts)), strict=True))
    poorest = [(size, tie, place) for size, tie, place in named if size < minimum]
    richest = [(-size, tie, place) for size, tie, place in named if size > minimum]
    heapify(poorest)
    heapify(richest)
    got = {place: [parts[place]] for *_, place in poorest}
    while poorest:
        (least, tie, poor), (most, other, rich) = poorest[0], richest[0]
        got[poor].append(parts[rich][-most - 1 : -most])
        heapreplace(richest, (most + 1, other, rich))
        if least + 1 < minimum:
            heapreplace(poorest, (least + 1, tie, poor))
        else:
            heappop(poorest)
    left = {place: parts[place][:-size] for size, _, place in richest}
    full = {place: torch.cat(pieces) for place, pieces in got.items()}
    return [full.get(place, left.get(place, part)) for place, part in enumerate(parts)]
