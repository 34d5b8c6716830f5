"""What a server learns of a cohort where it is not told each upload: a sum, noisy or secure.

It takes the place between `Algorithm.summand` and `Algorithm.server_from_sum`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from fedkd.communication.channel import Channel
from fedkd.communication.noisy_aggregation import (
    Cohort,
    Specs,
    all_specs,
    elected,
    nobody,
    noisy_sum,
    sensible,
    sensitivity,
)
from fedkd.communication.secure_aggregation import (
    Learnt,
    check_secure,
    secure_total,
    unseen,
    vector_bytes,
)
from fedkd.core import Algorithm, Task
from fedkd.messages import PayloadSpec, Received, Transform, on, summed
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.events import Event, RandomizedResponse
from fedkd.privacy.secure_sum import SecureSum
from fedkd.privacy.votes import NoisyVotes


@dataclass(frozen=True)
class Aggregation:
    """How a cohort's uploads become what the server learns from.

    Attributes:
        noise: on the sum; None for none.
        secure: a sum of masked vectors, of which the server sees no more than itself; None for one
            that the server makes.
        votes: noisy elections in place of means of distributions; None for no election.
        projected: whether what is summed are distributions on average alone, so that their mean has
            to be made one.
    """

    noise: ClientNoise | None = None
    secure: SecureSum | None = None
    votes: NoisyVotes | None = None
    projected: bool = False

    @property
    def compares(self) -> bool:
        """Whether the server has uploads that it can measure by each other."""
        return self.noise is None and self.secure is None and self.votes is None

    def check(self, algorithm: Algorithm, task: Task, channel: Channel, clients: int) -> None:
        """Raise ValueError, before anything runs, for what such a sum would not cover."""
        check_summed(algorithm)
        specs = [algorithm.payload_spec(task, group) for group in task.models]
        if sum(one is not None for one in (self.noise, self.secure, self.votes)) > 1:
            raise ValueError(
                "noise and elections at the server are of numbers as they are, and a secure sum is "
                "of rounded ones, which sensitivities do not know of; take one of them"
            )
        if self.noise is not None or self.votes is not None or noisy(channel):
            check_linear(algorithm)
        if self.secure is not None:
            check_secure(self.secure, algorithm, channel, clients, task.private)
        if self.votes is not None:
            check_votes(algorithm, channel, specs)
        if self.noise is not None:
            for spec in specs:
                sensitivity(self.noise, spec)
        if noisy(channel) and (self.noise is not None or self.votes is not None):
            raise ValueError(
                "labels that clients randomise are no distributions, and noise at the server is "
                "for such; take the one or the other"
            )

    def total(
        self,
        algorithm: Algorithm,
        uploads: Iterable[Received],
        cohort: Cohort,
        stream: torch.Generator | None,
    ) -> Learnt:
        """The sum that the server learns from, and of how many clients it is taken to be."""
        if self.compares:
            total, count = summed(map(algorithm.summand, uploads))
            if count and self.projected:
                total = sensible(total, all_specs(cohort), count, 0.0)
            return Learnt(total, count)
        assert stream is not None
        if self.noise is not None:
            return Learnt(*noisy_sum(self.noise, algorithm, uploads, cohort, stream))
        if self.votes is not None:
            return Learnt(*elected(self.votes, algorithm, uploads, cohort, stream))
        assert self.secure is not None
        nothing = {group: nobody(group, cohort) for group in cohort.specs}
        known = cohort.members, nothing, cohort.private
        learnt = secure_total(self.secure, algorithm, uploads, *known, stream)
        return learnt._replace(total=on(learnt.total, cohort.device))

    def bytes_of(self, algorithm: Algorithm, specs: Specs) -> Mapping[str, int] | None:
        """Bytes of an upload, where it is not sent as it is."""
        return None if self.secure is None else vector_bytes(algorithm, specs)

    def seen(self, specs: Specs) -> Specs:
        """What of the form of an upload can be held to what it claims."""
        return specs if self.secure is None else unseen(specs)


def randomised(channel: Channel, algorithm: Algorithm, specs: Iterable[Specs]) -> bool:
    """Whether uploads are distributions on average alone, and all that is learnt is their sum."""
    simplex = any(spec.simplex for group in specs for spec in group.values())
    return noisy(channel) and simplex and algorithm.properties.summand == "payload"


def noisy(channel: Channel) -> bool:
    """Whether a stage of the channel adds noise, so that nothing that is read is a distribution."""
    return any(isinstance(s, Transform) and math.isinf(s.error) for s in channel.uplink)


def label_events(epsilon: float, spec: PayloadSpec) -> tuple[Event, ...]:
    """What one upload of labels that were randomised (`krr`) costs its sender.

    Raises:
        ValueError: it says more than labels: which rows there are, or no distributions.
    """
    if spec.rows or not spec.simplex:
        raise ValueError(
            "compression krr randomises the labels of public examples, and what is sent are no "
            "distributions over them; take dsfl or fedmd"
        )
    return (RandomizedResponse(epsilon, spec.shape[-1], math.prod(spec.shape[:-1])),)


def check_summed(algorithm: Algorithm) -> None:
    """Raise ValueError unless all that the server learns of uploads is a sum of their summands."""
    name, ancestry = type(algorithm).__name__, type(algorithm).__mro__
    if not algorithm.central or algorithm.properties.summand == "none":
        raise ValueError(
            f"{name} with these settings has a server that needs each upload on its own, and is to "
            "be told a sum; take an algorithm with a summand (`kdsim list algorithms`), such as "
            "fedmd, dsfl or fedavg, or fd without leave_one_out"
        )
    if algorithm.properties.up == "nothing":
        raise ValueError(f"{name} sends nothing up, so there is no sum to protect")
    updates, learns = (
        next(one for one in ancestry if method in vars(one))
        for method in ("server_update", "server_from_sum")
    )
    if learns is Algorithm or (updates is not Algorithm and not issubclass(learns, updates)):
        raise ValueError(
            f"{name} learns from uploads in a server_update of its own, past any sum; give it "
            "server_from_sum instead"
        )


def check_linear(algorithm: Algorithm) -> None:
    """Raise ValueError where noise on a sum, or in uploads, would turn what is made of the sum."""
    if algorithm.properties.summand == "weighted rows":
        raise ValueError(
            f"{type(algorithm).__name__} with these settings weighs rows by what they say, and a "
            "sum of such weights, which may be near nothing, is not known to bear noise; take "
            "aggregation sa or era"
        )
    if algorithm.properties.divides:
        raise ValueError(
            f"{type(algorithm).__name__} divides means of labels by how many examples have them, "
            "and of two noisy sums nothing bounds the quotient; take fedavg, or fedproto, where a "
            "label is left out that noise alone might have named"
        )


def check_votes(algorithm: Algorithm, channel: Channel, specs: Iterable[Specs]) -> None:
    """Raise ValueError unless clients predict classes, and no coding stops at rows of zeros."""
    if not all(s.simplex and not s.rows for spec in specs for s in spec.values()):
        raise ValueError(
            "an election is of the classes of public examples, and what is sent are no "
            "distributions over them; take fedmd, dsfl or cfd"
        )
    if len(channel.downlink) > len(algorithm.downlink):
        raise ValueError(
            "of an example without a winner nothing is told, and no compression of distributions "
            "says that; take compression none"
        )
