"""Explanation: what of a teacher's answers is it that teaches, and can a tree say what it knows?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.losses import response
from kdcore.metrics import accuracy, agreement
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.recipes.knowledge.dark_knowledge import recall, shifted
from simulations.survey.students import classifiers


@dataclass(frozen=True)
class Explanation:
    """Explainable distillation: the gain is taken apart, and a teacher is put into a tree.

    Taken apart: Tommaso Furlanello, Zachary Lipton, Michael Tschannen, Laurent Itti, Anima
    Anandkumar. "Born-Again Neural Networks". ICML 2018. https://arxiv.org/abs/1805.04770, whose
    DKPP permutes what the teacher says of the classes that it does not choose. Here on the task of
    `dark_knowledge`, a digit that the student never sees: if the dark knowledge is what teaches,
    the permuted answers cannot. They are as sure and as unsure as before; in `_even`, all classes
    but the chosen one get the same.

    Put into a tree: Xuan Liu, Xiaoguang Wang, Stan Matwin. "Improving the Interpretability of Deep
    Neural Networks with Knowledge Distillation". ICDM Workshops 2018.
    https://arxiv.org/abs/1812.10924. A regression tree of few leaves learns the teacher's softened
    probabilities; fidelity is how often it says what the teacher says. Its control learns labels.
    """

    data: ClassVar[str] = "digits"

    hidden: Annotated[int, Setting("the digit that nobody is shown", ge=0, le=9)] = 3
    train: Annotated[int, Setting("examples that the teacher learns", ge=1)] = 1078
    aside: Annotated[
        int, Setting("examples by which the hidden digit's logit is shifted", ge=1)
    ] = 200
    teacher: Network = "mlp-256-256"
    student: Network = "mlp-64-64"
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 20.0
    leaves: Annotated[int, Setting("of the tree, at the most", ge=2)] = 60
    tree_temperature: Annotated[
        float, Setting("T of the probabilities that the tree learns", gt=0)
    ] = 2.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.001, epochs=40, batch_size=32)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Recall of the hidden digit for each kind of answers; accuracy and fidelity of trees."""
        every, aside, test = split(len(data.y), (self.train, self.aside), seed)
        start = classifiers(data, {"teacher": self.teacher, "student": self.student}, seed)
        scheme = alone("teacher", labelled(data.x, data.y, every), self.teacher_training)
        teacher = run(scheme, start, generator(seed, "teach"))["teacher"]
        x, y = data.x[test], data.y[test]
        known_x = data.x[every[data.y[every] != self.hidden]]
        teacher_logits = teacher(known_x).logits
        kinds = {
            "": teacher_logits,
            "_permuted": permuted(teacher_logits, generator(seed, "permute")),
            "_even": evened(teacher_logits, self.temperature),
        }
        metrics = {}
        for arm, targets in kinds.items():
            stage = Stage(
                {"student": (LossTerm(self.follow),)},
                Examples(known_x, targets, torch.arange(len(known_x))),
                self.student_training,
            )
            student = run([stage], start, generator(seed, "learn"))["student"]
            mended = shifted(student(x).logits, student(data.x[aside]).logits, self.hidden)
            metrics[f"recall{arm}"] = recall(mended, y, self.hidden)
            metrics[f"accuracy{arm}"] = accuracy(mended, y)
        known = (teacher(data.x[every]).logits / self.tree_temperature).softmax(1)
        sure = teacher(x).logits
        labels = torch.nn.functional.one_hot(data.y[every], data.num_classes).float()
        for arm, targets in {"": known, "_baseline": labels}.items():
            tree = self.tree(data.x[every], targets, x, seed)
            metrics[f"accuracy_tree{arm}"] = accuracy(tree, y)
            metrics[f"fidelity_tree{arm}"] = agreement(tree, sure)
        return metrics | {"accuracy_teacher": accuracy(sure, y)}

    def follow(self, student: Outputs, targets: Tensor) -> Tensor:
        """The distillation loss towards answers that are given as logits."""
        return response.kl(student.logits, targets, self.temperature)

    def tree(self, x: Tensor, targets: Tensor, asked: Tensor, seed: int) -> Tensor:
        """What a regression tree says that learnt (x, targets), (N, C), of other examples."""
        from sklearn.tree import DecisionTreeRegressor

        tree = DecisionTreeRegressor(max_leaf_nodes=self.leaves, random_state=seed)
        tree.fit(x.flatten(1).cpu().numpy(), targets.cpu().numpy())
        return torch.tensor(tree.predict(asked.flatten(1).cpu().numpy()))


def permuted(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Each row with the same values, the largest where it was and all others in random order.

    Shapes:
        logits: (N, C); gives (N, C).
    """
    # Sorting random keys permutes; the largest value keeps its place, the others share the rest.
    count, classes = logits.shape
    top = logits.argmax(1, keepdim=True)
    places = torch.arange(classes).expand(count, classes)
    rest = places[places != top].reshape(count, classes - 1)
    order = torch.rand(count, classes - 1, generator=generator).argsort(1)
    return logits.scatter(1, rest, logits.gather(1, rest.gather(1, order)))


def evened(logits: Tensor, temperature: float) -> Tensor:
    """Logits that are as sure of the chosen class at a temperature, and of no other.

    Shapes:
        logits: (N, C); gives (N, C).
    """
    p, top = (logits / temperature).softmax(1).max(1, keepdim=True)
    rest = ((1 - p) / (logits.shape[1] - 1)).expand_as(logits)
    return temperature * rest.scatter(1, top, p).log()
