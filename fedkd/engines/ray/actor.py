"""What runs inside a Ray actor: chunks of clients, whose parameters stay there."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.core import ELSEWHERE, Client, Task
from fedkd.engines.batched import batched
from fedkd.engines.fault_tolerance import EngineError, fault_tolerant
from fedkd.engines.ray.cluster import Room, node_name, ray, within
from fedkd.engines.ray.placement import Share
from fedkd.engines.ray.serialization import SerializedTree, array, pack, tensor, unpack
from kdcore.devices import moved
from kdcore.training.loop import Params


class Source(NamedTuple):
    """Where an actor finds a client's parameters: among its own, or else in the store."""

    token: int
    copy: Any
    place: int


class Stays:
    """In the place of a client's new parameters: their names, and their place in the chunk."""

    def __init__(self, names: tuple[str, ...], place: int) -> None:
        self.names, self.place = names, place


class _Worker:
    """An actor: the clients of some chunks, and the tensors that they share."""

    def __init__(self, share: Share) -> None:
        torch.set_num_threads(max(1, int(share.cpus)))
        cuda = share.gpus > 0 and torch.cuda.is_available()  # a share without does not hide GPUs
        self._device = torch.device("cuda" if cuda else "cpu")
        self._live: dict[int, list[Any]] = {}
        self._fetched: dict[str, Any] = {}

    @ray.method(num_returns=2)
    def run(
        self,
        function: Callable[..., Any],
        models: list[Any],
        people: list[tuple[int, str]],
        serialized: SerializedTree,
        token: int,
        dtype: torch.dtype,
    ) -> tuple[SerializedTree, dict[str, Any]]:
        """One function for a chunk of clients: what crosses, and a copy of what stays.

        `dtype` is the default floating type where the engine is, in which messages cross.
        """
        torch.set_default_dtype(dtype)
        sources, inputs = unpack(serialized, self._fetch, self._device)
        clients = [
            Client(number, group, self._params(source), ELSEWHERE)
            for (number, group), source in zip(people, sources, strict=True)
        ]
        engine = fault_tolerant(batched(len(clients)))
        results = engine(function, Task(self._fetch(models[0]), 0), clients, inputs)
        crossing: list[Any] = []
        staying: list[Params] = []
        for client, result in zip(clients, results, strict=True):
            answer, params = _parted(result, client.params, len(staying))
            crossing.append(answer)
            staying += [params] if params is not None else []
        self._live[token] = staying
        return carried(crossing, staying)

    def ready(self) -> tuple[str, list[Any]]:
        """The node that the worker is on, once it has started, and its GPUs there."""
        return node_name(ray.get_runtime_context().get_node_id()), ray.get_gpu_ids()

    def forget(self, tokens: list[int]) -> None:
        """Drop parameters that nobody asks for any more."""
        for token in tokens:
            self._live.pop(token, None)

    def _params(self, source: Any) -> Any:
        if not isinstance(source, Source):
            return source
        if source.token in self._live:
            return self._live[source.token][source.place]
        copy = restored(source.copy)
        return {k: tensor(v[source.place]).to(self._device) for k, v in copy.items()}

    def _fetch(self, reference: Any) -> Any:
        """What lies in the store, fetched once."""
        if reference.hex() not in self._fetched:
            value = ray.get(reference)
            known = value if isinstance(value, dict) else tensor(value).to(self._device)
            self._fetched[reference.hex()] = known
        return self._fetched[reference.hex()]


def carried(crossing: list[Any], staying: list[Params]) -> tuple[SerializedTree, dict[str, Any]]:
    """What crosses of a chunk of clients, and a copy of their parameters, (K, ...) each.

    Both leave the device at once: uploads that are the parameters themselves leave it once.
    """
    leaves = [value for params in staying for value in params.values()]
    here = dict(zip(map(id, leaves), moved(leaves, "cpu"), strict=True))
    names = staying[0] if staying else {}
    copy = {k: array(torch.stack([here[id(p[k])] for p in staying])) for k in names}
    return pack(tree_map(lambda leaf: here.get(id(leaf), leaf), crossing)), copy


def restored(copy: Any) -> dict[str, Any]:
    """The parameters of a chunk of clients from their copy in the object store.

    Raises:
        EngineError: it went with the machines that had it.
    """
    try:
        found: dict[str, Any] = ray.get(copy)
    except ray.exceptions.ObjectLostError:
        raise EngineError(
            "parameters of clients were lost with the machines that held them and their copies; "
            "resume from the newest checkpoint"
        ) from None
    return found


def _parted(result: Any, params: Mapping[str, Tensor], place: int) -> tuple[Any, Any]:
    """A result without the client's new parameters, and these: what has their names stays."""
    stays = Stays(tuple(params), place)
    if isinstance(result, dict) and set(result) == set(params):
        return stays, result
    if type(result) is tuple and isinstance(result[0], dict) and set(result[0]) == set(params):
        return (stays, *result[1:]), result[0]
    return result, None


def actor(share: Share, room: Room) -> Any:
    """A new actor with its share of a machine, in the place that is reserved for it."""
    options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "scheduling_strategy": within(room)}
    return ray.remote(_Worker).options(**options).remote(share)
