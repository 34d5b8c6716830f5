"""Shadow models: clients of the attacker's own, who learn what the target was told to learn.

Reza Shokri, Marco Stronati, Congzheng Song, Vitaly Shmatikov. "Membership Inference Attacks against
Machine Learning Models". IEEE S&P 2017. https://arxiv.org/abs/1610.05820

A shadow is a client like any other: it goes through the recorded rounds with the very messages that
the target was told, by the algorithm's own `client_update`, on private examples that the attacker
has chosen. All shadows are one cohort, so that an engine can stack them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Client, Engine, Public, Task
from fedkd.engines.batched import batched
from fedkd.messages import Message, Received
from kdcore.rng import generator
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import Params, Predict, predict_logits


class Shadows(NamedTuple):
    """Shadow models and what the attacker has asked them.

    Shapes:
        member: (S, N) bool, which of the candidates each has learnt from.
        predictions: (S, N + Z, C) logits, about candidates and population.
        sent: the newest upload of each, as a server reads it.
        params: of each, after the last round.
        earlier: what each sent in the rounds before.
    """

    member: Tensor
    predictions: Tensor
    sent: tuple[Received, ...]
    params: tuple[Params, ...]
    earlier: tuple[tuple[Received, ...], ...] = ()


@dataclass(frozen=True)
class ShadowConfig:
    """How the targets learn, as far as the attacker has to know it to train models like theirs.

    Attributes:
        algorithm: of the federation.
        task: of the federation; its models are architectures, without parameters.
        group: the targets' architecture.
        received: of each round in which they took part, the message down, as it is read.
        public: of each of these rounds, the public examples.
        channel: of messages up, so that a shadow's upload is coded as a target's is.
        engine: who trains them.
    """

    algorithm: Algorithm
    task: Task
    group: str
    received: tuple[Message, ...] = ({},)
    public: tuple[Public | None, ...] = (None,)
    channel: Channel = Channel()
    engine: Engine = batched()  # noqa: RUF009  (it keeps nothing but notes)

    def train(
        self, examples: Examples, parts: Sequence[Tensor], asked: Examples, seed: int
    ) -> Shadows:
        """A shadow model for each part, and what they answer.

        Args:
            examples: of which the parts are.
            parts: for each shadow, places among the rows of the examples.
            asked: about what they are asked.
            seed: of initial parameters and mini-batches.
        """
        model = self.task.models[self.group]
        clients = [
            Client(
                number,
                self.group,
                model.init(generator(seed, "shadow", number)),
                Examples(examples.x, examples.y, examples.rows[part]),
            )
            for number, part in enumerate(parts)
        ]
        sent: list[tuple[Received, ...]] = []
        for index, (received, public) in enumerate(zip(self.received, self.public, strict=True)):
            clients, now = self._round(clients, received, public, seed, index)
            sent.append(tuple(now))
        predictions = self.ask([client.params for client in clients], asked)
        member = torch.zeros(len(parts), len(examples), dtype=torch.bool)
        for row, part in zip(member, parts, strict=True):
            row[part] = True
        params = tuple(client.params for client in clients)
        return Shadows(member, predictions, sent[-1], params, tuple(sent[:-1]))

    def ask(self, params: Sequence[Params], asked: Examples) -> Tensor:
        """(S, A, C), the logits of models of this architecture about A examples."""
        clients = [Client(i, self.group, one, asked) for i, one in enumerate(params)]
        given = (asked.x, asked.rows)
        return torch.stack(self.engine(_predicted, self.task, clients, [given] * len(clients)))

    def _round(
        self, clients: list[Client], received: Message, public: Public | None, seed: int, index: int
    ) -> tuple[list[Client], list[Received]]:
        """A round of all shadows."""
        local = self.algorithm.local
        inputs = [
            (received, draw(c.private, local, generator(seed, "shadow", index, c.id)), public)
            for c in clients
        ]
        results = self.engine(self.algorithm.client_update, self.task, clients, inputs)
        channel = self.channel.with_algorithm(self.algorithm).given_broadcast(received)
        spec = self.algorithm.payload_spec(self.task, self.group)
        after, sent = [], []
        for client, (params, upload) in zip(clients, results, strict=True):
            coded = channel.send_up(upload, generator(seed, "shadow up", index, client.id))
            read = channel.read_up(coded, spec)
            after.append(replace(client, params=params))
            weight = float(read.weight)
            sent.append(Received(client.id, self.group, read.payload, weight, read.rows))
        return after, sent


def halves(count: int, wanted: int, stream: torch.Generator) -> list[Tensor]:
    """Places of 0 .. count - 1 for an even number of shadows, in pairs of a half and the others.

    So each place is in exactly half of them, which makes the best of few (as in the code of LiRA's
    authors), and all have as much to learn from, give or take one.
    """
    found = []
    for _ in range(wanted // 2):
        order = torch.randperm(count, generator=stream)
        found += [part.sort().values for part in order.tensor_split(2)]
    return found


def _predicted(predict: Predict, params: Params, x: Any, wanted: Tensor) -> Tensor:
    return predict_logits(predict, params, x, wanted)
