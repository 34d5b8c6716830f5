"""Data-free: a student of a teacher whose data are gone, taught by what a generator invents."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.models import build
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.data_free import data_free
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import run, soft
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import Params, TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, TeacherTraining
from simulations.survey.students import accuracy, classifiers


@dataclass(frozen=True)
class DataFree:
    """Data-free learning (DAFL): a generator, a teacher that is asked, a student that listens.

    Hanting Chen, Yunhe Wang, Chang Xu, Zhaohui Yang, Chuanjian Liu, Boxin Shi, Chunjing Xu, Chao
    Xu, Qi Tian. "Data-Free Learning of Student Networks". ICCV 2019.
    https://arxiv.org/abs/1904.01186

    Student and generator see no image. Controls, all of them with the same loss and as many inputs
    and steps: inputs of uniform noise (`_baseline`); those of the generator before it learnt
    anything (`_untrained`); the teacher's own inputs, which are to be done without (`_data`).
    """

    data: ClassVar[str] = "digits"

    train: Annotated[int, Setting("examples that the teacher learns", ge=1)] = 1078
    teacher: Network = "mlp-128"
    student: Network = "mlp-32"
    inventor: Network = "mlp-128"
    latent: Annotated[int, Setting("width of the noise", ge=1, le=WIDEST)] = 16
    rounds: Annotated[int, Setting("of generator and student in turn", ge=1)] = 40
    at_once: Annotated[int, Setting("inputs drawn in a round", ge=1)] = 512
    balance: Annotated[
        float, Setting("weight of evenly met classes in the generator's loss", ge=0)
    ] = 5.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=30, batch_size=32)
    inventing: TrainingConfig = TrainingConfig("adam", 0.002, epochs=2, batch_size=64)
    following: TrainingConfig = TrainingConfig("adam", 0.002, epochs=2, batch_size=64)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of each student, and of the teacher."""
        train, test = split(len(data.y), (self.train,), seed)
        known = labelled(data.x, data.y, train)
        start = classifiers(data, {"teacher": self.teacher, "student": self.student}, seed)
        taught = run(
            alone("teacher", known, self.teacher_training), start, generator(seed, "teach")
        )
        teacher = taught["teacher"]
        pixels = build(self.inventor, (self.latent,), data.x[0].numel())

        def make(params: Params, z: Tensor) -> Tensor:
            images: Tensor = pixels.predict(params, z).logits.sigmoid().unflatten(1, data.shape)
            return images

        def ask(params: Params, z: Tensor) -> Outputs:
            return teacher.predict(teacher.params, make(params, z))

        inventor = Learner(ask, pixels.init(generator(seed, "init", "inventor")))
        scheme = data_free(
            "student",
            "teacher",
            "inventor",
            make,
            self.latent,
            self.rounds,
            self.at_once,
            self.inventing,
            self.following,
            self.balance,
        )
        after = run(scheme, taught | {"inventor": inventor}, generator(seed, "invent"))

        count = self.rounds * self.at_once
        z = torch.randn(count, self.latent, generator=generator(seed, "latent"))
        noise = torch.rand(count, *data.shape, generator=generator(seed, "noise"))
        again = torch.randint(self.train, (count,), generator=generator(seed, "again"))
        inputs = {
            "_baseline": noise,
            "_untrained": make(inventor.params, z),
            "_data": known.x[again],
        }
        x, y = data.x[test], data.y[test]
        metrics = {"accuracy": accuracy(after["student"], x, y)}
        for arm, seen in inputs.items():
            follow = offline("student", ["teacher"], soft(), unlabelled(seen), self.following)
            student = run(follow, taught, generator(seed, "learn"))["student"]
            metrics[f"accuracy{arm}"] = accuracy(student, x, y)
        invented = make(after["inventor"].params, z[: self.at_once])
        sure, classes = teacher(invented).logits.softmax(-1).max(-1)
        return metrics | {
            "accuracy_teacher": accuracy(teacher, x, y),
            "confidence": float(sure.mean()),
            "classes": float(len(classes.unique())),
        }
