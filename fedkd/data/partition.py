"""How private examples are dealt out to clients.

Each function takes the labels (N,) of all private examples, the number of clients and a generator,
and returns one tensor of row numbers per client; together they hold every row exactly once.
"""

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import Tensor

Partition = list[Tensor]


def iid(labels: Tensor, clients: int, generator: torch.Generator) -> Partition:
    """Shuffle, and cut into parts of equal size (one more for the first few).

    Raises:
        ValueError: fewer examples than clients, or no clients.
    """
    _check(labels, clients)
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
            `attempts` draws did, the last one is mended by moving examples, one at a time, from
            whoever has most, so that this always ends.
        attempts: how many draws.

    Raises:
        ValueError: alpha or minimum out of range, or too few examples for all clients.
    """
    _check(labels, clients, minimum)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive and finite, got {alpha}; try 0.1 to 100")
    if attempts < 1:
        raise ValueError(f"attempts must be >= 1, got {attempts}")
    for _ in range(attempts):
        parts = _deal(labels, clients, generator, alpha)
        if min(len(part) for part in parts) >= minimum:
            return parts
    return _level(parts, minimum)


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
    _check(labels, clients, per_client)
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
    _check(labels, clients, minimum)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive and finite, got {alpha}; try 0.1 to 100")
    shares = _shares(clients, alpha, generator)
    order = torch.randperm(len(labels), generator=generator)
    return _level(list(order.tensor_split(_cuts(shares, len(labels)))), minimum)


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
    _check(labels, clients)
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
    _check(domains, clients)
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


PARTITIONS: dict[str, Callable[..., Partition]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "shards": shards,
    "quantity": quantity,
    "pathological": pathological,
    "natural": natural,
}


def partition(
    name: str,
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    alpha: float,
    shard: int,
    classes: int = 2,
    domains: Tensor | None = None,
) -> Partition:
    """Deal out examples by the partition of a name, with whichever of the settings it uses.

    Raises:
        ValueError: there is no such partition; the message names the nearest and lists all. Or the
            partition is natural, and domains are not known.
    """
    if name not in PARTITIONS:
        close = get_close_matches(name, PARTITIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown partition {name!r}; {hint}choose one of {', '.join(PARTITIONS)}")
    if name == "iid":
        return iid(labels, clients, generator)
    if name == "shards":
        return shards(labels, clients, generator, shard)
    if name == "pathological":
        return pathological(labels, clients, generator, classes)
    if name == "natural":
        if domains is None:
            raise ValueError(
                "partition natural: of these data it is not known where each example is from; "
                "take fsdd, whose domains are speakers, or another partition"
            )
        return natural(domains, clients, generator)
    return PARTITIONS[name](labels, clients, generator, alpha)


def _check(labels: Tensor, clients: int, minimum: int = 1) -> None:
    if clients < 1:
        raise ValueError(f"the number of clients must be at least 1, got {clients}")
    if minimum < 0:
        raise ValueError(f"the minimum size must be >= 0, got {minimum}")
    if len(labels) < clients * max(minimum, 1):
        raise ValueError(
            f"{clients} clients with at least {max(minimum, 1)} examples each need "
            f"{clients * max(minimum, 1)}, and there are {len(labels)}; take fewer clients, or "
            "more private examples"
        )


def _deal(labels: Tensor, clients: int, generator: torch.Generator, alpha: float) -> Partition:
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in labels.unique(sorted=True):
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cuts = _cuts(_shares(clients, alpha, generator), len(rows))
        for part, piece in zip(parts, rows.tensor_split(cuts), strict=True):
            part.append(piece)
    return [torch.cat(part) for part in parts]


def _shares(clients: int, alpha: float, generator: torch.Generator) -> Tensor:
    """A draw from Dir(alpha, ..., alpha), by gamma variates on a log scale (tiny alpha is safe).

    Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha): its logarithm never underflows.
    """
    gamma = torch._standard_gamma(  # the one gamma sampler of torch that takes a generator
        torch.full((clients,), alpha + 1, dtype=torch.float64), generator=generator
    )
    uniform = torch.rand(clients, dtype=torch.float64, generator=generator).clamp(min=1e-300)
    return (gamma.log() + uniform.log() / alpha).softmax(dim=0)


def _cuts(shares: Tensor, count: int) -> list[int]:
    cuts: list[int] = (shares.cumsum(dim=0)[:-1] * count).round().long().clamp(0, count).tolist()
    return cuts


def _level(parts: Partition, minimum: int) -> Partition:
    """Move examples from the largest part to the smallest until none is below the minimum."""
    parts = list(parts)
    while True:
        sizes = [len(part) for part in parts]
        least, most = sizes.index(min(sizes)), sizes.index(max(sizes))
        if sizes[least] >= minimum:
            return parts
        parts[least] = torch.cat([parts[least], parts[most][-1:]])
        parts[most] = parts[most][:-1]
