"""Adversarial: a student whose logits a judge is to take for the teacher's."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.components.paired_models import OWN, SHARED, joined, part
from fedkd.data.datasets import Dataset
from fedkd.models import build
from kdcore.losses.response import kl
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, gradient_reversed
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import UNLABELLED, LossTerm, Stage, labels, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import Params, Predict, TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, classifiers, learner


@dataclass(frozen=True)
class Adversarial:
    """A judge learns to tell the student's logits from the teacher's, the student to mislead it.

    Zheng Xu, Yen-Chang Hsu, Jiawei Huang. "Training Shallow and Thin Networks for Acceleration via
    Knowledge Distillation with Conditional Adversarial Networks". ICLR 2018 Workshop.
    https://arxiv.org/abs/1709.00513. Both learn in one step: the judge's gradient reaches the
    student with its sign turned (Yaroslav Ganin, Victor Lempitsky. ICML 2015.
    https://arxiv.org/abs/1409.7495).

    The student has `labels` labels, and inputs without a label that the teacher has answered. The
    judge sees logits and nothing else. Arms: labels and judge (no suffix), labels and soft targets
    (`_soft`), all three (`_soft_judge`). Control: the labels alone, with the same batches.

    `judged` is how often a judge that nobody has trained against is right about logits of test
    images, half of which it has learnt from: a half is what a coin would have.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("examples whose label the student knows", ge=1)] = 100
    train: Annotated[
        int, Setting("examples that the teacher learns; of all the student sees the inputs", ge=1)
    ] = 1078
    teacher: Network = "mlp-256-256"
    student: Network = "mlp-16"
    judge: Network = "mlp-64"
    strength: Annotated[float, Setting("factor of the reversed gradient", ge=0)] = 0.02
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.001, epochs=30, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.005, epochs=60, batch_size=64)
    judging: TrainingConfig = TrainingConfig("adam", 0.003, epochs=60, batch_size=64)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of each student, and how well a fresh judge knows it from the teacher."""
        few, rest, test = split(len(data.y), (self.labels, self.train - self.labels), seed)
        every = torch.cat([few, rest])
        known = labelled(data.x, data.y, every)
        start = classifiers(data, {"teacher": self.teacher, "student": self.student}, seed)
        taught = run(
            alone("teacher", known, self.teacher_training), start, generator(seed, "teach")
        )
        teacher, student = taught["teacher"], start["student"]
        judge = build(self.judge, (data.num_classes,), 1)
        weights = judge.init(generator(seed, "init", "judge"))
        both = Learner(
            judged(student.predict, judge.predict, self.strength), joined(student.params, weights)
        )
        y = torch.cat([data.y[few], torch.full((len(rest),), UNLABELLED)])
        seen = Examples((known.x, teacher(known.x).logits), y, torch.arange(len(y)))
        arms = {
            "": (LossTerm(labels), LossTerm(discriminator_loss)),
            "_soft": (LossTerm(labels), LossTerm(soft_targets)),
            "_soft_judge": (LossTerm(labels), LossTerm(soft_targets), LossTerm(discriminator_loss)),
            "_baseline": (LossTerm(labels),),
        }
        x, right = data.x[test], data.y[test]
        metrics = {"accuracy_teacher": accuracy(teacher, x, right)}
        for arm, terms in arms.items():
            study = Stage({"student": terms}, seen, self.student_training)
            pair = run([study], {"student": both}, generator(seed, "learn"))["student"]
            found = Learner(student.predict, part(pair.params, OWN))
            metrics[f"accuracy{arm}"] = accuracy(found, x, right)
            logits = found(x).logits, teacher(x).logits
            metrics[f"judged{arm}"] = self.fresh_judge(*logits, seed)
        return metrics

    def fresh_judge(self, student: Tensor, teacher: Tensor, seed: int) -> float:
        """How often a judge is right that has learnt from every second row: logits (N, C) each."""
        both = torch.cat([student, teacher])
        whose = torch.arange(2).repeat_interleave(len(student))
        learns = torch.arange(len(student)).repeat(2) % 2 == 0
        start = {"judge": learner(self.judge, both.shape[1:], 2, seed, "fresh judge")}
        rows = labelled(both, whose, learns.nonzero().squeeze(1))
        judge = run(alone("judge", rows, self.judging), start, generator(seed, "judge"))["judge"]
        return accuracy(judge, both[~learns], whose[~learns])


def judged(student: Predict, judge: Predict, strength: float) -> Predict:
    """A student with its judge.

    Of (images, the teacher's logits (B, C)) it gives the student's logits and (the judge's view of
    them, its view of the teacher's, the teacher's logits); views are logits of "the teacher's".
    """

    def predict(params: Params, x: tuple[Tensor, Tensor]) -> Outputs:
        images, teacher_logits = x
        own = student(part(params, OWN), images).logits
        views = [
            judge(part(params, SHARED), logits).logits
            for logits in (gradient_reversed(own, strength), teacher_logits)
        ]
        return Outputs(own, (*views, teacher_logits))

    return predict


def discriminator_loss(own: Outputs, y: Tensor) -> Tensor:
    """The judge's loss: (B,), the mean of what it says of the student's and of the teacher's."""
    student, teacher, _ = own.hidden
    return 0.5 * (F.softplus(student) + F.softplus(-teacher)).squeeze(1)


def soft_targets(own: Outputs, y: Tensor) -> Tensor:
    """The classic loss, of the teacher's logits that came with the images."""
    return kl(own.logits, own.hidden[2])
