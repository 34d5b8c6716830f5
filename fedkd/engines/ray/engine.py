"""Clients resident in Ray actors: a client stays with its actor, and only messages cross.

What an actor hands back of a client is what the function returned, less the client's parameters:
those stay in the actor, with a copy in the object store of this process's own machine, from which
they are restored when the actor or its machine dies. Large tensors that many calls share (the data,
public examples) are sent once.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.core import Client, Failure, Model, Task
from fedkd.engines.fault_tolerance import EngineError
from fedkd.engines.ray.actor import Source, Stays, restored
from fedkd.engines.ray.cluster import check, connect, ray, send_users_code
from fedkd.engines.ray.placement import Share
from fedkd.engines.ray.serialization import SerializedTree, array, pack, tensor, unpack
from fedkd.engines.ray.workers import Worker, Workers
from kdcore.training.batches import Examples, rows

__all__ = ["RayEngine", "Resident", "Share", "check", "check_models"]

PIECES = 4  # chunks come in multiples of this, so that up to so many workers have even shares
LIVES = 3  # how often a chunk is tried when its worker keeps dying


def check_models(models: Mapping[str, Model]) -> None:
    """Raise ValueError for models that cannot be sent to actors, such as parametrised modules."""
    for group, model in models.items():
        try:
            ray.cloudpickle.dumps(model)
        except Exception as reason:
            said = (str(reason).splitlines() or [""])[0]
            raise ValueError(
                f"model {group} cannot be sent to actors of Ray ({type(reason).__name__}: {said}); "
                "take another engine, such as sequential"
            ) from reason


class _Set:
    """The parameters of a chunk of clients: a token for its actor, and the copy in the store."""

    def __init__(self, token: int, copy: Any) -> None:
        self.token, self.copy = token, copy


class Resident(Mapping[str, Tensor]):
    """Parameters that live in an actor; they are fetched when somebody looks at them."""

    def __init__(self, names: tuple[str, ...], members: _Set, place: int) -> None:
        self._names, self.members, self.place = names, members, place

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return tensor(restored(self.members.copy)[name][self.place])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Call(NamedTuple):
    function: Callable[..., Any]
    models: Any  # where they are in the store
    people: list[tuple[int, str]]  # client number, group
    serialized: SerializedTree  # of (sources, inputs), a list of each
    share: Share
    place: int

    def each(self) -> list["_Call"]:
        """The same for each client alone."""
        sources, inputs = self.serialized.tree
        return [
            self._replace(people=[p], serialized=self.serialized._replace(tree=([s], [i])))
            for p, s, i in zip(self.people, sources, inputs, strict=True)
        ]


class _Started(NamedTuple):
    worker: Worker
    token: int
    crossing: Any
    staying: Any


class RayEngine:
    """An engine over Ray actors; use it in a `with` statement, or close it.

    Clients are cut into chunks by architecture, size and number, never by worker, and a chunk is
    run as one: results do not depend on how many workers there are. A worker that dies is replaced,
    its clients are restored, and what it was doing is done again. A client whose function raises,
    or takes too long, gives a `Failure`, and the others go on.

    Attributes:
        restarts: how many workers had to be replaced.
        notes: the same in words.
        started: what is known of each worker that has started: its node, share and GPUs there.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        chunk: int = 50,
        share: Share = Share(),  # noqa: B008  (a tuple)
        shares: Mapping[str, Share] | None = None,
        address: str | None = None,
        deadline: float | None = None,
        patience: float = 60.0,
    ) -> None:
        """Connect to Ray, or start one on this machine's loopback.

        Args:
            workers: actors for each kind of share.
            chunk: clients that are run as one, at the most.
            share: of the machine, for each actor.
            shares: group -> share, for architectures that need another; they get actors of their
                own.
            address: of a cluster that runs already; by default whatever Ray this process is
                connected to, or else a new one that ends with this engine.
            deadline: seconds that a chunk may take once its worker is ready; by default any.
            patience: seconds to wait until there is room for a worker; those for which there is
                none are done without.

        Raises:
            ValueError: numbers out of range, an address that does not answer, or shares for which
                the machines have no room.
        """
        limits = [patience] if deadline is None else [patience, deadline]
        if min(workers, chunk) < 1 or min(limits) <= 0:
            raise ValueError(
                "workers and chunk must be at least 1, the deadline and the patience positive, got "
                f"{workers}, {chunk}, {deadline} and {patience}"
            )
        self._workers, self._chunk, self._deadline = workers, chunk, deadline
        self._patience = patience
        self._share, self._shares = share, dict(shares or {})
        send_users_code()
        kinds = dict.fromkeys([share, *self._shares.values()])
        self._own = connect(address, [kind for kind in kinds for _ in range(workers)])
        self._pools: dict[Share, Workers] = {}
        self._load: dict[Share, list[int]] = {}
        self._homes: dict[int, tuple[int, Share, int]] = {}  # client -> chunk, share, worker
        self._chunks, self._tokens = itertools.count(), itertools.count()
        self._sent: dict[int, tuple[Any, Any]] = {}  # id of a large tensor -> itself, its copy
        self._task: tuple[Task, Any] | None = None
        self._inputs: dict[int, list[Any]] = {}  # chunk -> private inputs, where models know data
        self._models: dict[int, Any] = {}  # chunk -> models that know no more than these need
        self._unused: list[int] = []  # tokens of parameters that nobody holds any more
        self.restarts = 0
        self.notes: list[str] = []
        self.started: list[dict[str, Any]] = []

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and Ray itself if this engine started it."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        if self._own:
            ray.shutdown()

    def __call__(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """`function(predict, params, *inputs)` for each client, on its own actor."""
        if self._task is None or self._task[0] is not task:
            check_models(task.models)
            apart = {g: m for g, m in task.models.items() if m.held is None}
            self._task = task, ray.put(apart)
            self._models.clear()
        self._tidy()
        self._settle(clients)
        blocks: dict[int, list[int]] = {}
        for position, client in enumerate(clients):
            blocks.setdefault(self._homes[client.id][0], []).append(position)
        ordered = [block for _, block in sorted(blocks.items())]
        calls = [
            self._prepare(function, [clients[i] for i in block], [inputs[i] for i in block])
            for block in ordered
        ]
        running = [self._start(call) for call in calls]
        results: list[Any] = [None] * len(clients)
        for block, call, started in zip(ordered, calls, running, strict=True):
            for position, result in zip(block, self._finish(call, started), strict=True):
                results[position] = result
        return results

    def _settle(self, clients: Sequence[Client]) -> None:
        """Give clients that were never seen a chunk, and each chunk a worker."""
        new = [client for client in clients if client.id not in self._homes]
        for group in sorted({client.group for client in new}):
            members = sorted(
                (client for client in new if client.group == group),
                key=lambda client: (len(client.private), client.id),
            )
            share = self._shares.get(group, self._share)
            load = self._load.setdefault(share, [0] * self._workers)
            pieces = min(len(members), PIECES * -(-len(members) // (PIECES * self._chunk)))
            parts = torch.arange(len(members)).tensor_split(pieces)
            for part in reversed([part.tolist() for part in parts]):  # the heaviest comes first
                worker, chunk = load.index(min(load)), next(self._chunks)
                load[worker] += sum(1 + len(members[i].private) for i in part)
                self._homes |= {members[i].id: (chunk, share, worker) for i in part}
                self._note(chunk, group, [members[i].private for i in part])

    def _note(self, chunk: int, group: str, private: Sequence[Examples]) -> None:
        """Remember the private inputs of a chunk, where its model knows data about them."""
        assert self._task is not None
        if self._task[0].models[group].held is not None:
            self._inputs[chunk] = [rows(one.x, one.rows) for one in private]

    def _models_of(self, chunk: int, group: str) -> Any:
        """The models of a chunk in the store: those that know data know no more than it needs."""
        assert self._task is not None
        task, every = self._task
        held = task.models[group].held
        if held is None:
            return every
        if chunk not in self._models:
            open_to_all = [] if task.public is None else [task.public]
            x = tree_map(lambda *some: torch.cat(some), *self._inputs[chunk], *open_to_all)
            self._models[chunk] = ray.put({group: held(x)})
        return self._models[chunk]

    def _prepare(
        self, function: Callable[..., Any], clients: list[Client], inputs: list[Any]
    ) -> _Call:
        """All that an actor has to know; parameters only if it has none of these clients yet."""
        sources = [
            Source(c.params.members.token, c.params.members.copy, c.params.place)
            if isinstance(c.params, Resident)
            else dict(c.params)
            for c in clients
        ]
        serialized = pack((sources, inputs), self._once)
        chunk, share, worker = self._homes[clients[0].id]
        models = self._models_of(chunk, clients[0].group)
        people = [(client.id, client.group) for client in clients]
        return _Call(function, models, people, serialized, share, worker)

    def _start(self, call: _Call) -> _Started:
        if call.share not in self._pools:
            self._pools[call.share] = Workers(self._workers, call.share, self._patience)
            self._hear(call.share)
        worker, token = self._pools[call.share].places[call.place], next(self._tokens)
        crossing, staying = worker.actor.run.remote(
            call.function,
            [call.models],
            call.people,
            call.serialized,
            token,
            torch.get_default_dtype(),
        )
        worker.calls.append(crossing)
        return _Started(worker, token, crossing, staying)

    def _finish(self, call: _Call, started: _Started) -> list[Any]:
        """The results of a chunk, whatever happens to its worker."""
        reason = "its worker died again and again"
        for _ in range(LIVES):
            try:
                return self._at_home(unpack(self._collect(started)), started)
            except ray.exceptions.GetTimeoutError:
                reason = f"no result within {self._deadline:g} s"
                self._replace(call, started.worker)
                break
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error, EngineError) else error) from None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                self._replace(call, started.worker)
                started = self._start(call)
        if len(call.people) == 1:
            return [Failure(reason)]
        return [r for alone in call.each() for r in self._finish(alone, self._start(alone))]

    def _collect(self, started: _Started) -> Any:
        """What crosses of a call, within the deadlines of those that its worker does before it."""
        calls = started.worker.calls
        ahead = calls.index(started.crossing)
        limit = self._deadline and self._deadline * (1 + ahead)
        try:
            return ray.get(started.crossing, timeout=limit)
        finally:
            calls.remove(started.crossing)

    def _at_home(self, results: list[Any], started: _Started) -> list[Any]:
        """The results with parameters in the places of those that stay in the actor."""
        # This brings the copy here, where it is on another machine; it is there by now.
        ray.wait([started.staying], timeout=self._patience)
        members = _Set(started.token, started.staying)
        weakref.finalize(members, self._unused.append, started.token)

        def found(leaf: Any) -> Any:
            return Resident(leaf.names, members, leaf.place) if isinstance(leaf, Stays) else leaf

        return [tuple(map(found, a)) if type(a) is tuple else found(a) for a in results]

    def _tidy(self) -> None:
        """Let actors forget the parameters, and this process the tensors, that nobody holds."""
        self._sent = {k: sent for k, sent in self._sent.items() if sent[0]() is not None}
        unused, self._unused[:] = list(self._unused), []
        for worker in {worker for pool in self._pools.values() for worker in pool.places}:
            worker.calls.clear()
            if unused:
                worker.actor.forget.remote(unused)

    def _replace(self, call: _Call, lost: Worker) -> None:
        """Another worker in the place of one that is dead or hangs; once for each."""
        pool = self._pools[call.share]
        pool.notes.clear()
        self.restarts += pool.replace(lost)
        self._hear(call.share)

    def _hear(self, share: Share) -> None:
        """Pass on what there is to be said of workers that have been started."""
        pool = self._pools[share]
        self.notes += pool.notes
        self.started += [
            {"node": one.node, "share": share._asdict(), "gpus": list(one.gpus)}
            for one in pool.started
        ]
        pool.started.clear()

    def _once(self, value: Tensor) -> Any:
        """A large tensor in the object store, once for as long as it lives."""
        known = self._sent.get(id(value))
        if known is None or known[0]() is not value:
            known = weakref.ref(value), ray.put(array(value))
            self._sent[id(value)] = known
        return known[1]
