"""Lifelong learning: new digits, without forgetting the old ones."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, lifelong
from kdcore.schemes.stages import run
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, share_right, split
from simulations.survey.recipes import Metrics, Network
from simulations.survey.students import accuracy, learner


@dataclass(frozen=True)
class Lifelong:
    """Learning without forgetting: a second task, of which alone there are examples.

    Zhizhong Li, Derek Hoiem. "Learning without Forgetting". ECCV 2016.
    https://arxiv.org/abs/1606.09282

    A network that tells 0 to 4 apart learns 5 to 9, and on these keeps to what it said before.
    Control: fine-tuning, the same without what it said before (`baseline`). As in the paper it is
    known which task an example is from: the answer is the best among that task's labels. `_any` is
    the accuracy on all digits among all labels, which nobody asked it to learn. The divergence has
    a factor T^2, which the paper's has not: `weight` 1 is 4 there.
    """

    data: ClassVar[str] = "digits"

    old: Annotated[int, Setting("the first classes, which are the old task", ge=1, le=9)] = 5
    train: Annotated[int, Setting("examples of both tasks together", ge=1)] = 1078
    model: Network = "mlp-64"
    weight: Annotated[float, Setting("of what the network said before", ge=0)] = 1.0
    temperature: Annotated[float, Setting("T of what the network said before", gt=0)] = 2.0
    first: TrainingConfig = TrainingConfig("adam", 0.002, epochs=20, batch_size=32)
    second: TrainingConfig = TrainingConfig("adam", 0.002, epochs=20, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy on the old task, before and after the new one; on the new one."""
        known, test = split(len(data.y), (self.train,), seed)
        older, newer = (labelled(data.x, data.y, rows) for rows in self.tasks(data, known))
        old_test, new_test = self.tasks(data, test)
        old, new = range(self.old), range(self.old, data.num_classes)
        start = {"before": learner(self.model, data.shape, data.num_classes, seed)}
        start = run(alone("before", older, self.first), start, generator(seed, "old"))
        start["student"] = start["before"]
        metrics = {"accuracy_before": among(start["before"], data, old_test, old)}
        for arm, weight in {"": self.weight, "_baseline": 0.0}.items():
            scheme = lifelong(
                "student", "before", old, newer, self.second, weight, self.temperature
            )
            student = run(scheme, start, generator(seed, "new"))["student"]
            metrics |= {
                f"accuracy{arm}": among(student, data, old_test, old),
                f"accuracy_new{arm}": among(student, data, new_test, new),
                f"accuracy_any{arm}": accuracy(student, data.x[test], data.y[test]),
            }
        return metrics

    def tasks(self, data: Dataset, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the old labels, and those of the new."""
        old = data.y[rows] < self.old
        return rows[old], rows[~old]


def among(one: Learner, data: Dataset, rows: Tensor, classes: range) -> float:
    """Accuracy where the answer is known to be one of some neighbouring classes."""
    said = one(data.x[rows]).logits[:, torch.tensor(classes)]
    return share_right(said, data.y[rows] - classes.start)
