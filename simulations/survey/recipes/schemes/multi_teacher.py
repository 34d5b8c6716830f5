"""Many teachers: five who know 60 labels each, and a student of what they say together."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore import ensemble
from kdcore.metrics import accuracy
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import pooled, run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import learner


@dataclass(frozen=True)
class MultiTeacher:
    """Multi-teacher distillation: the teachers' answers are pooled, and the pool teaches.

    Shan You, Chang Xu, Chao Xu, Dacheng Tao. "Learning from Multiple Teacher Networks". KDD 2017.
    https://doi.org/10.1145/3097983.3098135; weighted by how sure each is, after Kwon, Na, Lee, Kim,
    "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020,
    https://doi.org/10.1109/ICASSP40776.2020.9054698.

    Teachers have separate examples; the student has inputs without labels. `_baseline` listens to
    the first teacher alone; `_weighted` to the average by entropy, `_votes` to the majority.
    `_ensemble` are the five themselves, averaged; `_teacher` is their mean accuracy.
    """

    data: ClassVar[str] = "digits"

    teachers: Annotated[int, Setting("how many", ge=1)] = 5
    labels: Annotated[int, Setting("labelled examples of each teacher", ge=1)] = 60
    transfer: Annotated[int, Setting("examples that the student sees, without labels", ge=1)] = 900
    network: Network = "mlp-64"
    sharpness: Annotated[float, Setting("of the weights by entropy; 0 is the plain mean", ge=0)] = (
        3.0
    )
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.005, epochs=60, batch_size=20)
    student_training: StudentTraining = TrainingConfig("adam", 0.004, epochs=50, batch_size=60)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the students, of the teachers and of their ensembles."""
        sizes = (*[self.labels] * self.teachers, self.transfer)
        *private, transfer, test = split(len(data.y), sizes, seed)
        student = learner(self.network, data.shape, data.num_classes, seed, "student")
        learners = {"student": student}
        names = [f"teacher{i}" for i in range(self.teachers)]
        for name, rows in zip(names, private, strict=True):
            start = learner(self.network, data.shape, data.num_classes, seed, name)
            scheme = alone(name, labelled(data.x, data.y, rows), self.teacher_training)
            learners |= run(scheme, {name: start}, generator(seed, "teach", name))
        by_entropy = partial(ensemble.entropy_weighted, sharpness=self.sharpness)
        arms = {
            "": (names, pooled(ensemble.mean)),
            "_weighted": (names, pooled(by_entropy)),
            "_votes": (names, pooled(_majority)),
            "_baseline": (names[:1], soft()),
        }
        x, y = data.x[test], data.y[test]
        said = torch.stack([learners[name](x).logits.softmax(1) for name in names])
        metrics = {
            "accuracy_teacher": sum(accuracy(p, y) for p in said) / len(said),
            "accuracy_ensemble": accuracy(ensemble.mean(said), y),
            "accuracy_ensemble_weighted": accuracy(by_entropy(said), y),
        }
        inputs = unlabelled(data.x[transfer])
        for arm, (teachers, loss) in arms.items():
            scheme = offline("student", teachers, loss, inputs, self.student_training)
            taught = run(scheme, learners, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(taught(x).logits, y)
        return metrics


def _majority(probabilities: Tensor) -> Tensor:
    """What most teachers choose, as certain: (M, N, C) -> (N, C). No noise, so nothing is drawn."""
    chosen = ensemble.votes(probabilities, math.inf, torch.Generator()).labels
    one_hot = torch.nn.functional.one_hot(chosen, probabilities.shape[2])
    return one_hot.to(probabilities.dtype)
