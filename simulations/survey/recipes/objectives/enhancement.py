"""Enhancement: two teachers, each of half the digits, and one student of all, without labels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.ensemble import amalgamate
from kdcore.losses import decoupled, response
from kdcore.metrics import accuracy
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import run
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import classifiers, learner


@dataclass(frozen=True)
class Enhancement:
    """Knowledge enhancement: one student does what none of its teachers can.

    Chengchao Shen, Xinchao Wang, Jie Song, Li Sun, Mingli Song. "Amalgamating Knowledge towards
    Comprehensive Classification". AAAI 2019. https://arxiv.org/abs/1811.02796

    Teachers know 0 to 4 and 5 to 9, of separate examples; the student sees other inputs, of all
    digits, and the teachers' logits side by side. `_joined` are these themselves, `_specialist` the
    better teacher alone, who cannot pass the share of its digits. `_unified` learns within each
    teacher's classes only (Vongkulbhisal, Vinayavekhin, Visentini-Scarzanella, CVPR 2019,
    https://arxiv.org/abs/1904.06062). `_oracle` knows the labels of the student's inputs.
    """

    data: ClassVar[str] = "digits"

    teacher_examples: Annotated[
        int, Setting("labelled examples of both teachers together", ge=1, was="teaching_examples")
    ] = 600
    transfer: Annotated[int, Setting("examples that the student sees, without labels", ge=1)] = 600
    teacher: Network = "mlp-64"
    student: Network = "mlp-64"
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 2.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=40, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy over all ten digits."""
        private, transfer, test = split(len(data.y), (self.teacher_examples, self.transfer), seed)
        halves = (torch.arange(5), torch.arange(5, 10))
        learners = classifiers(data, {"student": self.student}, seed)
        for i, half in enumerate(halves):
            name = f"teacher{i}"
            mine = private[torch.isin(data.y[private], half)]
            start = learner(self.teacher, data.shape, len(half), seed, name)
            scheme = alone(name, labelled(data.x, data.y - half[0], mine), self.teacher_training)
            learners |= run(scheme, {name: start}, generator(seed, "teach", name))
        teachers = ["teacher0", "teacher1"]

        def joined(student: Outputs, y: Tensor, *said: Outputs) -> Tensor:
            together = amalgamate([one.logits for one in said], halves)
            return response.kl(student.logits, together, self.temperature)

        def unified(student: Outputs, y: Tensor, *said: Outputs) -> Tensor:
            each = [one.logits for one in said]
            return decoupled.unified(student.logits, each, halves, self.temperature)

        inputs, steps = unlabelled(data.x[transfer]), self.student_training
        arms = {
            "": offline("student", teachers, joined, inputs, steps),
            "_unified": offline("student", teachers, unified, inputs, steps),
            "_oracle": alone("student", labelled(data.x, data.y, transfer), steps),
        }
        x, y = data.x[test], data.y[test]
        said = [learners[name](x).logits for name in teachers]
        alone_right = [
            float((half[z.argmax(1)] == y).double().mean())
            for z, half in zip(said, halves, strict=True)
        ]
        metrics = {
            "accuracy_joined": accuracy(amalgamate(said, halves), y),
            "accuracy_specialist": max(alone_right),
        }
        for arm, scheme in arms.items():
            student = run(scheme, learners, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student(x).logits, y)
        return metrics
