"""Regression: what a teacher is good for where there are no other classes to tell of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor

from kdcore.losses import regression
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, seeing
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import Table, split
from simulations.survey.recipes import Metrics, Network
from simulations.survey.students import learner

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

RealLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (student, teacher, targets) (N, 1) -> (N,)


@dataclass(frozen=True)
class Regression:
    """Some labels are wrong, and a teacher helps against them in four ways.

    The losses are those of `kdcore.losses.regression`: Guobin Chen et al., NIPS 2017
    (teacher-bounded); Muhamad Risqi Saputra et al., ICCV 2019, https://arxiv.org/abs/1908.00858
    (attentive imitation); Makoto Takamoto et al., MIPR 2020, https://arxiv.org/abs/2002.12597
    (outlier rejection); and plain imitation: half the squared distance to the label, half that to
    the teacher.

    The teacher is a random forest that had the same wrong labels. What it says of an example is the
    mean of those trees that have not seen it (out of bag). Controls, all without a teacher: squared
    errors (`baseline`); errors that grow less for outliers, which is teacher-bounded regression
    without its teacher (`robust`); weight decay (`decay`); labels that are right (`right`). And
    plain imitation of a forest that is asked about what it has seen (`in_bag`).
    """

    data: ClassVar[str] = "diabetes"

    train: Annotated[int, Setting("training examples", ge=2)] = 300
    wrong: Annotated[float, Setting("share of targets that is off", ge=0, le=1)] = 0.15
    error: Annotated[float, Setting("of these, in standard deviations of the target", ge=0)] = 2.0
    trees: Annotated[int, Setting("of the forest", ge=1)] = 100
    leaf: Annotated[int, Setting("examples in a leaf, at the least", ge=1)] = 5
    student: Network = "mlp-32"
    weight: Annotated[float, Setting("of the targets, the rest is the teacher's", ge=0, le=1)] = 0.5
    decay: Annotated[float, Setting("weight decay of the control with it", ge=0)] = 0.01
    training: TrainingConfig = TrainingConfig("adam", 0.01, epochs=30, batch_size=32)

    def measure(self, data: Table, seed: int) -> Metrics:
        """Test error of the student by each loss, in standard deviations of the target."""
        known, unseen = split(len(data.y), (self.train,), seed)
        x = (data.x / data.x.std(0)).float()
        y = ((data.y - data.y[known].mean()) / data.y[known].std()).float()
        right = y[known].unsqueeze(1)
        given = corrupted(right, self.wrong, self.error, generator(seed, "wrong"))
        forest = grown(x[known], given, self.trees, self.leaf, seed)
        predicted, in_bag = out_of_bag(forest), said_by(forest, x[known])
        one = learner(self.student, x.shape[1:], 1, seed)

        def rmse(
            loss: RealLoss, teacher: Tensor, targets: Tensor, training: TrainingConfig
        ) -> float:
            examples = Examples((x[known], teacher), targets, torch.arange(self.train))
            learners = {"student": one._replace(predict=seeing(one.predict, 0)), "teacher": ORACLE}
            terms = {"student": (LossTerm(on_outputs(loss), ("teacher",)),)}
            stage = Stage(terms, examples, training)
            student = run([stage], learners, generator(seed, "learn"))["student"]
            return _rmse(student((x[unseen],)).logits, y[unseen].unsqueeze(1))

        losses: dict[str, RealLoss] = {
            "": self.imitation,
            "_attentive": self.attentive(predicted, given),
            "_bounded": regression.teacher_bounded,
            "_rejecting": self.rejecting(predicted, given),
            "_baseline": squared,
            "_robust": robust,
        }
        learn, decay = self.training, replace(self.training, weight_decay=self.decay)
        return {
            f"rmse{arm}": rmse(loss, predicted, given, learn) for arm, loss in losses.items()
        } | {
            "rmse_decay": rmse(squared, predicted, given, decay),
            "rmse_right": rmse(squared, predicted, right, learn),
            "rmse_in_bag": rmse(self.imitation, in_bag, given, learn),
            "rmse_teacher": _rmse(said_by(forest, x[unseen]), y[unseen].unsqueeze(1)),
        }

    def imitation(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """Plain imitation, whether the teacher is right or not."""
        hard, soft = squared(student, teacher, targets), squared(student, targets, teacher)
        return self.weight * hard + (1 - self.weight) * soft

    def attentive(self, predicted: Tensor, given: Tensor) -> RealLoss:
        """Imitation where the teacher was right, by its errors over all examples."""
        scale = float(regression.error_range(predicted, given))

        def loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
            return regression.attentive_imitation(student, teacher, targets, scale, self.weight)

        return loss

    def rejecting(self, predicted: Tensor, given: Tensor) -> RealLoss:
        """Labels that are two standard deviations from what the teacher says do not count."""
        limit = 2 * float((predicted - given).std())

        def loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
            return regression.outlier_rejecting(student, teacher, targets, limit, self.weight)

        return loss


def corrupted(y: Tensor, share: float, error: float, source: torch.Generator) -> Tensor:
    """Targets (N, 1) of which a share is off, by a normal error of this standard deviation."""
    wrong = torch.randperm(len(y), generator=source)[: round(share * len(y))]
    found = y.clone()
    found[wrong] += error * torch.randn(len(wrong), 1, generator=source)
    return found


def grown(x: Tensor, y: Tensor, trees: int, leaf: int, seed: int) -> "RandomForestRegressor":
    """A random forest; no leaf holds fewer than so many examples."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        trees, min_samples_leaf=leaf, oob_score=True, random_state=seed, n_jobs=1
    )
    return forest.fit(x.cpu().numpy(), y.squeeze(1).cpu().numpy())


def out_of_bag(forest: "RandomForestRegressor") -> Tensor:
    """(N, 1): of each training example, the mean of the trees that did not see it."""
    return torch.tensor(forest.oob_prediction_).float().unsqueeze(1)


def said_by(forest: "RandomForestRegressor", x: Tensor) -> Tensor:
    """(N, 1): the mean of all trees."""
    return torch.tensor(forest.predict(x.cpu().numpy())).float().unsqueeze(1)


ORACLE = Learner(lambda params, seen: Outputs(seen[1]), {})  # its predictions come with x


def on_outputs(loss: RealLoss) -> Callable[[Outputs, Tensor, Outputs], Tensor]:
    """The loss as a term of a scheme: what networks put out are their predictions."""

    def term(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        return loss(student.logits, teacher.logits, y)

    return term


def squared(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Squared errors, without a teacher."""
    return (student - targets).square().sum(-1)


def robust(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """The part of teacher-bounded regression that asks no teacher."""
    return regression.teacher_bounded(student, teacher, targets, weight=0.0)


def _rmse(predicted: Tensor, y: Tensor) -> float:
    return float((predicted - y).double().square().mean().sqrt())
