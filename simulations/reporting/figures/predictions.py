"""The numbers behind the figures of graph runs: what networks said of test nodes, by `Result`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simulations.results.run_results import Result

WHO = {"teacher": "teacher", "baseline": "student without KD", "student": "student with KD"}
OCTAVES = 8  # the last group of degrees, which has no end
BINS = 15  # of confidence, as in `kdcore.metrics.calibration_error`

Predictions = Mapping[str, np.ndarray]  # see `graphkd.evaluation.predictions`


class TestPredictions(NamedTuple):
    """What one network said of the test nodes of one seed.

    Shapes:
        right, confidence: (n,); seconds: (c,), of single calls.
    """

    right: np.ndarray
    confidence: np.ndarray
    seconds: np.ndarray
    predictions: Predictions


class Share(NamedTuple):
    """Accuracy on a group of nodes: mean and sample deviation over seeds, and nodes in a seed."""

    mean: float
    std: float
    nodes: float


def by_who(same: Iterable[Result]) -> dict[str, list[TestPredictions]]:
    """The predictions of teacher, student alone and student, in this order, each over seeds."""
    kept = [result.predictions for result in same if result.predictions is not None]
    found = {
        who: [
            _predictions_of(predictions, who)
            for predictions in kept
            if f"{who}.predicted" in predictions
        ]
        for who in WHO
    }
    return {who: parts for who, parts in found.items() if parts}


def shares(
    parts: Sequence[TestPredictions], groups: Callable[[Predictions], np.ndarray]
) -> dict[int, Share]:
    """The accuracy on each group of test nodes, where `groups` gives that of each node, (n,)."""
    found: dict[int, list[tuple[float, int]]] = {}
    for part in parts:
        of = groups(part.predictions)
        for name in np.unique(of):
            own = part.right[of == name]
            found.setdefault(int(name), []).append((float(own.mean()), len(own)))
    return {name: _share(*zip(*seeds, strict=True)) for name, seeds in sorted(found.items())}


def octave(degree: np.ndarray) -> np.ndarray:
    """The group of each degree (n,): 0, 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64, more, from 0."""
    up = np.ceil(np.log2(np.maximum(degree, 1))).astype(int) + 1
    return np.where(degree > 0, np.minimum(up, OCTAVES), 0)


def octave_name(group: int) -> str:
    """The degrees of a group, in words."""
    low, high = f"{2.0 ** (group - 2) + 1:.0f}", 2 ** max(group - 1, 0)
    if group == OCTAVES:
        return f"{low}+"
    return str(group) if group < 3 else f"{low}–{high}"


def reliable(parts: Sequence[TestPredictions]) -> tuple[np.ndarray, np.ndarray]:
    """Mean confidence and accuracy in each bin that has nodes, of all seeds together."""
    right = np.concatenate([part.right for part in parts])
    confidence = np.concatenate([part.confidence for part in parts])
    place = _bins(confidence)
    count = np.bincount(place, minlength=BINS)
    some = count > 0
    sums = (np.bincount(place, weights=of, minlength=BINS)[some] for of in (confidence, right))
    mean, accuracy = (total / count[some] for total in sums)
    return mean, accuracy


def calibration_error(part: TestPredictions) -> float:
    """The expected calibration error, as `kdcore.metrics` has it."""
    gap = np.bincount(_bins(part.confidence), part.right - part.confidence, BINS)
    return float(np.abs(gap).sum() / len(part.right))


def _predictions_of(predictions: Predictions, who: str) -> TestPredictions:
    right = predictions[f"{who}.predicted"] == predictions["label"]
    return TestPredictions(
        right, predictions[f"{who}.confidence"], predictions[f"{who}.seconds"], predictions
    )


def _share(accuracies: Sequence[float], counts: Sequence[int]) -> Share:
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return Share(float(np.mean(accuracies)), std, float(np.mean(counts)))


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Bins of equal width, closed on the right."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence.astype(float))
