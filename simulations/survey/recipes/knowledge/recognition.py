"""Recognition: to tell unseen digits apart, by how a teacher arranges others."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.losses import relation
from kdcore.losses.numerics import root, squared_distances, unit
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.offline import alone, offline
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, moved, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import learner


@dataclass(frozen=True)
class Recognition:
    """Relation-based knowledge, on an open set: digits 0 to 4 are for training, 5 to 9 for testing.

    Wonpyo Park, Dongju Kim, Yan Lu, Minsu Cho. "Relational Knowledge Distillation". CVPR 2019.
    https://arxiv.org/abs/1904.05068

    The teacher is a classifier of the seen digits, and its last hidden layer an embedding; the
    student is a small embedding. It keeps the teacher's distances and angles and needs no label.
    Recall@1 is the share of unseen examples whose nearest neighbour is of the same digit. The
    control has the student's network, inputs and steps, and the labels: triplets (`_baseline`),
    which are of rows of length 1, so that its neighbours are those by direction.
    `_untrained` is the student before it learns; `_blank` keeps the relations of a teacher that was
    never trained. All digits are moved by up to `shift` pixels, so that pixels alone tell less.
    """

    data: ClassVar[str] = "mnist"

    train: Annotated[int, Setting("examples of seen digits", ge=1)] = 1984
    test: Annotated[int, Setting("examples of unseen digits", ge=2)] = 1000
    shift: Annotated[int, Setting("pixels by which an image is moved, at the most", ge=0)] = 3
    teacher: Network = "cnn-8-16"
    student: Network = "mlp-64"
    width: Annotated[int, Setting("of the embedding", ge=1, le=WIDEST)] = 16
    margin: Annotated[float, Setting("of the triplet loss", ge=0)] = 0.2
    distance: Annotated[float, Setting("weight of distances", ge=0)] = 1.0
    angle: Annotated[float, Setting("weight of angles", ge=0)] = 2.0
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.003, epochs=4, batch_size=62)
    student_training: StudentTraining = TrainingConfig("adam", 0.002, epochs=8, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Recall@1 and equal error rate among unseen digits."""
        (seen,) = (data.y < 5).nonzero(as_tuple=True)
        (unseen,) = (data.y >= 5).nonzero(as_tuple=True)
        train, test = (
            rows[split(len(rows), (size,), seed)[0]]
            for rows, size in ((seen, self.train), (unseen, self.test))
        )
        source = generator(seed, "move")
        known = labelled(data.x, data.y, train)
        known = replace(known, x=moved(known.x, self.shift, source))
        start = {
            "teacher": learner(self.teacher, data.shape, 5, seed, "teacher"),
            "student": learner(self.student, data.shape, self.width, seed, "student"),
        }
        start |= {"blank": start["teacher"]}
        taught = run(
            alone("teacher", known, self.teacher_training), start, generator(seed, "teach")
        )
        inputs, steps = unlabelled(known.x), self.student_training
        by_label = Stage({"student": (LossTerm(self.triplet),)}, known, steps)
        arms = {
            "": offline("student", ["teacher"], self.relations, inputs, steps),
            "_blank": offline("student", ["blank"], self.relations, inputs, steps),
            "_baseline": [by_label],
            "_untrained": [],
        }
        x, y = moved(data.x[test], self.shift, source), data.y[test]
        embedded = {"_teacher": taught["teacher"](x).hidden[-1]}
        for arm, scheme in arms.items():
            student = run(scheme, taught, generator(seed, "learn"))["student"]
            embedded[arm] = student(x).logits
        # Its loss never saw how long a row is: lengths would be noise in its distances.
        embedded["_baseline"] = unit(embedded["_baseline"])
        recalls = {f"recall{arm}": recall_at_1(e, y) for arm, e in embedded.items()}
        return recalls | {f"eer{arm}": equal_error_rate(e, y) for arm, e in embedded.items()}

    def relations(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """The distances and the angles of a batch, weighted as the paper does for embeddings."""
        own, reference = student.logits, teacher.hidden[-1]
        angles = relation.angle(own, reference)
        return self.distance * relation.distance(own, reference) + self.angle * angles

    def triplet(self, student: Outputs, y: Tensor) -> Tensor:
        """Triplet loss, of the triplets of a batch that violate the margin, one value per anchor.

        Alexander Hermans, Lucas Beyer, Bastian Leibe. "In Defense of the Triplet Loss for Person
        Re-Identification". 2017. https://arxiv.org/abs/1703.07737, the "batch all" form; rows have
        length 1.
        """
        apart = root(squared_distances(unit(student.logits)))
        gap = (apart[:, :, None] - apart[:, None, :] + self.margin).clamp(min=0)
        same = y[:, None] == y
        positive = same & ~torch.eye(len(y), dtype=torch.bool)
        gap = gap * (positive[:, :, None] & ~same[:, None, :])  # (anchor, positive, negative)
        return gap.sum((1, 2)) / (gap > 0).sum((1, 2)).clamp(min=1)


def recall_at_1(embedding: Tensor, y: Tensor) -> float:
    """The share of examples whose nearest other example has the same label.

    Shapes:
        embedding: (N, D); y: (N,).
    """
    apart = _distances(embedding).fill_diagonal_(float("inf"))
    return float((y[apart.argmin(1)] == y).double().mean())


def equal_error_rate(embedding: Tensor, y: Tensor) -> float:
    """Verification of pairs by distance: the error rate where as many are let in as are kept out.

    Shapes:
        embedding: (N, D); y: (N,).
    """
    import numpy as np
    from sklearn.metrics import roc_curve

    i, j = torch.triu_indices(len(y), len(y), 1)
    near = -_distances(embedding)[i, j]
    wrongly_in, rightly_in, _ = roc_curve((y[i] == y[j]).cpu().numpy(), near.cpu().numpy())
    return float(np.interp(0, wrongly_in - (1 - rightly_in), wrongly_in))


def _distances(rows: Tensor) -> Tensor:
    """Of all pairs, exactly, and without the differences of all pairs in memory."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
