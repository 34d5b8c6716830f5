"""Compression: a small student learns from what a large teacher says of unlabelled inputs."""

import time
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, classifiers, parameters


@dataclass(frozen=True)
class Compression:
    """Knowledge compression: fewer parameters, the same task.

    Geoffrey Hinton, Oriol Vinyals, Jeff Dean. "Distilling the Knowledge in a Neural Network". NIPS
    2014 Deep Learning Workshop. https://arxiv.org/abs/1503.02531

    The teacher knows all labels of the training half, the student those of `labels` examples, and
    what the teacher says of the other inputs (the transfer set). Controls: the same student with
    the labels alone; with soft targets on the labelled examples alone, which is the demonstration
    that most people try first; with all labels.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("examples whose label the student knows", ge=1)] = 100
    train: Annotated[
        int, Setting("examples that the teacher learns; of all the student sees the inputs", ge=1)
    ] = 1078
    teacher: Network = "mlp-256-256"
    student: Network = "mlp-16"
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 1.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.001, epochs=60, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.005, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of each student, ratio of parameters, and milliseconds for 500 digits."""
        few, rest, test = split(len(data.y), (self.labels, self.train - self.labels), seed)
        known, every = (labelled(data.x, data.y, rows) for rows in (few, torch.cat([few, rest])))
        start = classifiers(data, {"teacher": self.teacher, "student": self.student}, seed)
        taught = run(
            alone("teacher", every, self.teacher_training), start, generator(seed, "teach")
        )
        follow, steps = soft(self.temperature), self.student_training
        # As many steps for each student: the few labelled examples pass by more often.
        often = replace(steps, epochs=steps.epochs * len(every) // len(known))
        arms = {
            "": offline("student", ["teacher"], follow, unlabelled(every.x), steps),
            "_baseline": alone("student", known, often),
            "_same_inputs": offline("student", ["teacher"], follow, known, often),
            "_all_labels": alone("student", every, steps),
        }
        x, y = data.x[test], data.y[test]
        metrics = {}
        for arm, scheme in arms.items():
            student = run(scheme, taught, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, x, y)
        teacher = taught["teacher"]
        return metrics | {
            "accuracy_teacher": accuracy(teacher, x, y),
            "parameters_ratio": parameters(teacher) / parameters(start["student"]),
            "latency_ratio": _seconds(teacher, x) / _seconds(start["student"], x),
        }


def _seconds(one: Learner, x: torch.Tensor, repeats: int = 20) -> float:
    """The quickest of some forward passes."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        one(x)
        times.append(time.perf_counter() - began)
    return min(times)
