"""Born-again networks: a network teaches the next one of its own kind."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from fedkd.data.datasets import Dataset
from kdcore import ensemble
from kdcore.rng import generator
from kdcore.schemes.offline import alone, multi_step
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, share_right, split
from simulations.survey.recipes import Metrics, Network
from simulations.survey.students import accuracy, classifiers


@dataclass(frozen=True)
class BornAgain:
    """Self-distillation over generations of one architecture, on the same labels.

    Tommaso Furlanello, Zachary Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar. "Born
    Again Neural Networks". ICML 2018. https://arxiv.org/abs/1805.04770

    Each generation starts from weights of its own, with the labels and what the generation before
    says of the same examples. Controls: the last generation's network with the labels alone
    (`baseline`); as many independent networks put together (`independents`) beside the generations
    put together (`ensemble`).
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("labelled examples, the same for all generations", ge=1)] = 300
    model: Network = "mlp-64"
    generations: Annotated[int, Setting("students, one after another", ge=1)] = 3
    hard: Annotated[
        float, Setting("weight of the labels, the rest is the teacher's", ge=0, le=1)
    ] = 0.5
    training: TrainingConfig = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the generations."""
        known, test = split(len(data.y), (self.labels,), seed)
        examples = labelled(data.x, data.y, known)
        x, y = data.x[test], data.y[test]
        names = [f"generation{i}" for i in range(self.generations + 1)]
        start = classifiers(data, dict.fromkeys(names, self.model), seed)
        g = generator(seed, "learn")
        independent = run(
            [stage for name in names for stage in alone(name, examples, self.training)], start, g
        )
        first, *_, last = names
        born = run(
            multi_step(names, soft(), examples, self.training, self.hard),
            start | {first: independent[first]},
            generator(seed, "teach"),
        )
        together = {
            arm: share_right(
                ensemble.mean(
                    torch.stack([one(x).logits for one in teachers.values()]).softmax(-1)
                ),
                y,
            )
            for arm, teachers in {"_ensemble": born, "_independents": independent}.items()
        }
        return {
            "accuracy": accuracy(born[last], x, y),
            "accuracy_once": accuracy(born[names[1]], x, y),
            "accuracy_baseline": accuracy(independent[last], x, y),
            "accuracy_teacher": accuracy(born[first], x, y),
        } | {f"accuracy{arm}": value for arm, value in together.items()}
