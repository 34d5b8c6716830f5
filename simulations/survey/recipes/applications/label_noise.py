"""Noisy labels: a teacher of the few that were checked, for a student of the many that were not."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import flipped
from kdcore.losses import response, teacher_free
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import LossTerm, Stage, run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, classifiers


@dataclass(frozen=True)
class LabelNoise:
    """Learning from noisy labels, with a side of what a teacher of clean labels says.

    Yuncheng Li, Jianchao Yang, Yale Song, Liangliang Cao, Jiebo Luo, Li-Jia Li. "Learning from
    Noisy Labels with Distillation". ICCV 2017. https://arxiv.org/abs/1703.02391

        hard CE(student, noisy y) + (1 - hard) KL(teacher || student)

    on all examples, of which those that were checked have their right label. Controls: the labels
    alone (`baseline`); labels smoothed to as much doubt as a constant teacher would add
    (`smoothed`), which regularises too and knows nothing; the teacher alone (`taught_only`).
    """

    data: ClassVar[str] = "digits"

    checked: Annotated[
        int, Setting("examples whose label is right, of which the teacher learns", ge=1)
    ] = 100
    train: Annotated[
        int, Setting("examples that the student learns, checked ones and others", ge=1)
    ] = 1078
    wrong: Annotated[float, Setting("share of the other labels that is wrong", ge=0, le=1)] = 0.4
    model: Network = "mlp-64"
    hard: Annotated[
        float, Setting("weight of the labels, the rest is the teacher's", ge=0, le=1)
    ] = 0.3
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=100, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=40, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the students, and of the teacher."""
        few, rest, test = split(len(data.y), (self.checked, self.train - self.checked), seed)
        y = data.y.clone()
        y[rest] = flipped(y[rest], self.wrong, data.num_classes, generator(seed, "wrong"))
        known, every = (labelled(data.x, y, rows) for rows in (few, torch.cat([few, rest])))
        start = classifiers(data, {"teacher": self.model, "student": self.model}, seed)
        taught = run(
            alone("teacher", known, self.teacher_training), start, generator(seed, "teach")
        )

        def mixed(hard: float) -> list[Stage]:
            return offline("student", ["teacher"], soft(), every, self.student_training, hard)

        def smoothed(student: Outputs, y: Tensor) -> Tensor:
            doubt = teacher_free.smoothed_labels(y, data.num_classes, 1 - self.hard)
            return response.soft_cross_entropy(student.logits, doubt)

        arms = {
            "": mixed(self.hard),
            "_baseline": mixed(1.0),
            "_taught_only": mixed(0.0),
            "_smoothed": [Stage({"student": (LossTerm(smoothed),)}, every, self.student_training)],
        }
        metrics = {"accuracy_teacher": accuracy(taught["teacher"], data.x[test], data.y[test])}
        for arm, scheme in arms.items():
            student = run(scheme, taught, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, data.x[test], data.y[test])
        return metrics
