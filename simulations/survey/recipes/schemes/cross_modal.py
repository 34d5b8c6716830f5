"""Cross-modal: the teacher sees one view of an example, the student another, and nobody a label."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, seeing
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import Views, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner


@dataclass(frozen=True)
class CrossModal:
    """Cross-modal distillation: paired views of unlabelled examples carry knowledge across.

    Saurabh Gupta, Judy Hoffman, Jitendra Malik. "Cross Modal Distillation for Supervision
    Transfer". CVPR 2016. https://arxiv.org/abs/1507.00448

    Twice: the teacher sees the pixels of a digit, the student the sums of its rows and columns; and
    (`_views`) of the six descriptions of the UCI's multiple features the student has one and the
    teacher all others. `_baseline` is the student's network with `labels` labels and no teacher.
    Controls: the pairs broken, so that the teacher speaks of another example (`_broken`); the
    labels of all inputs (`_oracle`).
    """

    data: ClassVar[str] = "digits+views"

    train: Annotated[int, Setting("examples of which both views are seen", ge=1)] = 1200
    labels: Annotated[int, Setting("examples whose label the control knows", ge=1)] = 50
    view: Annotated[
        int, Setting("which of the six views, from 0, is the student's", ge=0, le=5)
    ] = 3
    teacher: Network = "mlp-128"
    student: Network = "mlp-64"
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=20, batch_size=50)
    student_training: StudentTraining = TrainingConfig("adam", 0.005, epochs=30, batch_size=50)

    def measure(self, data: tuple[Dataset, Views], seed: int) -> Metrics:
        """Test accuracy of the students and teachers, in both settings."""
        digits, views = data
        image = digits.x.flatten(1)
        sums = _standardised(torch.cat([digits.x.sum(2), digits.x.sum(3)], 2).flatten(1))
        each = [_standardised(x) for x in views.x]
        others = torch.cat([x for i, x in enumerate(each) if i != self.view], 1)
        first = self.between(image, sums, digits.y, seed)
        second = self.between(others, each[self.view], views.y, seed)
        return {**first, **{_name(name): value for name, value in second.items()}}

    def between(self, rich: Tensor, poor: Tensor, y: Tensor, seed: int) -> Mapping[str, float]:
        """Accuracies where the teacher sees the rich view and the student the poor one."""
        train, test = split(len(y), (self.train,), seed)
        x = (rich[train], poor[train])
        examples = Examples(x, y[train], torch.arange(self.train))
        few = replace(examples, rows=examples.rows[: self.labels])
        broken = (x[0][derangement(self.train, generator(seed, "break"))], x[1])
        start = {
            "teacher": self.sees(0, self.teacher, rich, y, seed),
            "student": self.sees(1, self.student, poor, y, seed),
        }
        taught = run(
            alone("teacher", examples, self.teacher_training), start, generator(seed, "teach")
        )
        often = replace(
            self.student_training, epochs=self.student_training.epochs * self.train // self.labels
        )
        arms = {
            "": offline("student", ["teacher"], soft(), unlabelled(x), self.student_training),
            "_broken": offline(
                "student", ["teacher"], soft(), unlabelled(broken), self.student_training
            ),
            "_baseline": alone("student", few, often),
            "_oracle": alone("student", examples, self.student_training),
        }
        asked = (rich[test], poor[test])
        metrics = {"accuracy_teacher": accuracy(taught["teacher"], asked, y[test])}
        for arm, scheme in arms.items():
            student = run(scheme, taught, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, asked, y[test])
        return metrics

    def sees(self, view: int, name: str, x: Tensor, y: Tensor, seed: int) -> Learner:
        """A network that looks at one of the two views."""
        one = learner(name, x.shape[1:], int(y.max()) + 1, seed, str(view))
        return one._replace(predict=seeing(one.predict, view))


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A random permutation that leaves nothing in its place: one cycle through all of them."""
    order = torch.randperm(count, generator=generator)
    to = torch.empty_like(order)
    to[order] = order.roll(1)
    return to


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def _name(name: str) -> str:
    return name.replace("accuracy", "accuracy_views", 1)
