"""What models learn to say of an example: a class, real numbers, several labels, a class a place.

A `Target` is all that follows from this: the loss on labels, the prediction that is made of a
model's outputs and sent, the losses towards what others predict, the shape in which predictions
cross the network, and how they are scored. Algorithms that exchange predictions take all of it
from the task (`fedkd.core.Task.target`), and assume nothing of classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdcore import ensemble
from kdcore.losses.precision import in_float32
from kdcore.losses.response import kl, soft_cross_entropy
from kdcore.losses.sequence import sequence_level, word_level
from kdcore.outputs import Outputs
from kdcore.training.by_hand import CrossEntropy, of_labels, of_probabilities
from kdcore.training.loop import supervised

NO_LABEL = -100  # in the place of a label: padding, as everywhere in torch


def _itself(values: Tensor) -> Tensor:
    return values


def _all_known(values: Tensor, y: Tensor | None) -> Tensor:
    return values


@dataclass(frozen=True)
class Target:
    """What follows from what a model is to say of an example. Functions of tensors alone.

    A model's outputs of B examples are (B, *S): S is (C,) for C classes, real numbers or labels,
    and (T, C) for a class at each of T places.

    Attributes:
        name: what it is called where one is chosen.
        words: what an example has, in words.
        sent: under which key predictions cross the network.
        loss: (outputs, y) -> (B,), of training on labels; it and `towards` may bring their
            gradient (`kdcore.training.by_hand`).
        prediction: outputs (B, *S) -> what is sent of them, (B, *S).
        towards: (outputs, predictions) -> (B,), of learning what others predict.
        divergence: (outputs, outputs of a peer) -> (B,), of learning from one peer; it is 0 where
            both say the same, and the peer gets no gradient.
        simplex: whether a prediction is a distribution along its last axis.
        bounds: the least and the largest number of a prediction; None where there are no such.
        known: (values (B, *S), y) -> the same, NaN where y says that nothing is to be learnt:
            `towards` and `divergence` leave such places out.
        sharpened: (predictions, temperature) -> their entropy reduction (`kdcore.ensemble`); None
            where predictions are no distributions.
        tally: (outputs (N, *S), y) -> (N, Q), of each example what `metrics` are computed from.
        metrics: sums of tallies (..., Q) -> each metric by its name, (...); the first is what
            models are compared by.
        lower: the names of metrics of which less is better.
    """

    name: str
    words: str
    sent: str
    loss: Callable[[Outputs, Tensor], Tensor]
    prediction: Callable[[Tensor], Tensor]
    towards: Callable[[Outputs, Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    tally: Callable[[Tensor, Tensor], Tensor]
    metrics: Callable[[Tensor], Mapping[str, Tensor]]
    simplex: bool = False
    bounds: tuple[float, float] | None = None
    known: Callable[[Tensor, Tensor | None], Tensor] = _all_known
    sharpened: Callable[[Tensor, float], Tensor] | None = None
    lower: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Target({self.name!r})"

    def score(self, outputs: Tensor, y: Tensor) -> float:
        """By how much outputs are right: the first metric, turned so that more is better."""
        found = self.metrics(self.tally(outputs, y).sum(dim=0))
        name = next(iter(found))
        return -float(found[name]) if name in self.lower else float(found[name])


# One class for each example.


def _towards_class(outputs: Outputs, q: Tensor) -> Tensor:
    return soft_cross_entropy(outputs.logits, q)


def _sharpened_class(q: Tensor, temperature: float) -> Tensor:
    return ensemble.entropy_reduced(q.unsqueeze(0), temperature)


def _tally_class(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.stack([outputs.argmax(dim=-1) == y, torch.ones_like(y)], dim=-1).double()


def _metrics_class(sums: Tensor) -> dict[str, Tensor]:
    return {"accuracy": sums[..., 0] / sums[..., 1]}


def _softmax(outputs: Tensor) -> Tensor:
    return outputs.softmax(dim=-1)


CLASSES = Target(
    name="class",
    words="one class",
    sent="probabilities",
    loss=CrossEntropy(supervised, of_labels),
    prediction=_softmax,
    towards=CrossEntropy(_towards_class, of_probabilities),
    divergence=kl,
    tally=_tally_class,
    metrics=_metrics_class,
    simplex=True,
    sharpened=_sharpened_class,
)
"""y is (B,), whole numbers from 0 to C - 1."""


# Real numbers.


@in_float32
def _huber(outputs: Tensor, y: Tensor) -> Tensor:
    if outputs.shape != y.shape:
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)} and real targets {tuple(y.shape)}; both "
            "have to be (N, D)"
        )
    return 2 * F.huber_loss(outputs, y.detach(), reduction="none").mean(dim=-1)


def _huber_error(outputs: Outputs, y: Tensor) -> Tensor:
    return _huber(outputs.logits, y)


def _tally_real(outputs: Tensor, y: Tensor) -> Tensor:
    gap = outputs.double() - y.double()
    return torch.cat([gap.square(), gap.abs(), torch.ones_like(gap[:, :1])], dim=1)


def _metrics_real(sums: Tensor) -> dict[str, Tensor]:
    means = sums[..., :-1] / sums[..., -1:]
    squares, sizes = means.chunk(2, dim=-1)
    return {"rmse": squares.sqrt().mean(dim=-1), "mae": sizes.mean(dim=-1)}


REAL = Target(
    name="real",
    words="real numbers",
    sent="values",
    loss=_huber_error,
    prediction=_itself,
    towards=_huber_error,
    divergence=_huber,
    tally=_tally_real,
    metrics=_metrics_real,
    lower=frozenset({"rmse", "mae"}),
)
r"""y is (B, D). A prediction is the outputs as they are.

The loss, on labels as towards others, is twice Huber's: 1/D \sum_d h(f_d - y_d) with h(x) = x^2 up
to |x| = 1, which is one standard deviation of the targets, and 2 |x| - 1 beyond. As that of a
cross-entropy its slope is bounded, so learning rates that do for classes do for real numbers, and
neither an outlier nor a prediction outside of a client's own range makes anybody diverge. Peter
Huber. "Robust Estimation of a Location Parameter". 1964. https://doi.org/10.1214/aoms/1177703732

Of several outputs rmse and mae are means over them, each of its own: 1/D \sum_d sqrt(1/N \sum_n
(f_nd - y_nd)^2).
"""


# Several labels at once.


@in_float32
def _binary(outputs: Tensor, y: Tensor) -> Tensor:
    if outputs.shape != y.shape:
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)} and labels {tuple(y.shape)}; both have to "
            "be (N, L), a column for each label"
        )
    y = y.detach().to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, y, reduction="none").mean(dim=-1)


def _binary_loss(outputs: Outputs, y: Tensor) -> Tensor:
    return _binary(outputs.logits, y)


@in_float32
def _bernoulli_kl(outputs: Tensor, peer: Tensor) -> Tensor:
    peer = peer.detach()
    there = peer.sigmoid() * (F.logsigmoid(peer) - F.logsigmoid(outputs))
    absent = (-peer).sigmoid() * (F.logsigmoid(-peer) - F.logsigmoid(-outputs))
    return (there + absent).mean(dim=-1)


def _sigmoid(outputs: Tensor) -> Tensor:
    return outputs.sigmoid()


def _sharpened_labels(p: Tensor, temperature: float) -> Tensor:
    both = torch.stack([1 - p, p], dim=-1)
    return ensemble.entropy_reduced(both.flatten(0, 1).unsqueeze(0), temperature)[:, 1].view_as(p)


def _tally_labels(outputs: Tensor, y: Tensor) -> Tensor:
    said, is_so = outputs > 0, y > 0.5
    parts = [said & is_so, said & ~is_so, ~said & is_so, said == is_so]
    lost = 0 * outputs.double()  # NaN of a model that has diverged, which says neither
    return torch.cat([part.double() + lost for part in parts], dim=1)


def _metrics_labels(sums: Tensor) -> dict[str, Tensor]:
    hits, false, missed, right = sums.chunk(4, dim=-1)
    f1 = 2 * hits / (2 * hits + false + missed).clamp(min=torch.finfo(sums.dtype).tiny)
    each = right / (right + false + missed)
    return {"f1_macro": f1.mean(dim=-1), "label_accuracy": each.mean(dim=-1)}


LABELS = Target(
    name="labels",
    words="several labels at once",
    sent="probabilities",
    loss=_binary_loss,
    prediction=_sigmoid,
    towards=_binary_loss,
    divergence=_bernoulli_kl,
    tally=_tally_labels,
    metrics=_metrics_labels,
    bounds=(0.0, 1.0),
    sharpened=_sharpened_labels,
)
r"""y is (B, L) of 0 and 1. A prediction is a probability for each label, on its own.

The loss is the mean over labels of the binary cross-entropy. A label is said from a probability of
a half on. f1_macro is the mean over labels of 2 TP / (2 TP + FP + FN), which is 0 for a label that
nobody has and nobody says (`zero_division=0` of scikit-learn); label_accuracy the mean over labels
of the share of examples on which it is said rightly.
"""


# A class at each place of a sequence.


def _sequence_loss(outputs: Outputs, y: Tensor) -> Tensor:
    return sequence_level(outputs.logits, y, y != NO_LABEL)


def _known_places(values: Tensor, y: Tensor | None) -> Tensor:
    if y is None:
        return values
    return values.masked_fill((y == NO_LABEL).unsqueeze(-1), torch.nan)


@in_float32
def _towards_places(outputs: Tensor, q: Tensor) -> Tensor:
    there = ~q.isnan().any(dim=-1)
    known = q.masked_fill(~there.unsqueeze(-1), 0)  # a row of zeros adds nothing
    each = soft_cross_entropy(outputs.flatten(0, 1), known.flatten(0, 1)).reshape(there.shape)
    return each.sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _towards_sequence(outputs: Outputs, q: Tensor) -> Tensor:
    return _towards_places(outputs.logits, q)


def _divergence_sequence(outputs: Tensor, peer: Tensor) -> Tensor:
    return word_level(outputs, peer, ~peer.isnan().any(dim=-1))


def _sharpened_sequence(q: Tensor, temperature: float) -> Tensor:
    return _sharpened_class(q.flatten(0, 1), temperature).view_as(q)


def _tally_sequence(outputs: Tensor, y: Tensor) -> Tensor:
    there = y != NO_LABEL
    labels = y.masked_fill(~there, 0)
    log_p = outputs.double().log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    right = (outputs.argmax(dim=-1) == y) & there
    loss = -log_p.masked_fill(~there, 0)
    return torch.stack([loss, right.double(), there.double()], dim=-1).sum(dim=1)


def _metrics_sequence(sums: Tensor) -> dict[str, Tensor]:
    loss, right, count = sums.unbind(dim=-1)
    return {"perplexity": (loss / count).exp(), "token_accuracy": right / count}


SEQUENCE = Target(
    name="sequence",
    words="a class at each place of a sequence",
    sent="probabilities",
    loss=_sequence_loss,
    prediction=_softmax,
    towards=_towards_sequence,
    divergence=_divergence_sequence,
    tally=_tally_sequence,
    metrics=_metrics_sequence,
    simplex=True,
    known=_known_places,
    sharpened=_sharpened_sequence,
    lower=frozenset({"perplexity"}),
)
r"""y is (B, T), whole numbers from 0 to C - 1, or -100 at places of which nothing is to be learnt.

The loss of a sequence is the mean over its places that count. Which place tells of which token (the
shift by one of a language model) is a matter of the data. perplexity is exp of the mean over all
places that count, so long sequences weigh more; token_accuracy the share of them that is right.
"""

TARGETS = {one.name: one for one in (CLASSES, REAL, LABELS, SEQUENCE)}
ALL = tuple(TARGETS)
