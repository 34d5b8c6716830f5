"""Adaptation: a teacher of one domain, a student of another that has no labels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.self_distillation import self_training
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner


@dataclass(frozen=True)
class Adaptation:
    """Knowledge adaptation: MNIST is labelled, the digits of UCI are not.

    Yang Zou, Zhiding Yu, B. V. K. Vijaya Kumar, Jinsong Wang. "Unsupervised Domain Adaptation for
    Semantic Segmentation via Class-Balanced Self-Training". ECCV 2018.
    https://arxiv.org/abs/1810.07911

    The teacher learns MNIST at the size of the others. The student begins as the teacher, and
    learns, of each class that it predicts, the examples that it is surest of; a larger share from
    stage to stage. `_baseline` is the teacher as it is. Controls: a student of all the teacher's
    soft answers (`_soft`); one that knows the labels (`_oracle`).
    """

    data: ClassVar[str] = "mnist-8x8+digits"

    source: Annotated[int, Setting("labelled examples that the teacher learns", ge=1)] = 5000
    target: Annotated[int, Setting("examples of the other domain, without labels", ge=1)] = 1078
    network: Network = "mlp-64"
    shares: Annotated[
        tuple[float, ...],
        Setting(
            "of the examples of each predicted class, those that are surest; one for each stage",
            gt=0,
            le=1,
            min_length=1,
        ),
    ] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=20, batch_size=100)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=20, batch_size=32)

    def measure(self, data: tuple[Dataset, Dataset], seed: int) -> Metrics:
        """Accuracy on held-out examples of the target domain, and the teacher's on its own."""
        mnist, digits = data
        known, seen, _ = split(len(mnist.y), (self.source, 2000), seed)
        here, test = split(len(digits.y), (self.target,), seed)
        source = labelled(mnist.x, mnist.y, known)
        begin = learner(self.network, digits.shape, digits.num_classes, seed)
        trained = run(
            alone("one", source, self.teacher_training), {"one": begin}, generator(seed, "teach")
        )
        teacher, x = trained["one"], digits.x[here]
        start = {"teacher": teacher, "student": teacher}
        arms = {
            "": self_training("student", "teacher", x, self.shares, self.student_training),
            "_soft": offline("student", ["teacher"], soft(), unlabelled(x), self.student_training),
            "_oracle": alone("student", labelled(digits.x, digits.y, here), self.student_training),
        }
        metrics = {
            "accuracy_baseline": accuracy(teacher, digits.x[test], digits.y[test]),
            "accuracy_source": accuracy(teacher, mnist.x[seen], mnist.y[seen]),
        }
        for arm, scheme in arms.items():
            # A student of its own soft answers would have nothing to learn: it begins anew.
            students = start | ({"student": begin} if arm == "_soft" else {})
            student = run(scheme, students, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, digits.x[test], digits.y[test])
        return metrics
