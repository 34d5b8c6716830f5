"""A quantised student: weights of two bits, with and without a teacher of full precision."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, quantised
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner


@dataclass(frozen=True)
class Quantised:
    """Quantised distillation: the student is the teacher's network with few bits for each weight.

    Antonio Polino, Razvan Pascanu, Dan Alistarh. "Model compression via distillation and
    quantization". ICLR 2018. https://arxiv.org/abs/1802.05668

    The student trains with rounded weights and straight-through gradients, from the teacher's
    weights, by what the teacher says of the labelled examples. Controls: by their labels instead
    (`baseline`); the teacher's weights merely rounded (`rounded`).
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("labelled examples", ge=1)] = 300
    model: Network = "mlp-32"
    bits: Annotated[int, Setting("of each of the student's weights", ge=2, le=32)] = 2
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 1.0
    hard: Annotated[
        float, Setting("weight of the labels, the rest is the teacher's", ge=0, le=1)
    ] = 0.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy with few bits, and of the teacher."""
        known, test = split(len(data.y), (self.labels,), seed)
        examples = labelled(data.x, data.y, known)
        x, y = data.x[test], data.y[test]
        start = {"teacher": learner(self.model, data.shape, data.num_classes, seed)}
        taught = run(
            alone("teacher", examples, self.teacher_training), start, generator(seed, "teach")
        )
        teacher = taught["teacher"]
        rounded = Learner(quantised(teacher.predict, self.bits), teacher.params)
        arms = {
            "": offline(
                "student",
                ["teacher"],
                soft(self.temperature),
                examples,
                self.student_training,
                self.hard,
            ),
            "_baseline": alone("student", examples, self.student_training),
        }
        metrics = {
            "accuracy_teacher": accuracy(teacher, x, y),
            "accuracy_rounded": accuracy(rounded, x, y),
        }
        for arm, scheme in arms.items():
            learners = {"student": rounded, "teacher": teacher}
            student = run(scheme, learners, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, x, y)
        return metrics
