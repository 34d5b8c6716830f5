"""Without a server: each peer is the server of its own neighbourhood.

Of the many ways to do so (DFML: Yasser Khalil et al. "Decentralized Federated Mutual Learning".
2024. https://arxiv.org/abs/2402.01863, is one) this is gossip over what the algorithm uploads.

In each round a peer sends its upload to all its neighbours, and updates a server of its own from
what it hears, its own upload included. Nothing goes down. On a complete topology all these
servers are one and the same, and the run is the one with a server.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Properties, Public, Server, Task
from fedkd.messages import ANY, Message, PayloadSpec, Received, Stage, Upload
from fedkd.rounds.round import Round
from fedkd.targets import Target
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig


@dataclass(frozen=True)
class Gossip(Algorithm):
    """An algorithm whose server half runs at every peer, for its neighbourhood alone.

    It is an algorithm itself, so that rounds, engines and checkpoints take it as they take any: its
    server is all local servers in one, under keys `PEER/KEY`. A peer that is not in a round's
    cohort sends nothing, but hears; who hears nobody keeps what it knows. Up: the upload, once over
    each link. Down: nothing; a peer's broadcast is what it tells itself, and is not weighed.

    Attributes:
        algorithm: what peers do.
        neighbourhoods: peer -> whom it hears, itself included.
    """

    algorithm: Algorithm = field(kw_only=True)
    neighbourhoods: Mapping[int, frozenset[int]] = field(kw_only=True)

    @property
    def properties(self) -> Properties:  # type: ignore[override]  # it is not one for all
        """Those of the algorithm; what a server would learn, neighbours do."""
        return self.algorithm.properties

    def learning(self, target: Target) -> "Gossip":
        """The algorithm of the peers, for a task of this target."""
        return replace(self, algorithm=self.algorithm.learning(target))

    @property
    def public_training(self) -> TrainingConfig | None:
        """That of the algorithm."""
        return self.algorithm.public_training

    @property
    def central(self) -> bool:
        """There is no server."""
        return False

    def copies(self, client: int) -> int:
        """An upload goes to each of those who hear the peer, but itself."""
        return sum(client in hears for peer, hears in self.neighbourhoods.items() if peer != client)

    @property
    def asks(self) -> int | None:
        """That of the algorithm."""
        return self.algorithm.asks

    @property
    def uplink(self) -> tuple[Stage, ...]:
        """That of the algorithm."""
        return self.algorithm.uplink

    @property
    def downlink(self) -> tuple[Stage, ...]:
        """That of the algorithm; a peer tells itself what a server would send."""
        return self.algorithm.downlink

    def check(self, task: Task) -> None:
        """That of the algorithm."""
        self.algorithm.check(task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """All peers begin with the same knowledge."""
        start = self.algorithm.init(task, generator)
        return {f"{p}/{key}": value for p in self.neighbourhoods for key, value in start.items()}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """What a peer tells itself."""
        return self.algorithm.broadcast(_own(server, client), client, group)

    def broadcasts(self, server: Server, cohort: Mapping[int, str]) -> dict[int, Message]:
        """One by one: each peer has a server of its own."""
        return {client: self.broadcast(server, client, group) for client, group in cohort.items()}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """That of the algorithm."""
        return self.algorithm.client_update(predict, params, received, private, public)

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Those of the algorithm."""
        return self.algorithm.mini_batches(received, private, public)

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """What a peer tells itself."""
        return self.algorithm.deployment(_own(server, client), client, group)

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """That of the algorithm."""
        return self.algorithm.deploy(predict, params, received, public)

    def server_model(self, task: Task, server: Server) -> None:
        """None: each peer would have one of its own."""
        return

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """Those of the algorithm."""
        return self.algorithm.payload_spec(task, group)

    def summand(self, upload: Received) -> Message:
        """That of the algorithm; each peer adds up those of its neighbourhood."""
        return self.algorithm.summand(upload)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """Nobody has the sum of all: raises ValueError."""
        raise ValueError("peers add up their neighbourhoods' uploads, and nobody those of all")

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """The algorithm's, at each peer, with the uploads that it hears."""
        everything, found = list(uploads), Server()
        for peer, hears in self.neighbourhoods.items():
            received, own = [u for u in everything if u.client in hears], _own(server, peer)
            if received:
                own = self.algorithm.server_update(task, own, received, public)
            found |= {f"{peer}/{key}": value for key, value in own.items()}
        return found


def gossip(algorithm: Algorithm, neighbourhoods: Mapping[int, frozenset[int]]) -> Gossip:
    """The algorithm without a server.

    Args:
        algorithm: any; one whose server takes a mean makes neighbours agree.
        neighbourhoods: peer -> whom it hears, itself included (`Topology.neighbourhoods`).

    Raises:
        ValueError: a peer does not hear itself; or the algorithm selects on examples that only a
            server has. (Codings that neighbours cannot read are refused by
            `Channel.with_algorithm`.)
    """
    if algorithm.properties.validation != "none":
        raise ValueError(
            f"{type(algorithm).__name__} with these settings selects on labelled examples of the "
            "server, and among peers there is none; change the settings, or take the topology "
            "server"
        )
    for peer, hears in neighbourhoods.items():
        if peer not in hears:
            raise ValueError(f"peer {peer} must hear itself, its neighbourhood is {sorted(hears)}")
    return Gossip(algorithm.local, algorithm=algorithm, neighbourhoods=neighbourhoods)


def consensus_distance(
    algorithm: Algorithm,
    task: Task,
    current: Round,
    channel: Channel = Channel(),  # noqa: B008
) -> float:
    """How far apart the peers' uploads of a round are: their consensus distance.

    Lingjing Kong, Tao Lin, Anastasia Koloskova, Martin Jaggi, Sebastian U. Stich. "Consensus
    Control for Decentralized Deep Learning". ICML 2021. https://arxiv.org/abs/2102.04828

    sqrt(mean_{k, n} ||m_k[n] - mean_j m_j[n]||^2), over the K peers that sent something and the
    rows n of it: for predictions, the distance of a peer's distribution to the mean one, at most 1
    or so. Peers whose uploads have other shapes (parameters of another architecture) have a mean of
    their own; rows that a peer does not hold are left out, and so is what each says of its own
    examples, which no two share. NaN where nothing else was sent.
    """
    alike: dict[tuple[str, str], list[Upload]] = {}  # by their shapes, and by name: some come once
    groups = {client.id: client.group for client in current.clients}
    for peer, upload in current.uploads.items():
        payload_spec = algorithm.payload_spec(task, groups[peer])
        if peer not in current.rejected:
            reader = channel.with_algorithm(algorithm).given_broadcast(
                channel.read_down(current.broadcasts[peer])
            )
            read = reader.read_up(upload, payload_spec)
            for key in read.payload:
                if ANY not in payload_spec[key].shape:
                    alike.setdefault((repr(payload_spec), key), []).append(read)
    total, count = 0.0, 0.0
    for (_, key), uploads in alike.items():
        values = torch.stack([u.payload[key].cpu().double() for u in uploads])  # (K, R, ...)
        held = torch.stack([_held(u, values.shape[1]) for u in uploads])  # (K, R)
        values = values.reshape(*held.shape, -1)  # zeros where a peer holds nothing
        mean = values.sum(dim=0) / held.sum(dim=0).clamp(min=1).unsqueeze(-1)
        gaps = (values - mean).square().sum(dim=-1) * held
        total, count = total + float(gaps.sum()), count + float(held.sum())
    return math.sqrt(total / count) if count else math.nan


def _held(upload: Upload, rows: int) -> Tensor:
    """(R,), 1 for the rows that the peer holds."""
    if upload.rows is None:
        return torch.ones(rows, dtype=torch.float64)
    return upload.rows.cpu().double()


def _own(server: Server, peer: int) -> Server:
    start = f"{peer}/"
    return {k.removeprefix(start): v for k, v in server.items() if k.startswith(start)}
