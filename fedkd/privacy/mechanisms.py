"""Mechanisms on sums and labels: pure functions that give what may be released, and its events.

What comes in has to be within the bounds of its release (`fedkd.privacy.releases`): noise is no use
where one client can send what it likes. Noise is drawn in float64 on the CPU; it is as secret as
the generator's seed.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.privacy.events import Event, Gaussian, RandomizedResponse


class Noisy(NamedTuple):
    """What may be released, and the events that it costs."""

    value: Tensor
    events: tuple[Event, ...]


class Elected(NamedTuple):
    """What an ensemble elects where it is sure enough.

    Attributes:
        labels: (N,) the class elected, -1 where nothing is said.
        events: of all tests, and of all elections that were allowed.
    """

    labels: Tensor
    events: tuple[Event, ...]


def gaussian_sum(
    total: Tensor, sensitivity: float, noise: float, generator: torch.Generator
) -> Noisy:
    r"""A sum over clients, with Gaussian noise: \sum_k v_k + N(0, (z S)^2).

    Cynthia Dwork, Aaron Roth. "The Algorithmic Foundations of Differential Privacy". 2014.
    https://doi.org/10.1561/0400000042

    Convention: noise on the **sum**, once; dividing by the number of clients comes after. With z =
    `noise_multiplier(epsilon, delta)` it is (epsilon, delta)-private for the unit and the relation
    that S is of.

    Shapes:
        total: any; gives the same, in float64.

    Raises:
        ValueError: the sensitivity or the noise is negative or not finite, or a number of the
            total is not.
    """
    if not 0 <= sensitivity < math.inf:
        raise ValueError(
            f"sensitivity is {sensitivity}; it has to be finite and at least 0: clip what is sent"
        )
    event = Gaussian(noise)
    if not total.isfinite().all():
        raise ValueError("the sum has numbers that are not finite, which no noise hides")
    return Noisy(_noisy(total, noise * sensitivity, generator), (event,))


def randomized_response(
    labels: Tensor, classes: int, epsilon: float, generator: torch.Generator
) -> Noisy:
    """Labels of which each is kept, or replaced by another one drawn evenly: k-ary response.

    Peter Kairouz, Keith Bonawitz, Daniel Ramage. "Discrete Distribution Estimation under Local
    Privacy". ICML 2016. https://arxiv.org/abs/1602.07387

    A label is kept with probability e^epsilon / (e^epsilon + C - 1). Epsilon is of **each label**.

    Shapes:
        labels: (N,) of 0 .. C - 1; gives the same.

    Raises:
        ValueError: epsilon is not positive, there are fewer than two classes, or a label is none.
    """
    event = RandomizedResponse(epsilon, classes, labels.numel())
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels are from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{classes - 1}"
        )
    keep, _ = _chances(epsilon, classes)
    kept = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < keep
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    other = (labels + shift.to(labels.device)) % classes
    return Noisy(torch.where(kept.to(labels.device), labels, other), (event,))


def unbiased(labels: Tensor, classes: int, epsilon: float) -> Tensor:
    """Rows whose mean is the one-hot row of the label before `randomized_response`.

    ([c = y] - q) / (p - q), where p is the chance of keeping a label and q that of any one other.
    Entries may be negative, and so may be a mean of few rows: see `onto_simplex`.

    Shapes:
        labels: (N,); gives (N, C) in float64.
    """
    keep, other = _chances(epsilon, classes)
    rows = torch.nn.functional.one_hot(labels.long(), classes).double()
    return (rows - other) / (keep - other)


def onto_simplex(rows: Tensor) -> Tensor:
    """The nearest distributions: max(row - t, 0), with t such that the sum is 1.

    John Duchi, Shai Shalev-Shwartz, Yoram Singer, Tushar Chandra. "Efficient Projections onto the
    l1-Ball for Learning in High Dimensions". ICML 2008. https://doi.org/10.1145/1390156.1390191

    Learning from means of unbiased rows needs it: cross-entropy towards a negative entry has no
    lower bound. It is post-processing, and costs nothing.

    Shapes:
        rows: (..., C); gives the same.
    """
    ordered = rows.sort(dim=-1, descending=True).values
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    levels = (ordered.cumsum(-1) - 1) / count
    support = (ordered > levels).sum(-1, keepdim=True)
    return (rows - levels.gather(-1, support - 1)).clamp(min=0)


def confident_gnmax(
    counts: Tensor,
    threshold: float,
    test_noise: float,
    noise: float,
    most: int,
    generator: torch.Generator,
) -> Elected:
    r"""Winners of noisy votes, where the noisy number of votes for the first is large enough.

    Nicolas Papernot, Shuang Song, Ilya Mironov, Ananth Raghunathan, Kunal Talwar, Úlfar Erlingsson.
    "Scalable Private Learning with PATE". ICLR 2018. https://arxiv.org/abs/1802.08908

        \max_c n_c + N(0, \sigma_1^2) >= T:   argmax_c (n_c + N(0, \sigma_2^2));   else nothing

    Convention: epsilon does not depend on the votes. All N tests and `most` elections are paid for,
    whether they take place or not; after that many, nothing is said. A teacher's data that is
    replaced moves the largest count by 1, and the counts by sqrt 2.

    Shapes:
        counts: (N, C) votes; gives (N,).

    Raises:
        ValueError: there is no (N, C), a noise is negative or not finite, or `most` is negative.
    """
    if counts.ndim != 2:
        raise ValueError(f"counts have shape {tuple(counts.shape)}; expected (N, C)")
    events = gnmax_events(len(counts), test_noise, noise, most)
    sure = _noisy(counts.amax(1), test_noise, generator) >= threshold
    spoken = sure & (sure.cumsum(0) <= most)
    winners = _noisy(counts, noise, generator).argmax(1)
    return Elected(torch.where(spoken, winners, -1), events)


def gnmax_events(queries: int, test_noise: float, noise: float, most: int) -> tuple[Event, ...]:
    """What `confident_gnmax` costs, whatever the votes are."""
    tests = Gaussian(test_noise, queries)
    return tests, Gaussian(noise / math.sqrt(2), min(most, queries))


def _chances(epsilon: float, classes: int) -> tuple[float, float]:
    """Of keeping a label, and of any one of the others; for any epsilon without an overflow."""
    odds = math.exp(-epsilon)
    return 1 / (1 + (classes - 1) * odds), odds / (1 + (classes - 1) * odds)


def _noisy(values: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    return values.double() + deviation * drawn.to(values.device)
