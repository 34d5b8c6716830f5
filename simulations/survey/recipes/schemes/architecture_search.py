"""Architecture search: a student's network is chosen by how well it can be taught."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.losses import response
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import Stage, run, soft
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import accuracy, learner, parameters

Score = Callable[[str], float]  # of a network by name; less is better


@dataclass(frozen=True)
class ArchitectureSearch:
    """A student's architecture is evolved by its distillation loss, within a number of parameters.

    Yu Liu, Xuhui Jia, Mingxing Tan, Raviteja Vemulapalli, Yukun Zhu, Bradley Green, Xiaogang Wang.
    "Search to Distill: Pearls are Everywhere but not the Eyes". CVPR 2020.
    https://arxiv.org/abs/1911.09074: which student is best depends on whether it is taught, and by
    whom. There reinforcement learning proposes networks, here `evolved` does.

    The student has `labels` labels, and what the teacher says of the other inputs. A trial trains a
    network for few epochs, and scores it on validation inputs by the loss that it was trained by:
    divergence from the teacher, or in `_labels` the cross-entropy of labels, of which alone it is
    trained then. `_random` are as many trials by the teacher's loss of networks at random, `_blind`
    is the first of these, with no trial at all. What each search finds is taught for the full
    number of epochs; `_baseline` is the network of `_labels` with labels alone.

    `divergence` is the least one that a search by the teacher's loss has met, in `_labels` that of
    the network which labels have found.
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("examples whose label the student knows", ge=1)] = 100
    train: Annotated[
        int, Setting("examples that the teacher learns; of all the student sees the inputs", ge=1)
    ] = 900
    validation: Annotated[int, Setting("examples by which networks are chosen", ge=1)] = 300
    teacher: Network = "mlp-128-128"
    budget: Annotated[int, Setting("parameters of a student, at the most", ge=1)] = 1500
    families: Annotated[
        tuple[str, ...], Setting("kinds of networks that have widths", min_length=1)
    ] = ("mlp", "cnn")
    widths: Annotated[
        tuple[int, ...], Setting("that a layer may have", ge=1, le=WIDEST, min_length=1)
    ] = (4, 8, 12, 16, 24)
    depth: Annotated[int, Setting("layers that have a width, at the most", ge=1, le=3)] = 3
    trials: Annotated[int, Setting("networks that a search trains", ge=1)] = 12
    population: Annotated[int, Setting("networks that are parents, the newest", ge=1)] = 4
    contest: Annotated[int, Setting("of these, of which the best has a child", ge=1)] = 2
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 1.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.002, epochs=30, batch_size=64)
    trial_training: Annotated[TrainingConfig, Setting("of a network that is tried")] = (
        TrainingConfig("adam", 0.01, epochs=8, batch_size=128)
    )
    student_training: StudentTraining = TrainingConfig("adam", 0.01, epochs=50, batch_size=128)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of what each search finds, once taught, and its number of parameters."""
        sizes = (self.labels, self.train - self.labels, self.validation)
        few, rest, aside, test = split(len(data.y), sizes, seed)
        known, every = (labelled(data.x, data.y, rows) for rows in (few, torch.cat([few, rest])))
        start = {"teacher": learner(self.teacher, data.shape, data.num_classes, seed, "teacher")}
        stage = alone("teacher", every, self.teacher_training)
        teacher = run(stage, start, generator(seed, "teach"))["teacher"]

        def fitted(name: str, scheme: list[Stage]) -> Learner:
            own = learner(name, data.shape, data.num_classes, seed, "student")
            learners = {"teacher": teacher, "student": own}
            return run(scheme, learners, generator(seed, "learn"))["student"]

        def taught(name: str, steps: TrainingConfig) -> Learner:
            follow, inputs = soft(self.temperature), unlabelled(every.x)
            return fitted(name, offline("student", ["teacher"], follow, inputs, steps))

        def untaught(name: str, steps: TrainingConfig) -> Learner:
            # As many steps as those who are taught: the few examples pass by more often.
            often = replace(steps, epochs=steps.epochs * len(every) // len(known))
            return fitted(name, alone("student", known, often))

        @cache
        def divergence(name: str) -> float:
            own, other = taught(name, self.trial_training), data.x[aside]
            return _mean(response.kl(own(other).logits, teacher(other).logits, self.temperature))

        @cache
        def cross_entropy(name: str) -> float:
            own = untaught(name, self.trial_training)(data.x[aside])
            return _mean(response.cross_entropy(own.logits, data.y[aside]))

        space = self.space(data)
        order = torch.randperm(len(space), generator=generator(seed, "random")).tolist()
        random = [space[place] for place in order[: self.trials]]
        evolved = self.evolved(space, divergence, generator(seed, "evolve"))
        by_labels = self.evolved(space, cross_entropy, generator(seed, "evolve"))
        found = {
            "": min(evolved, key=divergence),
            "_random": min(random, key=divergence),
            "_labels": min(by_labels, key=cross_entropy),
            "_blind": random[0],
        }
        students = {arm: taught(name, self.student_training) for arm, name in found.items()}
        students["_baseline"] = untaught(found["_labels"], self.student_training)
        x, y = data.x[test], data.y[test]
        return {
            **{f"accuracy{arm}": accuracy(one, x, y) for arm, one in students.items()},
            "accuracy_teacher": accuracy(teacher, x, y),
            "divergence": divergence(found[""]),
            "divergence_random": divergence(found["_random"]),
            "divergence_labels": divergence(found["_labels"]),
            **{f"parameters{arm}": parameters(one) for arm, one in students.items()},
        }

    def space(self, data: Dataset) -> list[str]:
        """The names of all networks within the budget."""
        shapes = [
            widths
            for depth in range(1, self.depth + 1)
            for widths in itertools.product(self.widths, repeat=depth)
        ]
        names = ["-".join(map(str, (kind, *own))) for kind in self.families for own in shapes]
        built = {name: learner(name, data.shape, data.num_classes, 0) for name in names}
        found = [name for name, one in built.items() if parameters(one) <= self.budget]
        if not found:
            least = min(map(parameters, built.values()))
            raise ValueError(
                f"budget is {self.budget}, and the smallest of these networks has {least} "
                "parameters; allow as many, or smaller widths"
            )
        return found

    def evolved(self, space: Sequence[str], score: Score, source: torch.Generator) -> list[str]:
        """The networks that a search tries, each once: `population` at random, then children.

        Esteban Real, Alok Aggarwal, Yanping Huang, Quoc Le. "Regularized Evolution for Image
        Classifier Architecture Search". AAAI 2019. https://arxiv.org/abs/1802.01548: of `contest`
        parents drawn from the newest, the one of the least score has a child, a neighbour of it.
        Convention: no network is tried twice; a parent whose neighbours all were has a child at
        random.
        """

        def drawn(names: Sequence[str], count: int) -> list[str]:
            order = torch.randperm(len(names), generator=source)[:count]
            return [names[place] for place in order.tolist()]

        tried = drawn(space, min(self.population, self.trials))
        while len(tried) < min(self.trials, len(space)):
            parent = min(drawn(tried[-self.population :], self.contest), key=score)
            left = [name for name in space if name not in tried]
            near = [name for name in left if neighbours(name, parent, self.widths)]
            tried += drawn(near or left, 1)
        return tried


def neighbours(one: str, other: str, widths: Sequence[int]) -> bool:
    """Whether two networks differ in their kind alone, in one width by a step, or in a last layer.

    A step leads from one of `widths` to the next.
    """
    (kind, *own), (other_kind, *others) = one.split("-"), other.split("-")
    if kind != other_kind:
        return own == others
    if len(own) != len(others):
        short, long = sorted((own, others), key=len)
        return long[:-1] == short
    order = sorted(widths)
    steps = [
        abs(order.index(int(a)) - order.index(int(b))) for a, b in zip(own, others, strict=True)
    ]
    return sum(steps) == 1


def _mean(losses: Tensor) -> float:
    return float(losses.mean())
