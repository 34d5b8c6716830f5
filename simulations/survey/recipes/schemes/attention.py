"""Attention: a small convolutional network learns where a larger one looks."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.models.architectures import initialiser
from kdcore.losses.feature import attention_transfer
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Stage, labels, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import Params, TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy


@dataclass(frozen=True)
class Attention:
    """Attention transfer: labels, and in each layer the places that the teacher heeds.

    Sergey Zagoruyko, Nikos Komodakis. "Paying More Attention to Attention". ICLR 2017.
    https://arxiv.org/abs/1612.03928

    The teacher knows the labels of the training half; the student those of `labels` examples, and
    the teacher's maps of the same examples. Controls: the labels alone (`_baseline`), and the maps
    of a teacher that was never trained (`_untrained`). `gap` is how far the maps are from the
    teacher's on test images.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("examples whose label the student knows", ge=1)] = 100
    train: Annotated[int, Setting("examples that the teacher learns", ge=1)] = 1078
    teacher: Annotated[
        tuple[int, int], Setting("channels of its two convolutions", ge=1, le=WIDEST)
    ] = (16, 32)
    student: Annotated[
        tuple[int, int], Setting("channels of its two convolutions", ge=1, le=WIDEST)
    ] = (4, 8)
    weight: Annotated[float, Setting("of the attention loss, beside the labels", ge=0)] = 0.3
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.003, epochs=15, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.005, epochs=100, batch_size=25)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of each student and of the teacher, and the gaps of maps."""
        few, rest, test = split(len(data.y), (self.labels, self.train - self.labels), seed)
        known = labelled(data.x, data.y, few)
        every = labelled(data.x, data.y, torch.cat([few, rest]))
        start = {
            who: convolutional(widths, data.num_classes, seed, who)
            for who, widths in (("teacher", self.teacher), ("student", self.student))
        }
        taught = run(
            alone("teacher", every, self.teacher_training), start, generator(seed, "teach")
        )
        taught["untrained"] = start["teacher"]
        arms = {
            "": (LossTerm(labels), LossTerm(self.attention_gap, ("teacher",), self.weight)),
            "_untrained": (
                LossTerm(labels),
                LossTerm(self.attention_gap, ("untrained",), self.weight),
            ),
            "_baseline": (LossTerm(labels),),
        }
        x, y = data.x[test], data.y[test]
        teacher = taught["teacher"](x)
        metrics = {"accuracy_teacher": accuracy(taught["teacher"], x, y)}
        for arm, terms in arms.items():
            study = Stage({"student": terms}, known, self.student_training)
            student = run([study], taught, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, x, y)
            metrics[f"gap{arm}"] = float(self.attention_gap(student(x), y, teacher).mean())
        return metrics

    def attention_gap(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """The gaps of all layers' attention."""
        pairs = zip(student.hidden, teacher.hidden, strict=True)
        return torch.stack([attention_transfer(own, reference) for own, reference in pairs]).sum(0)


def convolutional(widths: tuple[int, int], classes: int, seed: int, who: str) -> Learner:
    """Two convolutions, each shown as it is, and a linear layer on what they pool.

    Shapes: x (N, 1, H, W) -> logits (N, C), hidden ((N, w, H, W), (N, w', H / 2, W / 2)).
    """
    first, second = widths
    shapes = {
        "first.weight": (first, 1, 3, 3),
        "second.weight": (second, first, 3, 3),
        "head.weight": (classes, second * 4),
        "head.bias": (classes,),
    }
    return Learner(predict, initialiser(shapes)(generator(seed, "init", who)))


def predict(params: Params, x: Tensor) -> Outputs:
    """See `convolutional`."""
    early = F.conv2d(x, params["first.weight"], padding=1).relu()
    late = F.conv2d(F.max_pool2d(early, 2), params["second.weight"], padding=1).relu()
    pooled = F.adaptive_max_pool2d(late, 2).flatten(1)
    return Outputs(F.linear(pooled, params["head.weight"], params["head.bias"]), (early, late))
