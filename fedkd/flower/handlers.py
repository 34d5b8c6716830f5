"""What a client does with a request: open it, run the algorithm's function, close it.

One node does so for itself (`fedkd.flower.client_app`); `fedkd.flower.grids.client_pool` does it
for many nodes, with one call of an engine between the opening and the closing. There is no third
way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Client, Public, Task
from fedkd.flower.wire.serde import (
    DISTIL,
    SCORE,
    check_terms,
    integer,
    pack_upload,
    terms,
    typed,
    unpack,
)
from fedkd.messages import Message, Upload
from fedkd.rounds.round import private_of_all, public_of
from kdcore.rng import generator
from kdcore.training.loop import Params


class ClientRuntime(NamedTuple):
    """What one node plays.

    Attributes:
        algorithm, task, channel: the same as the server's; any difference is an error.
        client: who it is, with the parameters it begins with.
        score: measures a client whose model is ready for use; None where nobody asks.
        secret: the seed of the client's own draws: its mini-batches, and the noise of its training
            and its uplink. None takes the run's seed: the run can be repeated, and the server, who
            knows that seed, can take the noise off again. Where noise is to protect from the
            server, give every client a secret of its own.
    """

    algorithm: Algorithm
    task: Task
    client: Client
    channel: Channel = Channel()
    score: Callable[[Client], Mapping[str, float]] | None = None
    secret: int | None = None

    @property
    def learner(self) -> Algorithm:
        """The algorithm, for what the task is about."""
        return self.algorithm.learning(self.task.target)

    @property
    def wire(self) -> Channel:
        """The channel, with the algorithm's own coding."""
        return self.channel.with_algorithm(self.algorithm)

    def own_seed(self, seed: int) -> int:
        """Of the client's own draws; `seed` is the run's."""
        return seed if self.secret is None else self.secret

    def terms(self) -> ConfigRecord:
        """What the server has to agree with."""
        return ConfigRecord(dict(terms(self.algorithm, self.task, self.channel)))


def present(runtime: ClientRuntime, params: Params | None, content: RecordDict) -> ClientRuntime:
    """The runtime with the parameters that its client kept from its last round, if there was one.

    Raises:
        ValueError: the server had an answer, and nothing was kept. So it is with a SuperNode that
            was restarted: it comes back under its old number, if it has a key, and without state.
    """
    if params is not None:
        return runtime._replace(client=runtime.client.with_params(params))
    if last := typed(content, "order", ConfigRecord).get("last", 0):
        raise ValueError(
            f"it has answered in round {last!r} and lost its parameters since; was it restarted?"
        )
    return runtime


class DeliveryCache:
    """What the requests of a round have in common, read and drawn once.

    Engines see by the identity of tensors what clients share; so the same bytes have to become the
    same tensors. A memo is for one delivery: it goes by the identity of objects that it keeps.
    """

    def __init__(self) -> None:
        self._read: dict[Any, tuple[Message, ArrayRecord]] = {}
        self._public: dict[Any, tuple[Public | None, Task]] = {}

    def received(self, channel: Channel, downlink: str, record: ArrayRecord) -> Message:
        """A broadcast as it is read; `downlink` is the channel in words."""
        same = ((k, id(a.data), a.dtype, a.shape, a.stype) for k, a in record.items())
        key = (downlink, *same)
        if key not in self._read:
            self._read[key] = channel.read_down(unpack(record)), record
        return self._read[key][0]

    def public(
        self, runtime: ClientRuntime, algorithm: str, seed: int, index: int
    ) -> Public | None:
        """The public examples of a round; `algorithm` is the runtime's in words."""
        key = (id(runtime.task), algorithm, seed, index)
        if key not in self._public:
            self._public[key] = (
                public_of(runtime.algorithm, runtime.task, seed, index),
                runtime.task,
            )
        return self._public[key][0]


@dataclass(frozen=True, eq=False)
class Work:
    """An opened request.

    Attributes:
        runtime: whose it is, with the parameters that the client has now.
        agreed: the runtime's terms.
        index, seed: of the round.
        inputs: what the algorithm's function is given beside the model and its parameters.
    """

    runtime: ClientRuntime
    agreed: ConfigRecord
    index: int
    seed: int
    inputs: tuple[Any, ...]


class RequestKind(NamedTuple):
    """A kind of request, in four steps.

    Attributes:
        open: (runtime, its terms, content, memo) -> the work.
        ready: some works of one algorithm -> the same with what is drawn for each.
        function: the part of the algorithm that does it.
        close: (work, what the function returned) -> the content of the reply, and the parameters
            that the client keeps, if they are new.
    """

    open: Callable[[ClientRuntime, ConfigRecord, RecordDict, DeliveryCache], Work]
    ready: Callable[[Sequence[Work]], list[Work]]
    function: Callable[[Algorithm], Callable[..., Any]]
    close: Callable[[Work, Any], tuple[RecordDict, Params | None]]


def _open_distil(
    runtime: ClientRuntime, agreed: ConfigRecord, content: RecordDict, memo: DeliveryCache
) -> Work:
    """One round of a client: read the broadcast."""
    index, seed, received = _read(runtime, agreed, content, memo)
    public = memo.public(runtime, str(agreed["algorithm"]), seed, index)
    return Work(runtime, agreed, index, seed, (received, public))


def _ready_to_distil(works: Sequence[Work]) -> list[Work]:
    """With the mini-batches between broadcast and public examples; a seed's are drawn at once."""
    found = list(works)
    alike: dict[tuple[int, int], list[int]] = {}
    for place, work in enumerate(works):
        alike.setdefault((work.runtime.own_seed(work.seed), work.index), []).append(place)
    for (seed, index), places in alike.items():
        clients = [works[place].runtime.client for place in places]
        drawn = private_of_all(works[places[0]].runtime.algorithm, clients, seed, index)
        for place, private in zip(places, drawn, strict=True):
            received, public = works[place].inputs
            found[place] = replace(works[place], inputs=(received, private, public))
    return found


def _close_distil(work: Work, result: tuple[Params, Upload]) -> tuple[RecordDict, Params]:
    """Send up through the channel; keep the parameters."""
    params, upload = result
    runtime = work.runtime
    answer = runtime.wire.given_broadcast(work.inputs[0])
    stream = generator(runtime.own_seed(work.seed), "up", work.index, runtime.client.id)
    sent = answer.send_up(upload, stream)
    return pack_upload(sent, work.agreed), params


def _open_score(
    runtime: ClientRuntime, agreed: ConfigRecord, content: RecordDict, memo: DeliveryCache
) -> Work:
    """How good the model is that the client would use now (`federation.deployed`)."""
    if runtime.score is None:
        raise ValueError("this client was built without a way to score itself")
    index, seed, received = _read(runtime, agreed, content, memo)
    public = memo.public(runtime, str(agreed["algorithm"]), seed, index + 1)
    return Work(runtime, agreed, index, seed, (received, public))


def _close_score(work: Work, params: Params) -> tuple[RecordDict, None]:
    """Measure, and keep nothing."""
    assert work.runtime.score is not None
    scores = work.runtime.score(replace(work.runtime.client, params=params))
    report = MetricRecord({name: float(value) for name, value in scores.items()})
    return RecordDict({"scores": report}), None


def _read(
    runtime: ClientRuntime, agreed: ConfigRecord, content: RecordDict, memo: DeliveryCache
) -> tuple[int, int, Message]:
    """The round, the seed and the broadcast of a request under the right terms."""
    order = typed(content, "order", ConfigRecord)
    check_terms(order, agreed)  # before anything leaves: no upload past a wrong channel
    words = str(agreed["downlink"]) + str(agreed["algorithm"])
    received = memo.received(runtime.wire, words, typed(content, "broadcast", ArrayRecord))
    return integer(order, "round"), integer(order, "seed"), received


KINDS = {
    DISTIL: RequestKind(
        *(_open_distil, _ready_to_distil, lambda algorithm: algorithm.client_update, _close_distil)
    ),
    SCORE: RequestKind(_open_score, list, lambda algorithm: algorithm.deploy, _close_score),
}
