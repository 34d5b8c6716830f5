"""Knowledge quality: what about a teacher's answers tells how much a student gains by them?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore import metrics
from kdcore.losses import response, teacher_free
from kdcore.losses.logarithms import negative_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Stage, labels, run
from kdcore.settings import Setting
from kdcore.training.batches import draw
from kdcore.training.loop import TrainingConfig, fit
from simulations.survey.datasets import labelled, share_right, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner

ARMS = ("", "_plain", "_scaled", "_sharp", "_smoothed")


class SoftLabels(NamedTuple):
    """What a teacher says of the inputs: logits (N, C), and which of `ARMS` they are part of."""

    arms: tuple[str, ...]
    logits: Tensor


@dataclass(frozen=True)
class Quality:
    """Many teachers answer the same inputs, and of each one's answers a student learns.

    Aditya Menon, Ankit Rawat, Sashank Reddi, Seungyeon Kim, Sanjiv Kumar. "A Statistical
    Perspective on Distillation". ICML 2021. https://arxiv.org/abs/2005.10419: what counts is how
    right a teacher's probabilities are, and not its accuracy alone. Rafael Müller, Simon
    Kornblith, Geoffrey Hinton. "When Does Label Smoothing Help?". NeurIPS 2019.
    https://arxiv.org/abs/1906.02629: smoothing makes better teachers and worse students. Chuan Guo,
    Geoff Pleiss, Yu Sun, Kilian Weinberger. "On Calibration of Modern Neural Networks". ICML 2017.
    https://arxiv.org/abs/1706.04599: one temperature calibrates a network.

    Teachers differ in their networks, in how long they learn and in whether their labels are
    smoothed (`_smoothed`, or else `_sharp`). Each answers at temperature 1 (`_plain`), at the one
    that fits labels kept aside (`_scaled`), and at others, of which none changes the class that it
    chooses. Quality is measured on the very inputs that are answered: accuracy, expected
    calibration error, entropy, and log loss, which is of all these. A student learns the answers
    alone; its gain is over the same student with labels alone (`_baseline`), on test examples.

    `rank_*` is Spearman's correlation of the gain with a quality over the teachers of one seed,
    `rank_*_fixed` the partial one, in which the ranks of accuracy are held fixed.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[
        int, Setting("labelled examples of the student that has no teacher", ge=1)
    ] = 100
    train: Annotated[int, Setting("examples that the teachers learn", ge=1)] = 500
    asked: Annotated[int, Setting("inputs that the teachers answer", ge=1)] = 600
    aside: Annotated[int, Setting("labels by which temperatures are fitted", ge=1)] = 150
    teachers: Annotated[
        tuple[str, ...],
        Setting("networks; `kdsim list models`", min_length=1, names="fedkd.models"),
    ] = ("mlp-8", "mlp-32", "mlp-128-128")
    lengths: Annotated[
        tuple[float, ...],
        Setting(
            "shares of the teachers' epochs; each network learns for each", gt=0, le=1, min_length=1
        ),
    ] = (0.1, 0.3, 1.0)
    smoothing: Annotated[float, Setting("of half of the teachers' labels", ge=0, le=1)] = 0.2
    temperatures: Annotated[
        tuple[float, ...], Setting("at which teachers answer beside 1 and the fitted one", gt=0)
    ] = (0.25, 4.0)
    student: Network = "mlp-16"
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.005, epochs=50, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.005, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Correlations of the gain with qualities, and means by how the answers were made."""
        sizes = (self.labels, self.train, self.asked, self.aside)
        few, train, asked, aside, test = split(len(data.y), sizes, seed)
        x, y = data.x[test], data.y[test]
        said = [
            one
            for arm, teacher in self._taught(data, train, seed)
            for one in self._soft_labels(arm, teacher, data, asked, aside)
        ]
        start = learner(self.student, data.shape, data.num_classes, seed, "student")
        logits = self._students(start, [one.logits for one in said], data.x[asked], x, seed)
        scores = [share_right(one, y) for one in logits]
        # As many steps for the student of labels, whose examples pass by more often.
        steps = self.student_training
        often = replace(steps, epochs=steps.epochs * len(asked) // len(few))
        scheme = alone("student", labelled(data.x, data.y, few), often)
        baseline = accuracy(
            run(scheme, {"student": start}, generator(seed, "learn"))["student"], x, y
        )
        right = data.y[asked]
        found = {
            "accuracy": [metrics.accuracy(one.logits, right) for one in said],
            "calibration_error": [metrics.calibration_error(one.logits, right) for one in said],
            "entropy": [entropy(one.logits) for one in said],
            "loss": [float(response.cross_entropy(one.logits, right).mean()) for one in said],
        }
        gains = [score - baseline for score in scores]
        return {
            **ranked(gains, found),
            "gain_least": min(gains),
            "gain_most": max(gains),
            "accuracy_baseline": baseline,
            **by_arm(said, {"accuracy": scores}),
            **by_arm(said, {f"teacher_{name}": values for name, values in found.items()}),
        }

    def _taught(self, data: Dataset, train: Tensor, seed: int) -> list[tuple[str, Learner]]:
        """The teachers and the arm of each; those that learn as long learn at the same time."""
        examples = labelled(data.x, data.y, train)
        losses = {"_sharp": labels, "_smoothed": self.smoothed}
        names = [(network, arm) for network in self.teachers for arm in losses]
        start = {
            f"{network}{arm}": learner(network, data.shape, data.num_classes, seed, network)
            for network, arm in names
        }
        terms = {f"{network}{arm}": (LossTerm(losses[arm]),) for network, arm in names}
        found = []
        for length in self.lengths:
            epochs = max(1, round(length * self.teacher_training.epochs))
            stage = Stage(terms, examples, replace(self.teacher_training, epochs=epochs))
            after = run([stage], start, generator(seed, "teach"))
            found += [(arm, after[f"{network}{arm}"]) for network, arm in names]
        return found

    def smoothed(self, own: Outputs, y: Tensor) -> Tensor:
        """The loss of smoothed labels: (B,)."""
        target = teacher_free.smoothed_labels(y, own.logits.shape[-1], self.smoothing)
        return response.soft_cross_entropy(own.logits, target)

    def _soft_labels(
        self, arm: str, teacher: Learner, data: Dataset, asked: Tensor, aside: Tensor
    ) -> list[SoftLabels]:
        """What a teacher says at each temperature."""
        logits = teacher(data.x[asked]).logits
        fitted = temperature_of(teacher(data.x[aside]).logits, data.y[aside])
        return [
            SoftLabels(("", "_plain", arm), logits),
            SoftLabels(("", "_scaled"), logits / fitted),
            *(SoftLabels(("",), logits / other) for other in self.temperatures),
        ]

    def _students(
        self, start: Learner, said: Sequence[Tensor], x: Tensor, test: Tensor, seed: int
    ) -> Tensor:
        """The logits of a student of each one's answers: they begin alike, and learn as a stack."""
        batches = draw(unlabelled(x), self.student_training, generator(seed, "learn"))

        def learnt(target: Tensor) -> Tensor:
            seen = batches._replace(y=target)
            params = fit(start.predict, start.params, seen, self.student_training, follow)
            return start.predict(params, test).logits

        logits: Tensor = torch.func.vmap(learnt)(torch.stack(tuple(said)).softmax(-1))
        return logits


def follow(student: Outputs, target: Tensor) -> Tensor:
    """The loss of soft targets that are given as probabilities (B, C)."""
    return response.soft_cross_entropy(student.logits, target)


def entropy(logits: Tensor) -> float:
    """The mean entropy of predictions (N, C), in nats."""
    return -float(negative_entropy(logits.double().log_softmax(-1)).mean())


def temperature_of(logits: Tensor, y: Tensor) -> float:
    """The temperature between 1/50 and 50 at which labels (N,) have the least log loss."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return float(response.cross_entropy(logits.double() / 10**logarithm, y).mean())

    far = math.log10(50)
    return float(10 ** minimize_scalar(loss, bounds=(-far, far), method="bounded").x)


def ranked(gains: Sequence[float], found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The rank correlation of gains with each quality, also with the accuracy's ranks held fixed.

    Charles Spearman. "The Proof and Measurement of Association between Two Things". 1904.
    https://doi.org/10.2307/1412159; the partial one is (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)
    (1 - r_yz^2)), z the accuracy.

    Raises:
        ArithmeticError: all gains, or all values of a quality, are the same.
    """
    from scipy.stats import spearmanr

    for name, values in {"gain": gains, **found}.items():
        if len(set(values)) < 2:
            raise ArithmeticError(
                f"{name} is {values[0]:.4g} of all {len(values)} answers, so without an order; "
                "take teachers that differ more, or train them longer"
            )

    def of(one: Sequence[float], other: Sequence[float]) -> float:
        return float(spearmanr(one, other).statistic)

    fixed = found["accuracy"]
    known = of(gains, fixed)
    ranks = {name: of(gains, values) for name, values in found.items()}
    for name, values in found.items():
        if name != "accuracy":
            shared = of(values, fixed)
            rest = math.sqrt(max(0.0, (1 - known**2) * (1 - shared**2)))
            ranks[f"{name}_fixed"] = (ranks[name] - known * shared) / rest if rest else math.nan
    return {f"rank_{name}": value for name, value in ranks.items()}


def by_arm(said: Sequence[SoftLabels], columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Means over the answers of each arm."""
    return {
        f"{name}{arm}": fmean(v for v, one in zip(values, said, strict=True) if arm in one.arms)
        for arm in ARMS
        for name, values in columns.items()
    }
