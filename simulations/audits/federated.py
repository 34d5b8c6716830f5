"""Attacks on a federated run: its rounds are run again, and the attacker sees what the server saw.

Members are a client's own private records; those who are none are test examples, which nobody has
trained on, with the same labels; where clients hold graphs, the client's own test examples, since
what others hold is unlike. What the attacker knows: the algorithm and its settings, the
architectures, the public examples, labelled examples of his own kind (other test examples; of one
graph the public nodes), and the candidates; of nodes also the client's other ones and its links,
where he trains models like the client's. Links are asked about in `client_links`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkd.components.features import embedding
from fedkd.core import Client, Public
from fedkd.data.federated_data import FederatedData, flipped
from fedkd.engines.batched import batched
from fedkd.messages import ANY, Message, Received, on
from fedkd.rounds.clock import Clock
from fedkd.rounds.round import Round, public_of
from kdattacks import Attack, Knowledge, Recorded, Scores, ShadowConfig, truth
from kdattacks.scoring import Decisions
from kdcore.rng import generator
from kdcore.training.batches import Examples, rows
from simulations.audits.candidates import Candidates, matched
from simulations.audits.outcomes import Outcome
from simulations.execution.replay import Opened, opened, read_upload

# Attacks that look at all clients at once; others are asked about one client after the other.
TOGETHER = ("labels", "counts", "invert", "property")
POPULATION = 1000  # examples of the attacker's own, at the most
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Audit:
    """A federated run up to a round, as an attacker at the server has seen it.

    Attributes:
        replay: the run.
        federation: on the CPU.
        last: the round.
        targets: the clients that are attacked.
        received, sent, public: of each round, see `kdattacks.Recorded`.
        shadows: how many shadow models are trained for each client.
    """

    replay: Opened
    federation: FederatedData
    last: Round
    targets: tuple[int, ...]
    received: tuple[Mapping[int, Message], ...]
    sent: tuple[Mapping[int, Received], ...]
    public: tuple[Public | None, ...]
    shadows: int

    @property
    def seed(self) -> int:
        """Of the run, and so of the attacks."""
        return self.replay.experiment.seed

    @property
    def about(self) -> dict[str, Any]:
        """The run, as records name it."""
        e = self.replay.experiment
        return {
            "method": e.name,
            "data": e.data,
            "protocol": e.protocol,
            "seed": e.seed,
            "round": self.last.index,
        }

    def outcome(self, name: str, attack: Attack) -> Outcome:
        """What comes of an attack on all targets.

        Raises:
            ValueError: it needs what did not cross.
        """
        stream = generator(self.seed, "attack", name)
        if name in TOGETHER:
            return self._judged(name, [attack(self.recorded, self.knowledge, stream)])
        scores = [
            attack(one.recorded, one.knowledge, generator(self.seed, "attack", name, one.client.id))
            for one in self.cases
        ]
        return self._judged(name, scores)

    def _judged(self, name: str, scores: Sequence[Scores]) -> Outcome:
        """Scores, of all targets at once or of one after the other, beside the truth."""
        about = {"attack": name, **self.about, "clients": list(self.targets)}
        stream = generator(self.seed, "control", name)
        if scores[0].of == "members":
            facts = [truth.Facts(case.member.unsqueeze(0)) for case in self.cases]
            pairs = list(zip(facts, scores, strict=True))
            parts = [fact.decisions(score, stream) for fact, score in pairs]
            return Outcome(about, Decisions.pooled(parts), {})
        whole = Scores(torch.cat([score.values for score in scores]), scores[0].of)
        known = self._truth(whole.of)
        return Outcome(about, known.decisions(whole, stream), known.measures(whole))

    def _truth(self, subject: str) -> truth.Truth:
        """What is true of all targets."""
        held = torch.stack([_label_counts(client, self._classes) for client in self.clients])
        if subject == "labels":
            return truth.LabelCounts(held)
        if subject == "counts":
            return truth.RecordCounts(held.sum(1))
        if subject == "property":
            return truth.Facts(torch.stack([self._with_trait(one) for one in self.clients]))
        if subject == "images":
            means = torch.stack([self._means(one) for one in self.clients])
            return truth.Images(means, held > 0, self._numbers(self.population).mean(0))
        raise ValueError(f"{subject} is nothing that an attack on a federated run can speak of")

    @property
    def clients(self) -> list[Client]:
        """The targets as they are."""
        return [self.federation.clients[number] for number in self.targets]

    @property
    def _classes(self) -> int:
        return self.federation.task.num_classes

    @cached_property
    def labels(self) -> Tensor:
        """(N,) of all examples; where private ones have wrong labels, as many test ones have."""
        y, rows = self.federation.clients[0].private.y, self.federation.test.rows
        if not self.replay.experiment.label_noise:
            return y
        share, stream = self.replay.experiment.label_noise, generator(self.seed, "audit noise")
        found = y.clone()
        found[rows] = flipped(y[rows], share, self._classes, stream)
        return found

    def others(self, client: int) -> Tensor:
        """Test examples, as candidates beside those that a client has trained on."""
        rows = self.federation.test.rows
        if not self.replay.experiment.graph:
            return rows
        return rows[self.federation.kinds == client]

    @cached_property
    def population(self) -> Examples:
        """Examples of the attacker's own."""
        rows = self.federation.test.rows
        if self.replay.experiment.graph == "nodes":
            shown = self.federation.task.public
            rows = rows[:0] if shown is None else shown[:, 0]
            rows = rows[self.labels[rows] >= 0]
        chosen = torch.randperm(len(rows), generator=generator(self.seed, "population"))
        return Examples(self.federation.test.x, self.labels, rows[chosen[:POPULATION]])

    @cached_property
    def trait(self) -> Tensor:
        """(N,) the property that is asked about: a label of the first half."""
        return self.labels < self._classes / 2

    def as_numbers(self, x: Any) -> Tensor:
        """Inputs as vectors (N, D): of graphs those that networks on them know of their inputs."""
        (first, *_) = self.federation.task.models.values()
        return embedding(first.predict)({}, x).logits.double()

    def _numbers(self, examples: Examples) -> Tensor:
        return self.as_numbers(rows(examples.x, examples.rows))

    def _means(self, client: Client) -> Tensor:
        """(C, D), the mean image of each label at a client; zeros of those it does not hold."""
        numbers, y = self._numbers(client.private), client.private.y[client.private.rows]
        found = numbers.new_zeros(self._classes, numbers.shape[1]).index_add(0, y, numbers)
        return found / torch.bincount(y, minlength=self._classes).clamp(min=1).unsqueeze(1)

    def _with_trait(self, client: Client) -> Tensor:
        return self.trait[client.private.rows].double().mean() > 0.5

    @property
    def recorded(self) -> Recorded:
        """What was seen of all targets."""
        return Recorded(self.targets, self.received, self.sent, self.public)

    @property
    def knowledge(self) -> Knowledge:
        """Where all targets are attacked at once: shadows have the architecture of the first."""
        return Knowledge(
            self._classes,
            population=self.population if len(self.population) else None,
            shadowing=self.shadow_config(self.targets[0]),
            shadows_wanted=self.shadows,
            seed=self.seed,
            trait=self.trait,
            as_numbers=self.as_numbers,
        )

    @cached_property
    def cases(self) -> "list[Case]":
        """Each target by itself, with the candidates for its records.

        Raises:
            ValueError: no client has records of labels that test examples have too.
        """
        found = [Case(self, client) for client in self.clients]
        found = [case for case in found if case.member.any()]
        if not found:
            raise ValueError("no test examples have the labels of private ones; set more apart")
        return found

    def shadow_config(self, client: int) -> ShadowConfig | None:
        """How a client learnt; None where what it was told is about its very records."""
        algorithm, task = self.replay.way.algorithm, self.federation.task
        group = self.federation.clients[client].group
        spec = algorithm.payload_spec(task, group)
        if any(one.shape and one.shape[0] == ANY for one in spec.values()):
            return None
        rounds = [
            (received[client], public) for received, public in self._rounds() if client in received
        ]
        received, public = zip(*rounds, strict=True)
        return ShadowConfig(
            algorithm, task, group, received, public, self.replay.way.channel, batched()
        )

    def _rounds(self) -> list[tuple[Mapping[int, Message], Public | None]]:
        return list(zip(self.received, self.public, strict=True))


class Case:
    """One client, and the candidates for its private records."""

    def __init__(self, audit: Audit, client: Client) -> None:
        self.audit, self.client = audit, client
        stream = generator(audit.seed, "candidates", client.id)
        x, y, others = audit.federation.test.x, audit.labels, audit.others(client.id)
        chosen: Candidates = matched(client.private.rows, others, y, stream)
        self.member = chosen.member
        left = others[~torch.isin(others, chosen.rows)]
        left = left[torch.randperm(len(left), generator=stream)[:POPULATION]]
        self._candidates = Examples(x, y, chosen.rows)
        self._population = Examples(x, y, left) if len(left) else None

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the attacker knows; its shadow models are trained once for all attacks."""
        audit = self.audit
        return Knowledge(
            audit.federation.task.num_classes,
            self._candidates,
            self._population,
            audit.shadow_config(self.client.id),
            audit.shadows,
            audit.seed,
            as_numbers=audit.as_numbers,
        )

    @cached_property
    def recorded(self) -> Recorded:
        """What was seen, and what the client's own model answers after its last training."""
        audit, number = self.audit, self.client.id
        params = on(dict(audit.last.clients[number].params), CPU)
        asked, task = self.knowledge.asked, audit.federation.task
        config = ShadowConfig(audit.replay.way.algorithm, task, self.client.group)
        predictions = {number: config.ask([params], asked)[0]}
        return Recorded((number,), audit.received, audit.sent, audit.public, predictions)


def seen(
    folder: Path, root: Path | None, shadows: int, client: int | None, index: int | None
) -> Audit:
    """A run, run again up to a round (by default the last one), as the server has seen it.

    Raises:
        ValueError: no such round or client; the run has no server, or a clock; or it is not as it
            was.
        FileNotFoundError: a data file is missing.
    """
    replay = opened(folder, root)
    last = _checked(replay, client, index)
    rounds = list(replay.rounds(last))
    federation = replay.federation.to(CPU)
    way, e = replay.way, replay.experiment
    channel = way.channel.with_algorithm(way.algorithm)
    received = tuple(
        {k: on(channel.read_down(sent), CPU) for k, sent in current.broadcasts.items()}
        for current in rounds
    )
    sent = tuple(dict(_received(replay, current)) for current in rounds)
    public = tuple(public_of(way.algorithm, federation.task, e.seed, r.index) for r in rounds)
    there = [k for k in sorted(sent[-1]) if len(federation.clients[k].private)]
    targets = tuple(there if client is None else [client])
    if not set(targets) <= set(there) or not targets:
        others = f"; there were {', '.join(map(str, there))}" if there else ""
        raise ValueError(f"nothing of client {client} was read in round {last}{others}")
    return Audit(replay, federation, rounds[-1], targets, received, sent, public, shadows)


def _checked(replay: Opened, client: int | None, index: int | None) -> int:
    """The number of the round; ValueError for what cannot be audited."""
    e, name = replay.experiment, replay.run.path.name
    if e.topology != "server" or e.clock != Clock():
        what = f"topology {e.topology}" if e.topology != "server" else "a clock"
        raise ValueError(f"{name} has {what}; an audit follows synchronous rounds with a server")
    if e.secure_sum:
        raise ValueError(
            f"{name} has a secure sum: of a client the server saw masked numbers, and an audit is "
            "of uploads; audit a run without secure_sum for what the masks hide"
        )
    if client is not None and not 0 <= client < e.clients:
        raise ValueError(f"--client {client}: the clients of {name} are 0 to {e.clients - 1}")
    ran = max((r["round"] for r in replay.run.records if r.get("record") == "round"), default=0)
    last = ran if index is None else index
    if not 1 <= last <= ran:
        raise ValueError(f"--round {last}: {name} has the rounds 1 to {ran}")
    return last


def _received(replay: Opened, current: Round) -> Iterator[tuple[int, Received]]:
    """The uploads that the server could read."""
    for client in current.uploads:
        upload = None if client in current.rejected else read_upload(replay, current, client)
        if upload is not None:
            group = replay.federation.clients[client].group
            rows = None if upload.rows is None else upload.rows.cpu()
            payload = on(upload.payload, CPU)
            yield client, Received(client, group, payload, float(upload.weight), rows)


def _label_counts(client: Client, classes: int) -> Tensor:
    return torch.bincount(client.private.y[client.private.rows], minlength=classes)
