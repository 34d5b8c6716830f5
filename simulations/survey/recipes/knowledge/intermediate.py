"""Intermediate layers: hints, similarities and attention for a thin, deep student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.models.architectures import initialiser
from kdcore.losses import feature, relation
from kdcore.metrics import linear_cka
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Scheme, Stage, TermLoss, labels, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from kdcore.training.stacked import Params
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner, regressing


@dataclass(frozen=True)
class Intermediate:
    """Feature-based knowledge: a hidden layer is to be like one of the teacher's.

    `_hint`: Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta,
    Yoshua Bengio. "FitNets: Hints for Thin Deep Nets". ICLR 2015. https://arxiv.org/abs/1412.6550:
    first the hint, through a regressor, then the labels. The plain name: Frederick Tung, Greg Mori.
    "Similarity-Preserving Knowledge Distillation". ICCV 2019. https://arxiv.org/abs/1907.09682,
    beside the labels. `_attention`: Sergey Zagoruyko, Nikos Komodakis. "Paying More Attention to
    Attention". ICLR 2017. https://arxiv.org/abs/1612.03928, beside the labels, between
    convolutional networks, with a `_maps` student without it.

    All know the same labels. `alike` is the linear CKA of the guided layer with the teacher's, on
    held-out inputs; accuracy stands beside it. `_baseline` learns labels alone.
    """

    data: ClassVar[str] = "digits"

    train: Annotated[int, Setting("labelled examples, the same for all", ge=1)] = 500
    teacher: Network = "mlp-128-128"
    student: Network = "mlp-16-16-16-16-16"
    guided: Annotated[
        int,
        Setting(
            "the student's layer, from 0, that is to be like the teacher's last hidden one", ge=0
        ),
    ] = 2
    similarity: Annotated[float, Setting("weight of the similarity-preserving loss", ge=0)] = 10.0
    attention: Annotated[float, Setting("weight of the attention loss", ge=0)] = 0.3
    channels: Annotated[
        tuple[int, ...],
        Setting("of each convolution of the teacher of maps", ge=1, le=WIDEST, min_length=1),
    ] = (16, 16, 16)
    thin: Annotated[
        tuple[int, ...],
        Setting("of each convolution of the student of maps", ge=1, le=WIDEST, min_length=1),
    ] = (8, 8, 8)
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=30, batch_size=32)
    hinting: TrainingConfig = TrainingConfig("adam", 0.003, epochs=30, batch_size=50)
    student_training: StudentTraining = TrainingConfig("adam", 0.003, epochs=80, batch_size=50)
    looking: TrainingConfig = TrainingConfig("adam", 0.01, epochs=50, batch_size=50)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """CKA with the teacher's last hidden layer, and accuracy, on held-out inputs."""
        train, test = split(len(data.y), (self.train,), seed)
        known, x, y = labelled(data.x, data.y, train), data.x[test], data.y[test]

        shape, classes = data.shape, data.num_classes
        start = {
            "teacher": learner(self.teacher, shape, classes, seed, "teacher"),
            "student": learner(self.student, shape, classes, seed, "student"),
        }
        first = run(alone("teacher", known, self.teacher_training), start, generator(seed, "teach"))
        own, last = (
            first[name](x[:1]).hidden[layer].shape[1]
            for name, layer in (("student", self.guided), ("teacher", -1))
        )
        mapped = first | {"student": regressing(first["student"], self.guided, (own, last), seed)}
        hint = Stage({"student": (LossTerm(_hint, ("teacher",)),)}, known, self.hinting)
        plain = alone("student", known, self.student_training)
        arms: dict[str, tuple[Mapping[str, Learner], Scheme]] = {
            "": (first, _beside(self.similar, self.similarity, known, self.student_training)),
            "_hint": (mapped, [hint, *plain]),
            "_baseline": (first, plain),
        }

        start = {
            "teacher": convolutional(shape, classes, self.channels, seed, "teacher"),
            "student": convolutional(shape, classes, self.thin, seed, "student"),
        }
        second = run(alone("teacher", known, self.looking), start, generator(seed, "teach"))
        look = _beside(_attention, self.attention, known, self.looking)
        arms |= {
            "_attention": (second, look),
            "_maps": (second, alone("student", known, self.looking)),
        }

        metrics = {
            "accuracy_teacher": accuracy(first["teacher"], x, y),
            "accuracy_maps_teacher": accuracy(second["teacher"], x, y),
        }
        for arm, (learners, scheme) in arms.items():
            student = run(scheme, learners, generator(seed, "learn"))["student"]
            guided = student(x).hidden[self.guided].flatten(1)
            reference = learners["teacher"](x).hidden[-1].flatten(1)
            metrics[f"alike{arm}"] = linear_cka(guided, reference)
            metrics[f"accuracy{arm}"] = accuracy(student, x, y)
        return metrics

    def similar(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """Similarity preserving, summed over the batch's rows, which are short of 1 in size."""
        alike = relation.similarity_preserving(student.hidden[self.guided], teacher.hidden[-1])
        return len(y) * alike


def _beside(loss: TermLoss, weight: float, known: Examples, training: TrainingConfig) -> Scheme:
    """Labels and a term on a hidden layer, at once."""
    terms = (LossTerm(labels), LossTerm(loss, ("teacher",), weight))
    return [Stage({"student": terms}, known, training)]


def _hint(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    return feature.hint(student.hidden[-1], teacher.hidden[-1])


def _attention(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    pairs = zip(student.hidden, teacher.hidden, strict=True)
    return torch.stack([feature.attention_transfer(s, t) for s, t in pairs]).sum(0)


def convolutional(
    shape: Sequence[int], classes: int, channels: Sequence[int], seed: int, purpose: str
) -> Learner:
    """3x3 convolutions and ReLU at full size, of which it shows the maps; then the mean of each.

    Shapes: x (N, channels, height, width) -> logits (N, C), hidden ((N, c, height, width), ...).
    """
    sizes = [shape[0], *channels]
    shapes: dict[str, tuple[int, ...]] = {
        "head.weight": (classes, channels[-1]),
        "head.bias": (classes,),
    }
    for i, (before, after) in enumerate(zip(sizes, channels, strict=False)):
        shapes |= {f"conv{i}.weight": (after, before, 3, 3), f"conv{i}.bias": (after,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        maps = []
        for i in range(len(channels)):
            weight, bias = params[f"conv{i}.weight"], params[f"conv{i}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            maps.append(x)
        logits = F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])
        return Outputs(logits, tuple(maps))

    return Learner(predict, initialiser(shapes)(generator(seed, "init", "maps", purpose)))
