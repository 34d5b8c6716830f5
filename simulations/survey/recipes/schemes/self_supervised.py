"""Self-supervised: a small encoder learns without labels from one that learnt without labels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.data.datasets import Dataset
from kdcore.losses.mutual_information import infonce
from kdcore.losses.numerics import unit
from kdcore.losses.relation import similarity_distribution
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import offline
from kdcore.schemes.stages import LossTerm, Stage, TermLoss, run
from kdcore.settings import WIDEST, Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import Params, Predict, TrainingConfig
from simulations.survey.datasets import moved, split, unlabelled
from simulations.survey.recipes import Metrics, Network, StudentTraining, TeacherTraining
from simulations.survey.students import learner


@dataclass(frozen=True)
class SelfSupervised:
    """Similarity distillation (SEED) of an encoder trained by contrast.

    Zhiyuan Fang, Jianfeng Wang, Lijuan Wang, Lei Zhang, Yezhou Yang, Zicheng Liu. "SEED:
    Self-supervised Distillation For Visual Representation". ICLR 2021.
    https://arxiv.org/abs/2101.04731

    The teacher is trained as in Ting Chen, Simon Kornblith, Mohammad Norouzi, Geoffrey Hinton. "A
    Simple Framework for Contrastive Learning of Visual Representations". ICML 2020.
    https://arxiv.org/abs/2002.05709: two shifted, noised copies of an image belong together. Then
    the student learns which of a queue of images another one is like.

    An encoder is judged by a linear probe of its last hidden layer with `probed` labels. Controls:
    the student's own contrastive training, on the same copies for as many steps (`_baseline`); its
    initial weights (`_untrained`); the similarities of a teacher that was never trained (`_blank`).

    Convention: the queue holds fixed images instead of those of the last batches. A linear layer
    behind the features maps either network to one width, where rows are compared.
    """

    data: ClassVar[str] = "mnist"

    train: Annotated[int, Setting("examples, without labels", ge=1)] = 4000
    test: Annotated[int, Setting("test examples", ge=1)] = 2000
    probed: Annotated[int, Setting("labelled examples of the linear probe", ge=2)] = 200
    queue: Annotated[int, Setting("images that similarities are with", ge=1)] = 512
    copies: Annotated[int, Setting("of each example, each two noised views", ge=1)] = 5
    width: Annotated[int, Setting("of the rows that are compared", ge=1, le=WIDEST)] = 64
    teacher: Network = "mlp-256-128"
    student: Network = "mlp-32-12"
    reach: Annotated[int, Setting("pixels by which a view is moved, at the most", ge=0)] = 2
    noise: Annotated[float, Setting("standard deviation of a view's noise", ge=0)] = 0.2
    contrast_temperature: Annotated[float, Setting("T of the contrastive loss", gt=0)] = 0.2
    student_temperature: Annotated[float, Setting("T of the student's similarities", gt=0)] = 0.1
    teacher_temperature: Annotated[float, Setting("T of the teacher's similarities", gt=0)] = 0.02
    teacher_training: TeacherTraining = TrainingConfig("adam", 0.001, epochs=6, batch_size=200)
    student_training: StudentTraining = TrainingConfig("adam", 0.003, epochs=6, batch_size=200)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of a linear probe of each encoder."""
        sizes = (self.train, self.probed, self.queue, self.test)
        rows = split(len(data.y), sizes, seed)[:4]
        train, probed, queue, test = (F.avg_pool2d(data.x[part], 2) for part in rows)
        y, right = data.y[rows[1]], data.y[rows[3]]
        shape = tuple(train.shape[1:])
        start = {
            "teacher": learner(self.teacher, shape, self.width, seed, "teacher"),
            "student": learner(self.student, shape, self.width, seed, "student"),
        }
        copies = self.views(train, generator(seed, "views"))

        def contrasted(who: str, training: TrainingConfig) -> Learner:
            one = start[who]
            pair = {who: Learner(both(one.predict), one.params)}
            study = Stage({who: (LossTerm(self.contrast),)}, copies, training)
            learnt = run([study], pair, generator(seed, "contrast", who))[who]
            return Learner(one.predict, learnt.params)

        teacher, student = contrasted("teacher", self.teacher_training), start["student"]
        learners = {"teacher": teacher, "blank": start["teacher"], "student": student}
        seen = unlabelled(copies.x[0])

        def followed(whom: str) -> Learner:
            alike = self.alike(learners[whom](queue).logits)
            follow = offline("student", [whom], alike, seen, self.student_training)
            return run(follow, learners, generator(seed, "learn"))["student"]

        encoders = {
            "": followed("teacher"),
            "_blank": followed("blank"),
            "_baseline": contrasted("student", self.student_training),
            "_untrained": student,
            "_teacher": teacher,
        }
        return {
            f"accuracy{arm}": probe(one(probed).hidden[-1], y, one(test).hidden[-1], right)
            for arm, one in encoders.items()
        }

    def views(self, images: Tensor, source: torch.Generator) -> Examples:
        """Each image `copies` times, as two views of it: moved and noised."""

        def view() -> Tensor:
            there = moved(many, self.reach, source)
            return there + self.noise * torch.randn(there.shape, generator=source)

        many = images.repeat(self.copies, 1, 1, 1)
        return unlabelled((view(), view()))

    def contrast(self, own: Outputs, y: Tensor) -> Tensor:
        """Which of the batch is the other view of an image? InfoNCE, either way round."""
        scores = unit(own.logits) @ unit(own.hidden[-1]).mT / self.contrast_temperature
        return 0.5 * (infonce(scores) + infonce(scores.mT))

    def alike(self, queue: Tensor) -> TermLoss:
        """The loss of similarities with the teacher's rows of a queue, (Q, D)."""

        def loss(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
            return similarity_distribution(
                student.logits,
                teacher.logits,
                queue,
                self.student_temperature,
                self.teacher_temperature,
            )

        return loss


def both(predict: Predict) -> Predict:
    """A network that looks at two views: the logits of the first, and those of the second."""

    def predict_both(params: Params, views: tuple[Tensor, Tensor]) -> Outputs:
        one, other = (predict(params, view).logits for view in views)
        return Outputs(one, (other,))

    return predict_both


def probe(known: Tensor, labels: Tensor, features: Tensor, right: Tensor) -> float:
    """Test accuracy of logistic regression on features, each scaled to unit variance.

    Shapes:
        known: (M, D) and labels (M,), to learn from; features: (N, D) and right (N,), to be told.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    linear.fit(known.double().cpu().numpy(), labels.cpu().numpy())
    return float(linear.score(features.double().cpu().numpy(), right.cpu().numpy()))
