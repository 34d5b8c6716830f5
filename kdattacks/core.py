"""The nouns of an attack on privacy. Read this first.

An attacker has seen what crossed (`Recorded`), knows what is declared (`Knowledge`), and says how
sure he is of each thing in question (`Scores`). An `Attack` is that function. What is true is none
of its arguments: it is compared with the scores afterwards (`kdattacks.truth`), so that no attack
can see it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedkd.core import Public
from fedkd.messages import Message, Received
from kdattacks.shadows import ShadowConfig, Shadows, halves
from kdcore.rng import generator
from kdcore.training.batches import Examples, leading


def flat(x: Any) -> Tensor:
    """Inputs that are numbers, as vectors."""
    return leading(x).flatten(1).double()


Target = int | str
Subject = Literal["members", "labels", "counts", "images", "links", "property"]

MISSING = {  # why an audit may not have it
    "shadowing": "what targets were told is of single records of their own, so that no shadow "
    "learns as they did; take another attack",
    "population": "all labelled examples that no target has are candidates; take another attack, "
    "or a run with more test examples",
}


@dataclass(frozen=True)
class Recorded:
    """What the attacker has seen of some targets.

    Attributes:
        targets: T of them: numbers of clients; or "teacher", "student", ... of a graph run.
        received: of each round, client number -> the message down to it, as it is read.
        sent: of each round, client number -> its upload, as the server reads it.
        public: of each round, the public examples that it was about, which are common knowledge.
        predictions: target -> the logits that it answers with where the attacker may ask it:
            (N + Z, C) for the N candidates and then the population of Z; of graphs (N, C) for what
            is asked about. Empty where nobody may ask.
        replies: target that holds a graph -> the logits (N, C) that it would answer with for its N
            nodes, by its own edges, if their features were these, (N, D). Empty likewise.
    """

    targets: tuple[Target, ...]
    received: Sequence[Mapping[Any, Message]] = ()
    sent: Sequence[Mapping[Any, Received]] = ()
    public: Sequence[Public | None] = ()
    predictions: Mapping[Any, Tensor] = field(default_factory=dict)
    replies: Mapping[Any, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def uploads(self) -> list[Received]:
        """The newest upload of each target that says anything: one may name no row at all.

        What is said of public examples round by round is in `history`.

        Raises:
            ValueError: one of them has sent nothing.
        """
        found = []
        for target in self.targets:
            mine = [sent[target] for sent in self.sent if target in sent]
            if not mine:
                raise ValueError(f"client {target} has sent nothing that could be read")
            saying = [one for one in mine if one.rows is None or bool(one.rows.any())]
            found.append((saying or mine)[-1])
        return found

    def history(self, target: Target) -> list[tuple[Received, Public | None]]:
        """The uploads of a target, round by round, and the public examples that each is about."""
        rounds = zip(self.sent, self.public, strict=True)
        return [(sent[target], public) for sent, public in rounds if target in sent]

    def newest(self, target: Target, name: str) -> Received | None:
        """The newest upload that has a tensor of this name, which may be sent but once."""
        mine = (sent[target] for sent in reversed(self.sent) if target in sent)
        return next((one for one in mine if name in one.payload), None)

    def asked(self) -> Tensor:
        """(T, N + Z, C), what all targets answer.

        Raises:
            ValueError: the attacker may not ask them.
        """
        if missing := [target for target in self.targets if target not in self.predictions]:
            raise ValueError(f"{missing[0]} answers no questions; take an attack on what crossed")
        return torch.stack([self.predictions[target] for target in self.targets])

    def answering(self, target: Target) -> Callable[[Tensor], Tensor]:
        """What a target answers about its nodes if their features were others: see `replies`.

        Raises:
            ValueError: the attacker may not ask so.
        """
        if target not in self.replies:
            raise ValueError(f"{target} is asked about no other features; take another attack")
        return self.replies[target]


@dataclass(frozen=True)
class Knowledge:
    """What the attacker knows beside what crossed, declared.

    Attributes:
        num_classes: C.
        candidates: N examples with labels, whose membership is in question.
        population: Z examples with labels, of the same kind, that no target has; the attacker's.
        shadowing: how targets learn: the algorithm, the architecture, and what they were told.
        shadows_wanted: S, how many shadow models he trains.
        seed: of what he draws for these.
        pairs: (2, M) nodes of a graph, of whom he asks whether they are linked.
        features: (N, D) of these nodes, without their links.
        trait: (N,) of the examples in the table of the population, whether one has a property.
        as_numbers: makes of N inputs numbers (N, D) by which they can be compared, in float64.
    """

    num_classes: int
    candidates: Examples | None = None
    population: Examples | None = None
    shadowing: ShadowConfig | None = None
    shadows_wanted: int = 64
    seed: int = 0
    pairs: Tensor | None = None
    features: Tensor | None = None
    trait: Tensor | None = None
    as_numbers: Callable[[Any], Tensor] = flat

    @cached_property
    def shadows(self) -> Shadows:
        """Shadow models, each trained on half of the candidates; trained when first asked for."""
        candidates = self.known("candidates")
        parts = halves(len(candidates), self.shadows_wanted, generator(self.seed, "halves"))
        config: ShadowConfig = self.known("shadowing")
        return config.train(candidates, parts, self.asked, self.seed)

    @property
    def asked(self) -> Examples:
        """The candidates, then the population: what targets and shadow models are asked about."""
        candidates: Examples = self.known("candidates")
        population = self.population
        if population is None:
            return candidates
        every = torch.cat([candidates.rows, population.rows])
        return Examples(candidates.x, candidates.y, every)

    def known(self, name: str) -> Any:
        """What has a name among all this.

        Raises:
            ValueError: the attacker does not know it.
        """
        found = getattr(self, name)
        if found is None:
            why = MISSING.get(name, "take another attack")
            raise ValueError(f"this attack needs {name} in the attacker's knowledge; {why}")
        return found

    def enough(self, fewest: int) -> None:
        """Raise ValueError where there are fewer shadow models than an attack needs, or an odd one.

        They come in pairs: what one of a pair has learnt from, the other one has not.
        """
        if self.shadows_wanted < fewest or self.shadows_wanted % 2:
            raise ValueError(
                f"shadows: {self.shadows_wanted}; this attack takes an even number from {fewest} "
                "on, such as 64"
            )


class Scores(NamedTuple):
    """What the attacker says.

    Attributes:
        values: higher where he is surer. The shape is that of the subject's truth, see
            `kdattacks.truth`: (T, N) of members, (T, M) of links, (T, C) shares of labels, (T,)
            counts of records, (T, C, D) images of labels, (T,) of a property.
        of: what he speaks of.
    """

    values: Tensor
    of: Subject = "members"


Attack = Callable[[Recorded, Knowledge, torch.Generator], Scores]
