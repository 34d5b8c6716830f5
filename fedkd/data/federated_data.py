"""From a data set to a federation: private parts, public examples, a test set, and clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.core import STREAM, Client, Model, Task
from fedkd.data.datasets import Dataset, checked
from fedkd.data.partition import Partition
from fedkd.data.standardise import standardised
from fedkd.models import TRIED, build, group_names
from fedkd.targets import CLASSES, REAL
from kdcore.rng import generator
from kdcore.training.batches import Examples, Moved
from kdcore.training.batches import rows as table_rows
from kdcore.training.loop import Params


@dataclass(frozen=True)
class Pools:
    """Row numbers of a data set, each row in one pool at the most."""

    private: Tensor
    public: Tensor
    validation: Tensor
    test: Tensor


class FederatedData(NamedTuple):
    """All that `simulate` needs, and what to measure it with.

    Attributes:
        task, clients: for `simulate`.
        test, validation: labelled examples that no client trains on.
        label_counts: (K, C), how many private examples of each label each client holds; of other
            targets than one class (K, 1), how many in all.
        kinds: (N,) of each test example, by which clients' own data are told apart: its label, or
            where examples are of several domains, domain x C + label; without classes its domain.
        kind_counts: (K, kinds), how many private examples of each kind each client holds.
        notes: what was converted on the way to these examples, in words.
        tests: of each client, test examples of its own; none for a client whose own data are told
            by `kinds`, and empty where that is all clients.
        elsewhere: further test examples, by a name: all clients are scored on these as well, the
            mean being `accuracy_NAME`.
        measures: numbers about how the data are dealt out, by name.
        drawn: of the same what a figure needs, as JSON holds it.
        validation_kinds: `kinds` of the validation examples, where settings may be chosen by a
            client's own ones as well.
        blocks: the graphs that clients hold where these are parts of one (`fedgraphkd.union`): of
            client k block k. None elsewhere, and where clients have all edges in common.
    """

    task: Task
    clients: list[Client]
    test: Examples
    validation: Examples
    label_counts: Tensor
    kinds: Tensor
    kind_counts: Tensor
    notes: tuple[str, ...] = ()
    tests: tuple[Examples, ...] = ()
    elsewhere: Mapping[str, Examples] = {}
    measures: Mapping[str, float] = {}
    drawn: Mapping[str, Any] = {}
    validation_kinds: Tensor | None = None
    blocks: Any = None

    def to(self, device: torch.device | str) -> "FederatedData":
        """The same federation on a device: clients, examples and server."""
        move = Moved(device)
        clients = [
            replace(one, params=move(one.params), private=one.private.to(move))
            for one in self.clients
        ]
        task = replace(
            self.task,
            public=move(self.task.public),
            labels=move(self.task.labels),
            validation=self.task.validation and self.task.validation.to(move),
            units=move(self.task.units),
            device=torch.device(device),
        )
        test, validation = self.test.to(move), self.validation.to(move)
        counts, kinds, own = move((self.label_counts, self.kinds, self.kind_counts))
        return self._replace(
            task=task,
            clients=clients,
            test=test,
            validation=validation,
            label_counts=counts,
            kinds=kinds,
            kind_counts=own,
            tests=tuple(one.to(move) for one in self.tests),
            elsewhere={name: one.to(move) for name, one in self.elsewhere.items()},
            validation_kinds=move(self.validation_kinds),
        )


def pools(
    data: Dataset, private: int, public: int, validation: int, test: int, seed: int, absent: int = 0
) -> Pools:
    """Draw disjoint pools. An official test set is kept apart, and the test pool drawn from it.

    Args:
        data: the data set.
        private: how many examples to deal out to clients, >= 1.
        public: how many for all to see.
        validation: how many to select on.
        test: how many; 0 means all that are left (of the official test set, where there is one).
        seed: of the draw.
        absent: how many labels, drawn at random, no client holds; they stay in the other pools.

    Raises:
        ValueError: more asked for than there is, or data that are none (`datasets.checked`).
    """
    data = checked(data)
    inside = len(data.y) - data.official
    order = torch.randperm(inside, generator=generator(seed, "pools"))
    if absent:
        order = _held_first(data, order, private, absent, seed)
    kept = torch.arange(inside, len(data.y))
    kept = kept[torch.randperm(len(kept), generator=generator(seed, "test"))]
    elsewhere = public if data.foreign else 0
    wanted = private + public - elsewhere + validation + (0 if data.official else max(test, 1))
    there = inside - data.foreign
    if min(private, public, validation, test) < 0 or private == 0 or wanted > there:
        raise ValueError(
            f"{private} private, {public} public, {validation} validation and {test} test examples "
            f"were asked for, and the data set has {there}; every number must be >= 0, private "
            ">= 1, and some examples must be left to test on"
        )
    if data.foreign:
        order = _foreign_public(order, data.foreign, private, public)
    first, second, third, rest = order.tensor_split(
        [private, private + public, private + public + validation]
    )
    remaining = kept if data.official else rest
    if test > len(remaining):
        raise ValueError(f"{test} test examples were asked for, and {len(remaining)} are left")
    return Pools(first, second, third, remaining[: test or None])


def noisy(data: Dataset, rows: Tensor, share: float, generator: torch.Generator) -> Dataset:
    """The data with wrong labels for a share of some rows, to the nearest whole number of them.

    Symmetric noise: any other label with the same chance.

    Raises:
        ValueError: labels are no classes.
    """
    if data.target != CLASSES:
        raise ValueError(
            f"label noise is of classes, and each example has {data.target.words}; take 0"
        )
    y = data.y.clone()
    y[rows] = flipped(y[rows], share, data.num_classes, generator)
    return data._replace(y=y)


def flipped(y: Tensor, share: float, classes: int, source: torch.Generator) -> Tensor:
    """Labels (N,) of which a share is another, any other with the same chance."""
    wrong = torch.randperm(len(y), generator=source)[: round(share * len(y))]
    found = y.clone()
    found[wrong] += torch.randint(1, classes, (len(wrong),), generator=source)
    return found % classes


def _foreign_public(order: Tensor, foreign: int, private: int, public: int) -> Tensor:
    """The order with examples of the other data set in the places of the public ones."""
    if public > foreign:
        raise ValueError(
            f"{public} public examples were asked for, and the other data set has {foreign}"
        )
    own, other = order[order >= foreign], order[order < foreign]
    return torch.cat([own[:private], other[:public], own[private:]])


def _held_first(data: Dataset, order: Tensor, private: int, absent: int, seed: int) -> Tensor:
    """The order with enough examples of labels that are not absent in front."""
    if data.target != CLASSES:
        raise ValueError(
            f"absent classes are for classes, and each example has {data.target.words}; take 0"
        )
    if data.foreign:
        raise ValueError(
            "absent classes are for one data set; of two, clients hold no label of the second"
        )
    if not 0 < absent < data.num_classes:
        raise ValueError(
            f"{absent} absent classes: the data set has {data.num_classes}, and clients must hold "
            f"at least one; take 0 to {data.num_classes - 1}"
        )
    labels = torch.randperm(data.num_classes, generator=generator(seed, "absent"))[:absent]
    held = order[~torch.isin(data.y[order], labels)]
    if private > len(held):
        raise ValueError(
            f"{private} private examples were asked for, and without {absent} classes there are "
            f"{len(held)}; take fewer of either"
        )
    first = held[:private]
    return torch.cat([first, order[~torch.isin(order, first)]])


def federate(
    data: Dataset,
    chosen: Pools,
    parts: Partition,
    models: Sequence[Any],
    seed: int,
    rotations: int = 1,
    tests: Sequence[Tensor] = (),
    same_start: bool = False,
    built: Mapping[str, Model] | None = None,
) -> FederatedData:
    """Deal architectures and private parts out to clients.

    Columns that are to be standardised are so over the private pool: over what clients train on.

    Args:
        data: the data set.
        chosen: its pools.
        parts: for each client, places in the private pool.
        models: architecture names, or torch modules, their classes or models of them
            (`fedkd.models.build`), dealt out in turn: client i gets number i modulo their count.
        seed: of the clients' initial parameters.
        rotations: domains that differ by a turn, see `rotated`.
        tests: of each client, test rows of its own; by default its own data are told by labels
            (and domains, where every client's are in the test pool).
        same_start: whether clients of one architecture begin with the same weights. By default each
            draws its own, which costs methods that compare features: FedProto by the nearest
            prototype loses 5 to 6 points on Fashion-MNIST by it.
        built: models that are made already, by name (of inputs that were `tried`).

    Raises:
        ValueError: no models, or a name that is none; examples that cannot be turned; or data that
            are none (`datasets.checked`).
    """
    if not models:
        raise ValueError("models: name at least one architecture, such as mlp")
    data, units = _in_units(ready(data, chosen), chosen.private)
    if rotations > 1:
        data = rotated(data, chosen, parts, rotations)
    few = tried(data, chosen)
    names, made = group_names(models), dict(built or {})
    built = {
        name: made[name] if name in made else build(what, data.shape, data.num_classes, few)
        for name, what in dict(zip(names, models, strict=True)).items()
    }
    _check_outputs(data, built, few)
    clients = []
    for number, places in enumerate(parts):
        name = names[number % len(models)]
        params = initial(built[name], name, number, seed, same_start)
        examples = Examples(data.x, data.y, chosen.private[places])
        clients.append(Client(number, name, params, examples))
    public = tree_map(lambda x: x[chosen.public], data.x) if len(chosen.public) else None
    labels = None if public is None else data.y[chosen.public]
    selected = Examples(data.x, data.y, chosen.validation) if len(chosen.validation) else None
    dealt = sum(map(len, parts))
    task = Task(
        *(built, data.num_classes, public, data.shape, labels, selected, max(dealt, 1)),
        few=few,
        target=data.target,
        places=data.places,
        units=units,
    )
    label, many = (data.y, data.num_classes) if data.target == CLASSES else (_zeros(data), 1)
    counts = torch.stack([torch.bincount(label[c.private.rows], minlength=many) for c in clients])
    test, validation = (Examples(data.x, data.y, rows) for rows in (chosen.test, chosen.validation))
    kinds, own = _kinds(data, chosen.test, clients)
    mine = tuple(Examples(data.x, data.y, rows) for rows in tests)
    return FederatedData(task, clients, test, validation, counts, kinds, own, data.notes, mine)


def initial(model: Model, name: str, client: int, seed: int, same_start: bool) -> Params:
    """What a client of an architecture begins with: values of its own, or those of all its kind."""
    params = model.init(generator(seed, "client", client))
    if same_start:  # each with a stream of chance of its own
        start = model.init(generator(seed, "start", name))
        params |= {n: value for n, value in start.items() if n != STREAM}
    return params


def ready(data: Dataset, chosen: Pools) -> Dataset:
    """The data as clients get them: checked, and standardised over what clients train on.

    What is ready stays as it is.
    """
    return standardised(checked(data), chosen.private)


def tried(data: Dataset, chosen: Pools) -> Any:
    """The inputs that models are tried with: the first private ones, of data that are ready."""
    return table_rows(data.x, chosen.private[:TRIED])


def _kinds(data: Dataset, test: Tensor, clients: Sequence[Client]) -> tuple[Tensor, Tensor]:
    """(N,) what tells clients' own data apart in the test pool, and (K, kinds) who holds how many.

    Label and domain, unless some client's domains have no test example at all; then the label.
    Where there are no classes all examples have one label.
    """
    kinds, count = (data.y, data.num_classes) if data.target == CLASSES else (_zeros(data), 1)
    if data.domains is not None:
        tested = data.domains[test].unique()
        mine = (data.domains[c.private.rows] for c in clients)
        if all(bool(torch.isin(one, tested).any()) for one in mine):
            kinds, count = data.domains * count + kinds, (int(data.domains.max()) + 1) * count
    own = torch.stack([torch.bincount(kinds[c.private.rows], minlength=count) for c in clients])
    return kinds[test], own


def _zeros(data: Dataset) -> Tensor:
    return torch.zeros(len(data.y), dtype=torch.long)


def _in_units(data: Dataset, rows: Tensor) -> tuple[Dataset, Tensor | None]:
    """Real targets with mean 0 and standard deviation 1 over some rows, and these deviations.

    So one learning rate is as good for prices as for shares; scores are told in the units of y.
    """
    if data.target != REAL:
        return data, None
    known = data.y[rows].double()
    mean, spread = known.mean(dim=0), known.std(dim=0, correction=0)
    spread = spread.where(spread > 0, 1)
    y = ((data.y.double() - mean) / spread).to(data.y.dtype)
    said = "; ".join(f"{m:.6g} and {s:.6g}" for m, s in zip(mean, spread, strict=True))
    note = (
        "targets are brought to mean 0 and standard deviation 1 over private examples, which were "
        f"{said}; scores are in the units of the data"
    )
    return data._replace(y=y, notes=(*data.notes, note)), spread


def _check_outputs(data: Dataset, models: Mapping[str, Model], few: Any) -> None:
    """Raise ValueError for a model whose outputs are none of the target.

    Networks by name give one row for an example, and need not be asked of classes.
    """
    expected = (data.places, data.num_classes) if data.places else (data.num_classes,)
    for name, model in models.items():
        if data.target == CLASSES and model.restored is None:
            continue
        logits = model.predict(model.init(torch.Generator().manual_seed(0)), few).logits
        if tuple(logits.shape[1:]) != expected:
            raise ValueError(
                f"model {name} gives outputs of shape {tuple(logits.shape[1:])} for an example; of "
                f"{data.target.words} expected {expected}"
            )


def rotated(data: Dataset, chosen: Pools, parts: Partition, rotations: int) -> Dataset:
    """The data with features shifted by a turn: of client k by (k modulo rotations) / rotations.

    Avishek Ghosh, Jichan Chung, Dong Yin, Kannan Ramchandran. "An Efficient Framework for Clustered
    Federated Learning". NeurIPS 2020. https://arxiv.org/abs/2006.04088 turns clients by 0, 90, 180
    and 270 degrees, as rotations = 4 does. The examples of the other pools take turns, so that each
    domain has an even part of them. Turns are exact: no pixel is interpolated.

    Raises:
        ValueError: rotations other than 1, 2 and 4, or examples that are no squares.
    """
    if rotations not in (1, 2, 4):
        raise ValueError(f"rotations must be 1, 2 or 4 (exact turns), got {rotations}")
    if isinstance(data.x, tuple) or len(data.shape) != 3 or data.shape[1] != data.shape[2]:
        raise ValueError(f"rotations {rotations}: examples of shape {data.shape} are no squares")
    turn = torch.zeros(len(data.x), dtype=torch.long)
    for client, places in enumerate(parts):
        turn[chosen.private[places]] = client % rotations
    for rows in (chosen.public, chosen.validation, chosen.test):
        turn[rows] = torch.arange(len(rows)) % rotations
    x = data.x.clone()
    for step in range(1, rotations):
        own = turn == step
        x[own] = torch.rot90(x[own], step * 4 // rotations, (-2, -1))
    return data._replace(x=x, domains=turn)
