"""A loss of your own in a scheme that is there: a frozen teacher, and the Hellinger distance."""

import torch
from torch import Tensor

from fedkd import models
from fedkd.data import datasets
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes import stages
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone, offline
from kdcore.training.batches import Examples
from kdcore.training.optimizers import TrainingConfig


def hellinger(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
    """H^2(p, q) = 1 - sum_c sqrt(p_c q_c), one value per example: (B, C), (B, C) -> (B,)."""
    halves = student.logits.log_softmax(-1) + teacher.logits.log_softmax(-1)
    return 1 - (halves / 2).exp().sum(-1)


def distilled(epochs: int = 20) -> dict[str, float]:
    """Accuracy of a teacher, and of a student that has its predictions and no labels."""
    digits = datasets.load("digits")
    order = torch.randperm(len(digits.y), generator=generator(0, "split"))
    examples, test = Examples(digits.x, digits.y, order[:1000]), order[1000:]
    learners = {}
    for who, name in (("teacher", "mlp-64"), ("student", "mlp-16")):
        model = models.build(name, (1, 8, 8), 10)
        learners[who] = Learner(model.predict, dict(model.init(generator(0, "init", who))))
    training = TrainingConfig(epochs=epochs)
    steps = [
        *alone("teacher", examples, training),
        *offline("student", ["teacher"], hellinger, examples, training),
    ]
    after = stages.run(steps, learners, generator(0, "order"))
    right = {w: one(digits.x[test]).logits.argmax(-1) == digits.y[test] for w, one in after.items()}
    return {who: float(hits.double().mean()) for who, hits in right.items()}


if __name__ == "__main__":
    print(distilled())
