"""Sums over a cohort with noise on them: what is summed, how far one client moves it, how much.

How far is by `fedkd.privacy.releases`; what comes after the noise is post-processing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedkd.core import Algorithm
from fedkd.messages import ROWS, WEIGHT, Message, PayloadSpec, Received, summed
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.mechanisms import confident_gnmax, gaussian_sum, onto_simplex
from fedkd.privacy.releases import Sizes, clipped, find
from fedkd.privacy.votes import NoisyVotes

Specs = Mapping[str, PayloadSpec]
SURE = 2.0  # standard deviations of noise by which a number of clients has to be above nobody


@dataclass(frozen=True)
class Cohort:
    """What is public of a round.

    Attributes:
        specs: group -> what its payloads must look like, of all groups that have clients.
        counts: group -> how many clients take part, or are expected to.
        held: group -> the message that the server would send it now.
        received: client number -> the message that it was sent, as it was read.
        members: client number -> group, of those who were sent it.
        private: how many examples weights are relative to in a secure sum.
        device: on which the server reads uploads.
    """

    specs: Mapping[str, Specs]
    counts: Mapping[str, float]
    held: Mapping[str, Message]
    received: Mapping[int, Message]
    members: Mapping[int, str] = field(default_factory=dict)
    private: int = 1
    device: torch.device = torch.device("cpu")


def sensitivity(noise: ClientNoise, specs: Specs) -> float:
    """How far one client can move a sum of payloads, after `bounded`.

    Raises:
        ValueError: what is sent has no bound, or is of several kinds.
    """
    kinds = {_kind(spec) for spec in specs.values()}
    name = kinds.pop()
    spec = next(iter(specs.values()))
    if kinds or (len(specs) > 1 and name != "weighted payload"):
        raise ValueError(f"no bound is known for {', '.join(specs)} together")
    if noise.bound is None and name.startswith(("prototypes", "weighted")):
        raise ValueError(
            f"{', '.join(list(specs)[:3])}: what is sent has no bound; give a norm to clip it to"
        )
    sizes = Sizes(spec.shape[0], math.prod(spec.shape[:-1]), noise.bound or 1.0)
    return find(name, noise.relation).sensitivity(sizes)


def _kind(spec: PayloadSpec) -> str:
    if spec.rows:
        return f"{'class means' if spec.simplex else 'prototypes'} and labels held"
    return "predictions" if spec.simplex else "weighted payload"


def bounded(upload: Received, specs: Specs, received: Message, bound: float | None) -> Received:
    """An upload within the bounds of its release; the sender counts once.

    Distributions are made exact ones, prototypes are clipped each. Parameters become what training
    added to them, clipped as a whole, as is whatever else there is.
    """
    payload: Message = {}
    held = None if upload.rows is None else upload.rows.double().unsqueeze(1)
    for key, spec in specs.items():
        value = upload.payload[key].double()
        if spec.trained == "parameters":
            value = value - received[key].double()
        if spec.simplex:
            value = onto_simplex(value)
        elif spec.rows:
            assert bound is not None
            value = clipped(value, bound)
        payload[key] = value if held is None else held * value
    if {_kind(spec) for spec in specs.values()} == {"weighted payload"}:
        assert bound is not None
        payload = _clipped_whole(payload, bound)
    return upload._replace(payload=payload, weight=1.0)


def _clipped_whole(payload: Message, bound: float) -> Message:
    flat = torch.cat([value.flatten() for value in payload.values()])
    parts = clipped(flat, bound).split([value.numel() for value in payload.values()])
    return {k: part.reshape(payload[k].shape) for k, part in zip(payload, parts, strict=True)}


def noisy_sum(
    noise: ClientNoise,
    algorithm: Algorithm,
    uploads: Iterable[Received],
    cohort: Cohort,
    stream: torch.Generator,
) -> tuple[Message, float]:
    """What was `released`, ready for `Algorithm.server_from_sum`, and of how many clients it is.

    How many that are is public, and not counted.
    """
    total = released(noise, algorithm, uploads, cohort, stream)
    count = sum(cohort.counts.values())
    least = SURE * noise.noise * _largest(noise, cohort)
    total = sensible(total, all_specs(cohort), count, least)
    return _with_public(algorithm, total, cohort), count


def released(
    noise: ClientNoise,
    algorithm: Algorithm,
    uploads: Iterable[Received],
    cohort: Cohort,
    stream: torch.Generator,
) -> Message:
    r"""\sum_k v_k + N(0, (z S)^2): all that is told of uploads, and what an audit looks at.

    There is noise for all groups and keys, whoever has answered, nobody included. Clients who were
    turned away, or have failed, add zeros.
    """

    def within(upload: Received) -> Received:
        specs, received = cohort.specs[upload.group], cohort.received[upload.client]
        return bounded(upload, specs, received, noise.bound)

    exact = _sum_of_all(algorithm, map(within, uploads), cohort)
    size = _largest(noise, cohort)
    return {
        key: gaussian_sum(exact[key], size, noise.noise, stream).value
        for key in sorted(exact)
        if not key.endswith(WEIGHT)
    }


def _sum_of_all(algorithm: Algorithm, uploads: Iterable[Received], cohort: Cohort) -> Message:
    """The sum of summands, with all keys of all groups, whoever has answered."""
    zeros = (nobody(group, cohort) for group in cohort.specs)
    total, _ = summed(map(algorithm.summand, chain(zeros, uploads)))
    return total


def _largest(noise: ClientNoise, cohort: Cohort) -> float:
    return max(sensitivity(noise, specs) for specs in cohort.specs.values())


def elected(
    votes: NoisyVotes,
    algorithm: Algorithm,
    uploads: Iterable[Received],
    cohort: Cohort,
    stream: torch.Generator,
) -> tuple[Message, float]:
    """A sum whose mean is all for the winner where there is one, and zeros where there is none.

    A client votes for the class that it takes for the likeliest; of equals, for the first.
    """

    def voting(upload: Received) -> Received:
        ballots = {key: _ballots(value) for key, value in upload.payload.items()}
        return upload._replace(payload=ballots)

    counts = _sum_of_all(algorithm, map(voting, uploads), cohort)
    number = sum(cohort.counts.values())
    total = {}
    for key, value in counts.items():
        flat = value.reshape(-1, value.shape[-1])
        limits = votes.threshold, votes.test_noise, votes.noise, votes.most
        labels = confident_gnmax(flat, *limits, stream).labels
        winners = one_hot(labels.clamp(min=0), value.shape[-1]) * (labels >= 0).unsqueeze(1)
        total[key] = number * winners.double().reshape(value.shape)
    return total, number


def _ballots(rows: Tensor) -> Tensor:
    return one_hot(rows.argmax(dim=-1), rows.shape[-1]).double()


def all_specs(cohort: Cohort) -> Specs:
    """What payloads must look like, by their keys, which have one shape where groups share them."""
    return reduce(lambda one, other: {**one, **other}, cohort.specs.values())


def nobody(group: str, cohort: Cohort) -> Received:
    """An upload that adds nothing."""
    specs, zeros = cohort.specs[group], torch.zeros((), dtype=torch.float64, device=cohort.device)
    payload = {key: zeros.expand(spec.shape) for key, spec in specs.items()}
    rows = next((zeros.expand(spec.shape[0]) for spec in specs.values() if spec.rows), None)
    return Received(-1, group, payload, 0.0, rows)


def sensible(total: Message, specs: Specs, count: float, least: float) -> Message:
    """A noisy sum whose mean can be what it is a mean of: post-processing.

    A label is held where noise alone would hardly say so; else noise would make every label held,
    and rows of noise the prototypes of labels that nobody has.
    """
    found = dict(total)
    if ROWS in total:
        held = total[ROWS] >= max(0.5, least)
        found[ROWS] = torch.where(held, total[ROWS].clamp(min=1), 0.0)
    for key, spec in specs.items():
        if key not in total or not (spec.rows or spec.simplex):
            continue
        parts = found[ROWS].unsqueeze(1) if spec.rows else torch.full_like(total[key], count)
        found[key] = torch.where(parts > 0, total[key], 0.0)
        if spec.simplex:
            found[key] = parts * onto_simplex(found[key] / parts.clamp(min=1))
    return found


def _with_public(algorithm: Algorithm, total: Message, cohort: Cohort) -> Message:
    """A sum of updates as one of parameters, and the weights: what was public all along."""
    weighted = algorithm.properties.summand == "weighted payload"
    whole = dict(total)
    for group, specs in cohort.specs.items():
        times = 1.0 if weighted else cohort.counts[group]
        known = nobody(group, cohort)._replace(weight=cohort.counts[group])
        base = {
            key: times * cohort.held[group][key].double()
            for key, spec in specs.items()
            if spec.trained == "parameters"
        }
        public = known._replace(payload={**known.payload, **base}, rows=None)
        whole, _ = summed([whole, algorithm.summand(public)])
    return whole
