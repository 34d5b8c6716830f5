"""A partition of one's own: which rows each client trains on, and which ones it is tested on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd.data.checks import integers
from fedkd.data.datasets import Dataset, checked
from fedkd.data.federated_data import FederatedData, Pools, federate
from fedkd.data.own.arrays import as_array
from fedkd.data.own.containers import Arrays, contents
from fedkd.data.own.sources import data
from fedkd.data.partition import Partition, check_dealt
from kdcore.rng import generator

Parts = Sequence[Any] | Mapping[Any, Any]


class ClientRows(NamedTuple):
    """The rows of a client: those that it trains on, and those that it is tested on."""

    training: Tensor
    test: Tensor


class Dealt(NamedTuple):
    """For `federate`: pools, for each client places in the private pool, and its test rows."""

    pools: Pools
    parts: Partition
    tests: tuple[Tensor, ...]


def federate_parts(
    data: Dataset,
    parts: Parts,
    models: Sequence[str],
    seed: int = 0,
    *,
    public: int = 0,
    validation: int = 0,
    test: int = 0,
) -> FederatedData:
    """A federation whose clients hold the rows that they are given; see `deal`.

        federate_parts(data, [[0, 1, 2], [3, 4]], ["mlp"])                     # training rows
        federate_parts(data, {"north": ([0, 1], [2]), "south": ([3], [4, 5])}, ["mlp"])  # and test

    Args:
        data: the data set.
        parts: rows of each client.
        models: architectures, dealt out in turn.
        seed: of initial parameters, and of what else is drawn.
        public: how many of the rows that nobody was given all may see.
        validation: how many of them to select on.
        test: how many of them to test all clients on; 0 means all that are left.

    Raises:
        ValueError: rows that there are not, that two clients would train on, or that one would
            train and another be tested on; or too few are left for the rest.
    """
    dealt = deal(data, parts, public, validation, test, seed)
    return federate(data, dealt.pools, dealt.parts, models, seed, tests=dealt.tests)


def deal(data: Dataset, parts: Parts, public: int, validation: int, test: int, seed: int) -> Dealt:
    """Rows of one's own choice as pools and parts.

    A client has training rows, or a tuple (training rows, test rows); clients may have test rows in
    common. Clients are numbered in the order given. What nobody was given is shuffled and dealt to
    the other pools; the test set is the official one where there is one, and that of all clients'
    test rows where nothing is left.

    Raises:
        ValueError: see `federate_parts`.
    """
    data = checked(data)
    training, tests = zip(*rows_of(parts), strict=True)
    inside = len(data.y) - data.official
    check_dealt(list(training), inside, len(training))
    private = torch.cat(training)
    _check_tests(tests, private, len(data.y))
    tested = torch.cat(tests).unique()
    free = torch.ones(len(data.y), dtype=torch.bool)
    free[torch.cat([private, tested])] = False
    left = free[:inside].nonzero().flatten()
    left = left[torch.randperm(len(left), generator=generator(seed, "pools"))]
    shared, selected, rest = left.tensor_split([public, public + validation])
    if min(public, validation, test) < 0 or len(left) < public + validation:
        raise ValueError(
            f"{public} public and {validation} validation examples were asked for, and "
            f"{len(left)} rows were given to no client; give clients fewer rows"
        )
    if data.official:
        rest = torch.arange(inside, len(data.y))
    pools = Pools(private, shared, selected, _test_pool(rest, tested, test))
    ends = torch.tensor([len(part) for part in training]).cumsum(dim=0)[:-1]
    places = list(torch.arange(len(private)).tensor_split(ends.tolist()))
    return Dealt(pools, places, tests if len(tested) else ())


def rows_of(parts: Parts) -> tuple[ClientRows, ...]:
    """The rows of each client, as tensors.

    Raises:
        ValueError: there are none, or something that is no row numbers.
    """
    given = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    if not given:
        raise ValueError("parts: give the rows of one client at least")
    return tuple(_split(one, client) for client, one in enumerate(given))


def of_examples(parts: Parts) -> tuple[Dataset, tuple[ClientRows, ...]] | None:
    """The data and the rows of clients that are given examples; None where they are given rows.

        {"north": (Examples(...), Examples(...)), "south": ((x, y), (x_test, y_test))}
        [loader_of_one.dataset, loader_of_another.dataset]

    Each is a source as `fedkd.data.own.sources.data` takes it, or a tuple of two: training and
    test. Test examples of all clients together are the official test set.

    Raises:
        ValueError: examples of which no data set can be made.
    """
    given = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    pairs = [_pair(one) for one in given]
    if not pairs or any(_are_rows(one) for one, _ in pairs):
        return None
    training = [one for one, _ in pairs]
    tests = [other for _, other in pairs if other is not None]
    found = data(training, test=tests or None)
    sizes = [_count(one) for one, _ in pairs]
    held = [0 if other is None else _count(other) for _, other in pairs]
    order = torch.arange(len(found.y)).split([*sizes, *held])
    rows = map(ClientRows, order[: len(sizes)], order[len(sizes) :])
    notes = tuple(note for note in found.notes if not note.endswith("of the partition natural"))
    return found._replace(domains=None, notes=notes), tuple(rows)


def _pair(given: Any) -> tuple[Any, Any]:
    """A client's training examples and test examples, or None."""
    two = isinstance(given, tuple) and len(given) == 2
    if two and (not hasattr(given[0], "dtype") or np.ndim(given[0]) == np.ndim(given[1]) == 1):
        return given[0], given[1]
    return given, None


def _are_rows(given: Any) -> bool:
    """Whether these are numbers of rows: a list of numbers, and no examples."""
    return isinstance(given, range | list | Tensor | np.ndarray) and np.ndim(given) == 1


def _count(source: Any) -> int:
    """How many examples there are in a source."""
    (only,) = contents(source).training
    return len(only.y if isinstance(only, Arrays) else only)


def _test_pool(rest: Tensor, tested: Tensor, test: int) -> Tensor:
    if not test and not len(rest):
        rest = tested
    if test > len(rest) or not len(rest):
        raise ValueError(
            f"{test or 'some'} test examples are needed, and {len(rest)} rows are left; give "
            "clients fewer rows, or test rows of their own: (training rows, test rows)"
        )
    return rest[: test or None]


def _split(rows: Any, client: int) -> ClientRows:
    """A client's training rows and test rows."""
    if isinstance(rows, tuple) and len(rows) == 2 and np.ndim(rows[0]) > 0:
        return ClientRows(_rows(rows[0], client), _rows(rows[1], client))
    return ClientRows(_rows(rows, client), torch.empty(0, dtype=torch.long))


def _rows(given: Any, client: int) -> Tensor:
    found = as_array(given, f"rows of client {client}")
    if found.dtype == bool or found.dtype.kind not in "iuf":
        raise ValueError(
            f"rows of client {client} are {found.dtype}; expected row numbers: of a mask take "
            "mask.nonzero()[0]"
        )
    return integers(torch.from_numpy(found.astype(np.float64)), f"rows of client {client}")


def _check_tests(tests: Sequence[Tensor], private: Tensor, count: int) -> None:
    for client, rows in enumerate(tests):
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            raise ValueError(
                f"client {client} has test rows {int(rows.min())} to {int(rows.max())}, and there "
                f"are 0 to {count - 1}"
            )
        if len(rows.unique()) < len(rows):
            raise ValueError(f"client {client} has a test row twice; once is all")
        seen = rows[torch.isin(rows, private)]
        if len(seen):
            raise ValueError(
                f"row {int(seen[0])} is a test row of client {client}, and is trained on"
            )
