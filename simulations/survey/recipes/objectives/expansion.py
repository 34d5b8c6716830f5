"""Expansion: a larger student, a teacher's guesses at unlabelled inputs, noise; and again."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.data_free import copied
from kdcore.schemes.offline import alone
from kdcore.schemes.self_distillation import noisy_student
from kdcore.schemes.stages import run
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, moved, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner


@dataclass(frozen=True)
class Expansion:
    """Knowledge expansion: a student of larger capacity, who surpasses its teacher.

    Qizhe Xie, Minh-Thang Luong, Eduard Hovy, Quoc Le. "Self-training with Noisy Student improves
    ImageNet classification". CVPR 2020. https://arxiv.org/abs/1911.04252

    The teacher knows `labels` examples; each student learns those, and the answers of the one
    before to all unlabelled inputs, while its own inputs are noised. Controls, with as many steps
    as a student takes: the larger network with the labels alone, each with so many more drawings of
    the same noise (`_baseline`); the first student without noise (`_noiseless`).
    """

    data: ClassVar[str] = "mnist"

    labels: Annotated[int, Setting("labelled examples", ge=1)] = 200
    unlabelled: Annotated[int, Setting("examples without labels", ge=1)] = 4000
    test: Annotated[int, Setting("test examples", ge=1)] = 5000
    teacher: Network = "mlp-32"
    student: Network = "mlp-128-128"
    iterations: Annotated[int, Setting("students, one after another", ge=1)] = 3
    shift: Annotated[
        int, Setting("pixels by which the noise moves an image, at the most", ge=0)
    ] = 1
    dark: Annotated[float, Setting("share of pixels that the noise makes dark", ge=0, lt=1)] = 0.5
    copies: Annotated[int, Setting("noised copies of each example", ge=1)] = 3
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.005, epochs=60, batch_size=50)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=6, batch_size=100)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the teacher, of the student of each iteration, and of the controls."""
        sizes = (self.labels, self.unlabelled, self.test)
        few, more, test, _ = split(len(data.y), sizes, seed)
        known, others = labelled(data.x, data.y, few), data.x[more]
        names = [f"student{i + 1}" for i in range(self.iterations)]
        larger = learner(self.student, data.shape, data.num_classes, seed, "student")
        start = {name: larger for name in [*names, "student"]} | {
            "teacher": learner(self.teacher, data.shape, data.num_classes, seed, "teacher")
        }
        taught = run(
            alone("teacher", known, self.teacher_training), start, generator(seed, "teach")
        )

        noise = generator(seed, "noise")
        copies = self.copies * (len(known) + len(others)) // len(known)
        seen = copied(known.x, known.y, self.noise, copies, noise)
        arms = {
            "": noisy_student(
                names, "teacher", known, others, self.noise, self.copies, self.student_training
            ),
            "_baseline": alone("student", seen, self.student_training),
            "_noiseless": noisy_student(
                ["student"], "teacher", known, others, _plain, self.copies, self.student_training
            ),
        }
        x, y = data.x[test], data.y[test]
        metrics = {"accuracy_teacher": accuracy(taught["teacher"], x, y)}
        for arm, scheme in arms.items():
            after = run(scheme, taught, generator(seed, "learn"))
            if arm:
                metrics[f"accuracy{arm}"] = accuracy(after["student"], x, y)
            else:
                each = [accuracy(after[name], x, y) for name in names]
                metrics |= {"accuracy": each[-1]}
                metrics |= {f"accuracy_{name}": a for name, a in zip(names, each, strict=True)}
        return metrics

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Moved images with some pixels dark and the others as much brighter."""
        x = moved(x, self.shift, generator)
        kept = torch.rand(x.shape, generator=generator) >= self.dark
        return x * kept / (1 - self.dark)


def _plain(x: Tensor, generator: torch.Generator) -> Tensor:
    return x
