"""Information: how many nats of the teacher's representation can be read off the student's?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.losses import mutual_information
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import UNLABELLED, LossTerm, Stage, labels, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from kdcore.training.stacked import Params
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner, regressing


@dataclass(frozen=True)
class Information:
    """Knowledge as mutual information: the student is to tell much of the teacher's last layer.

    Contrastive (InfoNCE): Yonglong Tian, Dilip Krishnan, Phillip Isola. "Contrastive Representation
    Distillation". ICLR 2020. https://arxiv.org/abs/1910.10699. Variational (`_variational`):
    Sungsoo Ahn, Shell Xu Hu, Andreas Damianou, Neil Lawrence, Zhenwen Dai. "Variational Information
    Distillation for Knowledge Transfer". CVPR 2019. https://arxiv.org/abs/1904.05835

    A student knows `labels` labels (`_baseline` nothing else) and sees all inputs. What is measured
    is the InfoNCE bound, in batches of `batch`, so never above log batch: by a new critic for each
    student, trained on the training inputs and asked about held-out ones. `_untrained` is the
    student before it learns. The estimator itself is held against Gaussians, whose information is
    known, with the best critic: once below the cap, and once beyond it, where it cannot follow.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("examples whose label the student knows", ge=0)] = 100
    train: Annotated[
        int, Setting("examples that the teacher learns; of all the student sees the inputs", ge=1)
    ] = 1078
    teacher: Network = "mlp-128"
    student: Network = "mlp-64-32"
    batch: Annotated[int, Setting("examples that an InfoNCE bound compares", ge=2)] = 256
    weight: Annotated[float, Setting("of the information loss, beside the labels", ge=0)] = 0.1
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=30, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.003, epochs=40, batch_size=64)
    judging: TrainingConfig = TrainingConfig("adam", 0.003, epochs=30, batch_size=128)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Held-out bounds in nats, test accuracies, and the estimator's errors on Gaussians."""
        train, test = split(len(data.y), (self.train,), seed)
        every = labelled(data.x, data.y, train)
        y = every.y.clone()
        y[self.labels :] = UNLABELLED
        some = Examples(every.x, y, every.rows)
        start = learner(self.teacher, data.shape, data.num_classes, seed, "teacher")
        scheme = alone("teacher", every, self.teacher_training)
        teacher = run(scheme, {"teacher": start}, generator(seed, "teach"))["teacher"]
        student = learner(self.student, data.shape, data.num_classes, seed, "student")
        widths = (
            student(every.x[:1]).hidden[-1].shape[1],
            teacher(every.x[:1]).hidden[-1].shape[1],
        )
        mapped = regressing(student, -1, widths, seed)
        by = LossTerm(labels)
        arms = {
            "": (mapped, (by, LossTerm(_contrastive, ("teacher",), self.weight))),
            "_variational": (
                _spread(mapped, widths[1]),
                (by, LossTerm(_variational, ("teacher",), self.weight / widths[1])),
            ),
            "_baseline": (student, (by,)),
            "_untrained": (student, ()),
        }
        inside, outside = data.x[train], data.x[test]
        reference = teacher(inside).hidden[-1], teacher(outside).hidden[-1]
        metrics = {"accuracy_teacher": accuracy(teacher, outside, data.y[test])}
        for arm, (one, terms) in arms.items():
            scheme = [Stage({"student": terms}, some, self.student_training)] if terms else []
            learners = run(scheme, {"teacher": teacher, "student": one}, generator(seed, "learn"))
            after = Learner(student.predict, learners["student"].params)
            own = after(inside).hidden[-1], after(outside).hidden[-1]
            metrics[f"accuracy{arm}"] = accuracy(after, outside, data.y[test])
            metrics[f"bound{arm}"] = self.bound(own, reference, seed)
        below, above = (self.gaussians(10, 0.5, seed), self.gaussians(20, 0.9, seed))
        return metrics | {
            "bound_cap": math.log(self.batch),
            "gaussian_error": abs(below[0] - below[1]),
            "gaussian_error_beyond": abs(above[0] - above[1]),
        }

    def bound(
        self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], seed: int
    ) -> float:
        """The bound on the second of each pair, by a critic trained on the first."""
        widths = student[0].shape[1], teacher[0].shape[1]
        critic = mutual_information.ContrastiveRepresentation(
            *widths, generator(seed, "init", "critic")
        )

        def predict(params: Params, x: tuple[Tensor, Tensor]) -> Outputs:
            return Outputs(torch.func.functional_call(critic, params, x))

        start = Learner(predict, {k: v.detach() for k, v in critic.named_parameters()})
        count = len(student[0])
        pairs = Examples((student[0], teacher[0]), torch.zeros(count), torch.arange(count))
        stage = Stage({"critic": (LossTerm(lambda said, y: said.logits),)}, pairs, self.judging)
        trained = run([stage], {"critic": start}, generator(seed, "judge"))["critic"]
        critic.load_state_dict(trained.params)
        with torch.no_grad():
            batches = zip(self.full_batches(student[1]), self.full_batches(teacher[1]), strict=True)
            bounds = [
                mutual_information.infonce_bound(critic.scores(s, t)).nats for s, t in batches
            ]
        return float(torch.stack(bounds).mean())

    def full_batches(self, rows: Tensor) -> Iterator[Tensor]:
        """Batches of the full size; what is left over is left out."""
        count = len(rows) // self.batch * self.batch
        return iter(rows[:count].split(self.batch))

    def gaussians(self, width: int, correlation: float, seed: int) -> tuple[float, float]:
        """The bound for correlated Gaussians with the best critic, and what is true, in nats.

        I = -D/2 log(1 - r^2); the log of the density ratio, without what depends on s alone, is
        (r <s, t> - r^2 |t|^2 / 2) / (1 - r^2).
        """
        draw = torch.randn(2, 20 * self.batch, width, generator=generator(seed, "gaussians"))
        left = 1 - correlation**2
        s, t = draw[0], correlation * draw[0] + left**0.5 * draw[1]
        bounds = []
        for a, b in zip(self.full_batches(s), self.full_batches(t), strict=True):
            scores = correlation * (a @ b.mT) - correlation**2 * b.square().sum(1) / 2
            bounds.append(mutual_information.infonce_bound(scores / left).nats)
        return float(torch.stack(bounds).mean()), -width / 2 * math.log(left)


def _contrastive(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    return mutual_information.contrastive(student.hidden[-1], teacher.hidden[-1])


def _variational(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    *_, mean, spread = student.hidden
    return mutual_information.variational(mean, teacher.hidden[-1], spread)


def _spread(one: Learner, width: int) -> Learner:
    """The learner, which shows a vector as well that it learns: the spread of its last layer."""
    # The variances start at 5, as the paper's.
    first = torch.full((width,), math.log(math.expm1(5.0)))

    def predict(params: Params, x: Tensor) -> Outputs:
        outputs = one.predict(params, x)
        return Outputs(outputs.logits, (*outputs.hidden, params["spread"]))

    return Learner(predict, {**one.params, "spread": first})
