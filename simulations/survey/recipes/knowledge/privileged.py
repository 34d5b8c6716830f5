"""Privileged information: a teacher that sees what its student will never see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from kdcore.losses import decoupled
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, seeing
from kdcore.schemes.stages import LossTerm, Stage, labels, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from kdcore.training.stacked import Params
from simulations.survey.recipes import Metrics
from simulations.survey.students import accuracy


class Seen(NamedTuple):
    """What student and teacher see of the same examples, and their labels.

    Shapes: regular (N, D); privileged (N, D*); y (N,) in {0, 1}.
    """

    regular: Tensor
    privileged: Tensor
    y: Tensor


@dataclass(frozen=True)
class Privileged:
    r"""Generalised distillation on the first three synthetic experiments of its paper.

    David Lopez-Paz, Leon Bottou, Bernhard Scholkopf, Vladimir Vapnik. "Unifying Distillation and
    Privileged Information". ICLR 2016. https://arxiv.org/abs/1511.03643

        teacher:  f_t(x*) of labels;   student:  f_s(x) of softmax(f_t(x*) / T),   \lambda = 1

    Linear classifiers. The paper's accuracies of student without teacher, student and teacher are
    0.88, 0.95, 0.96; 0.68, 0.70, 0.90; 0.89, 0.97, 0.98. In the second experiment the privileged
    features tell nothing that helps the student: it is the control of the other two.

    Convention: features are standardised by the training examples, and tests have 1,000 examples,
    as in the authors' code (the paper says 10,000). Plain gradient descent from zero, where the
    code has RMSprop: adaptive steps let the features that tell nothing grow as fast as the others,
    which lowers the student without teacher of the third experiment and so flatters its gain.
    """

    data: ClassVar[str] = "none"

    features: Annotated[int, Setting("of an example", ge=3)] = 50
    train: Annotated[int, Setting("training examples", ge=2)] = 200
    test: Annotated[int, Setting("test examples", ge=1)] = 1000
    imitation: Annotated[
        float, Setting("weight of the teacher, the rest is the labels'", ge=0, le=1)
    ] = 1.0
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 1.0
    training: TrainingConfig = TrainingConfig("sgd", 0.5, epochs=200, batch_size=200)

    def measure(self, data: None, seed: int) -> Metrics:
        """Test accuracy of student, of the same student without teacher, and of the teacher."""
        metrics: dict[str, float] = {}
        for number, experiment in enumerate(EXPERIMENTS, 1):
            g = generator(seed, "synthetic", number)
            a = torch.randn(self.features, generator=g)
            train, test = (drawn(experiment, a, n, g) for n in (self.train, self.test))
            x, unseen = _standardised(train), _standardised(test, train)
            examples = Examples((x.regular, x.privileged), x.y, torch.arange(self.train))
            start = {
                "student": Learner(seeing(linear, 0), _zeros(x.regular)),
                "teacher": Learner(seeing(linear, 1), _zeros(x.privileged)),
            }
            terms = {"teacher": (LossTerm(labels),), "student": (LossTerm(labels),)}
            alone = run(
                [Stage(terms, examples, self.training)], start, generator(seed, "order", number)
            )
            follow = {"student": (LossTerm(self.loss, ("teacher",)),)}
            taught = run(
                [Stage(follow, examples, self.training)],
                alone | {"student": start["student"]},
                generator(seed, "order", number),
            )
            views = (unseen.regular, unseen.privileged)
            metrics |= {
                f"accuracy_{number}": accuracy(taught["student"], views, unseen.y),
                f"accuracy_baseline_{number}": accuracy(alone["student"], views, unseen.y),
                f"accuracy_teacher_{number}": accuracy(alone["teacher"], views, unseen.y),
            }
        return metrics

    def loss(self, student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        """The objective of the paper."""
        return decoupled.generalised(
            student.logits, teacher.logits, y, self.imitation, self.temperature
        )


# (x, noise, a) -> what is seen; x and noise are (N, D) standard normal, a is (D,)
Experiment = Callable[[Tensor, Tensor, Tensor], Seen]


def clean_labels(x: Tensor, noise: Tensor, a: Tensor) -> Seen:
    """x* = <a, x>, y = [x* + e > 0]: how far an example is from the boundary, without noise."""
    margin = x @ a
    return Seen(x, margin.unsqueeze(1), (margin + noise[:, 0] > 0).long())


def clean_features(x: Tensor, noise: Tensor, a: Tensor) -> Seen:
    """x* = x, y = [<a, x*> > 0], the student sees x* + e: its noise is no affair of the label's."""
    return Seen(x + noise, x, (x @ a > 0).long())


def relevant_features(x: Tensor, noise: Tensor, a: Tensor) -> Seen:
    """x* = the first three features, which alone decide: y = [<a, x*> > 0], a cut alike."""
    return Seen(x, x[:, :3], (x[:, :3] @ a[:3] > 0).long())


EXPERIMENTS: tuple[Experiment, ...] = (clean_labels, clean_features, relevant_features)


def drawn(experiment: Experiment, a: Tensor, count: int, source: torch.Generator) -> Seen:
    """So many examples of an experiment whose boundary is orthogonal to `a`."""
    x, noise = torch.randn(2, count, len(a), generator=source)
    return experiment(x, noise, a)


def linear(params: Params, x: Tensor) -> Outputs:
    """Logits of a linear classifier."""
    return Outputs(x @ params["weight"].T + params["bias"])


def _zeros(x: Tensor) -> Params:
    return {"weight": torch.zeros(2, x.shape[1]), "bias": torch.zeros(2)}


def _standardised(seen: Seen, by: Seen | None = None) -> Seen:
    """Features of mean 0 and variance 1 over the examples that this goes by."""
    regular, privileged = (
        (view - own.mean(0)) / own.std(0, correction=0)
        for view, own in zip(seen[:2], (by or seen)[:2], strict=True)
    )
    return Seen(regular, privileged, seen.y)
