"""A federated run: with a server, without one among peers, or on a virtual clock."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from fedkd.communication import compression
from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel, weigh_upload
from fedkd.core import Algorithm, Engine
from fedkd.data.federated_data import FederatedData
from fedkd.privacy.spending import RoundCosts
from fedkd.rounds.asynchronous import TimedRound, check_clock, pack, simulate_timed, unpack
from fedkd.rounds.clock import Clock
from fedkd.rounds.decentralized import consensus_distance, gossip
from fedkd.rounds.round import Round
from fedkd.rounds.synchronous import simulate
from fedkd.storage.client_store import ClientStore
from kdcore.rng import generator
from simulations.config.experiments import FedExperiment
from simulations.runners.privacy import private

Record = dict[str, Any]


@dataclass(frozen=True)
class FederatedRun:
    """What an experiment runs.

    Attributes:
        experiment: with the noise that its privacy takes.
        algorithm: that of the experiment, or what peers make of it.
        channel: of all messages.
        topology: of peers (`fedkd.rounds.topology.Topology`); None where there is a server.
        costs: of a round, where there is noise or ought to be; see `simulations.runners.privacy`.
        aggregation: what the server learns of a cohort where that is not each upload.
    """

    experiment: FedExperiment
    algorithm: Algorithm
    channel: Channel
    topology: Any = None
    costs: RoundCosts | None = None
    aggregation: Aggregation | None = None

    def rounds(
        self,
        federation: FederatedData,
        engine: Engine,
        after: Round | None = None,
        store: ClientStore | None = None,
        secret: int | None = None,
    ) -> Iterator[Round]:
        """The rounds, from the beginning, or after one that was `saved`; see `simulate`."""
        e, federated = self.experiment, (federation.task, federation.clients)
        more: dict[str, Any] = {
            "rounds": e.rounds,
            "engine": engine,
            "channel": self.channel,
            "sample": e.sample,
            "seed": e.seed,
            "secret": secret,
        }
        if e.clock == Clock():
            more |= {"store": store, "aggregation": self.aggregation}
            yield from simulate(self.algorithm, *federated, after=after, **more)
        else:
            moment = None if after is None else unpack(after)
            yield from simulate_timed(self.algorithm, *federated, e.clock, after=moment, **more)

    def said(self, federation: FederatedData, current: Round) -> Record:
        """What a round's record says beside scores and bytes."""
        record: Record = {"checksum": checksum(current)}
        if isinstance(current, TimedRound):
            record |= {
                "virtual_seconds": current.now,
                "late": list(current.late),
                "stale": {str(client): age for client, age in current.stale.items()},
            }
        if self.topology is not None:
            apart = consensus_distance(self.algorithm, federation.task, current, self.channel)
            record |= {
                "consensus_distance": None if math.isnan(apart) else apart,
                "bytes_per_link": {
                    str(peer): weigh_upload(
                        self.experiment.algorithm, federation.task, peer, upload, self.channel
                    ).total()
                    for peer, upload in current.uploads.items()
                },
            }
        return record

    def metrics(self, last: Record) -> Record:
        """What the record of the run has of all this, given that of its last round."""
        known = ("virtual_seconds", "consensus_distance")
        metrics = {name: last[name] for name in known if name in last}
        if self.topology is not None:
            metrics["spectral_gap"] = self.topology.spectral_gap
            metrics["diameter"] = self.topology.diameter
        return metrics

    def drawn(self) -> Record:
        """The topology, as a report needs it to draw it; nothing where there is a server."""
        if self.topology is None:
            return {}
        links = [list(link) for link in self.topology.links]
        places = [list(place) for place in self.topology.positions.values()]
        return {"topology": {"name": self.topology.name, "links": links, "positions": places}}


def federated_run(experiment: FedExperiment, federation: FederatedData) -> FederatedRun:
    """Which rounds an experiment has, checked.

    Raises:
        ValueError: a topology that cannot be, or messages that its peers could not read; a clock
            under which late predictions would be about other examples; privacy that cannot be had.
    """
    e, costs, aggregation = private(experiment, federation)
    channel = compression.channel(e.compression, e.epsilon_label)
    channel = replace(channel, private_size=e.size_disclosure)
    check_clock(e.algorithm, federation.task, e.clock)
    if e.topology == "server":
        return FederatedRun(e, e.algorithm, channel, None, costs, aggregation)
    from fedkd.rounds.topology import build  # networkx takes a while to import

    numbers = [client.id for client in federation.clients]
    topology = build(
        e.topology,
        numbers,
        generator(e.seed, "topology"),
        degree=e.degree,
        rewiring=e.rewiring,
        radius=e.radius,
    )
    among = gossip(e.algorithm, topology.neighbourhoods)
    channel.with_algorithm(among)  # refuses what peers could not read
    return FederatedRun(e, among, channel, topology, costs)


def saved(current: Round) -> Round:
    """A round with all of its state in tensors, as a checkpoint takes it."""
    return pack(current) if isinstance(current, TimedRound) else current


def checksum(current: Round) -> str:
    """A checksum (CRC-32) of all that crossed in a round: to tell whether a replay is exact."""
    found = 0
    for messages in (current.broadcasts, {k: u.payload for k, u in current.uploads.items()}):
        for client, message in sorted(messages.items()):
            for key, value in sorted(message.items()):
                found = zlib.crc32(f"{client} {key} {value.dtype} {value.shape}".encode(), found)
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found = zlib.crc32(flat.numpy().data, found)
    return f"{found:08x}"
