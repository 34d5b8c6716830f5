"""Dark knowledge: a student that never saw a 3 knows it from what its teacher says of others."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.metrics import accuracy
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import Scheme, run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import classifiers


@dataclass(frozen=True)
class DarkKnowledge:
    """Response-based knowledge: the classes that a teacher does not choose teach as well.

    Geoffrey Hinton, Oriol Vinyals, Jeff Dean. "Distilling the Knowledge in a Neural Network". NIPS
    2014 Deep Learning Workshop, section 3. https://arxiv.org/abs/1503.02531

    The transfer set has no example of the `hidden` digit. What is measured is `recall`, the share
    of its test examples that a student gets right. A student who was never told of a class
    underrates it; `_shifted` is after Hinton's remedy, see `shifted`. Controls: T = 1; and labels
    in place of the teacher (`_baseline`, with the remedy, as it would be 0 without).
    """

    data: ClassVar[str] = "digits"

    hidden: Annotated[int, Setting("the digit that nobody is shown", ge=0, le=9)] = 3
    train: Annotated[int, Setting("examples that the teacher learns", ge=1)] = 1078
    aside: Annotated[
        int, Setting("examples by which the hidden digit's logit is shifted", ge=1)
    ] = 200
    teacher: Network = "mlp-256-256"
    student: Network = "mlp-64-64"
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 20.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.001, epochs=40, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Recall of the hidden digit and accuracy over all digits, on the test half."""
        every, aside, test = split(len(data.y), (self.train, self.aside), seed)
        shown = labelled(data.x, data.y, every[data.y[every] != self.hidden])
        start = classifiers(data, {"teacher": self.teacher, "student": self.student}, seed)
        scheme = alone("teacher", labelled(data.x, data.y, every), self.teacher_training)
        taught = run(scheme, start, generator(seed, "teach"))
        teacher, y = taught["teacher"], data.y[test]

        def scores(scheme: Scheme) -> tuple[Tensor, Tensor]:
            student = run(scheme, taught, generator(seed, "learn"))["student"]
            plain = student(data.x[test]).logits
            return plain, shifted(plain, student(data.x[aside]).logits, self.hidden)

        def follow(temperature: float) -> Scheme:
            return offline("student", ["teacher"], soft(temperature), shown, self.student_training)

        plain, mended = scores(follow(self.temperature))
        cold, cold_mended = scores(follow(1.0))
        none, none_mended = scores(alone("student", shown, self.student_training))
        return {
            "recall": recall(plain, y, self.hidden),
            "recall_shifted": recall(mended, y, self.hidden),
            "recall_cold": recall(cold, y, self.hidden),
            "recall_cold_shifted": recall(cold_mended, y, self.hidden),
            "recall_baseline": recall(none_mended, y, self.hidden),
            "recall_teacher": recall(teacher(data.x[test]).logits, y, self.hidden),
            "accuracy": accuracy(plain, y),
            "accuracy_shifted": accuracy(mended, y),
            "accuracy_baseline": accuracy(none, y),
            "accuracy_baseline_shifted": accuracy(none_mended, y),
            "accuracy_teacher": accuracy(teacher(data.x[test]).logits, y),
        }


def shifted(logits: Tensor, aside: Tensor, column: int) -> Tensor:
    """The logits with one class's raised, if that takes it, until 1 in C examples is of the class.

    Hinton et al. choose the shift that does best on the test set; here it takes no label, but
    examples put aside, of which 1 in C is of the class. It is never lowered.

    Shapes:
        logits: (N, C); aside: (M, C), of examples of all classes; gives (N, C).
    """
    rest = [c for c in range(aside.shape[1]) if c != column]
    lack = aside[:, rest].amax(1) - aside[:, column]
    moved = logits.clone()
    moved[:, column] += torch.quantile(lack, 1 / aside.shape[1]).clamp(min=0)
    return moved


def recall(logits: Tensor, y: Tensor, label: int) -> float:
    """The share of examples of a label for which it has the largest logit."""
    mine = y == label
    return accuracy(logits[mine], y[mine])
