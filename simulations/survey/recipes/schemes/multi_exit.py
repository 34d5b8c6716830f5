"""Several exits: the shallow parts of a network learn from its deepest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.data.datasets import Dataset
from fedkd.models.architectures import initialiser
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.online import multi_exit
from kdcore.schemes.stages import run
from kdcore.settings import WIDEST, Setting
from kdcore.training.loop import TrainingConfig
from kdcore.training.stacked import Params
from simulations.survey.datasets import labelled, share_right, split
from simulations.survey.recipes import Metrics


@dataclass(frozen=True)
class MultiExit:
    """Self-distillation from depth to breadth: a network is its own teacher.

    Linfeng Zhang, Jiebo Song, Anni Gao, Jingwei Chen, Chenglong Bao, Kaisheng Ma. "Be Your Own
    Teacher". ICCV 2019. https://arxiv.org/abs/1905.08094

    The first exit of a thin network is the student. Controls: deep supervision, where every exit
    has the labels alone (`baseline`), and a network that has no other exit (`shallow`).
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("labelled examples", ge=1)] = 300
    widths: Annotated[
        tuple[int, ...],
        Setting("of the hidden layers, each with an exit", ge=1, le=WIDEST, min_length=2),
    ] = (16, 32, 64)
    weight: Annotated[
        float, Setting("of the deepest exit, the rest is the labels'", ge=0, le=1)
    ] = 0.5
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 3.0
    training: TrainingConfig = TrainingConfig("adam", 0.003, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the first exit, and of the deepest."""
        known, test = split(len(data.y), (self.labels,), seed)
        examples = labelled(data.x, data.y, known)
        x, y = data.x[test], data.y[test]
        inputs = x[0].numel()
        start = exits(inputs, self.widths, data.num_classes, seed)
        shallow = exits(inputs, self.widths[:1], data.num_classes, seed)
        numbers = range(len(self.widths) - 1)
        metrics: dict[str, float] = {}
        for arm, weight in {"": self.weight, "_baseline": 0.0}.items():
            scheme = multi_exit(
                "student", examples, self.training, numbers, weight, self.temperature
            )
            said = run(scheme, {"student": start}, generator(seed, "learn"))["student"](x)
            metrics |= {
                f"accuracy{arm}": share_right(said.hidden[0], y),
                f"accuracy_deepest{arm}": share_right(said.logits, y),
            }
        scheme = alone("student", examples, self.training)
        said = run(scheme, {"student": shallow}, generator(seed, "learn"))["student"](x)
        return metrics | {"accuracy_shallow": share_right(said.logits, y)}


def exits(inputs: int, widths: Sequence[int], classes: int, seed: int) -> Learner:
    """A perceptron with an exit behind each layer: the logits are the last one's.

    Shapes: x (N, ...) -> logits (N, C), hidden ((N, C) for each exit before the last).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (before, width) in enumerate(zip([inputs, *widths], widths, strict=False)):
        shapes |= {f"layer{i}.weight": (width, before), f"layer{i}.bias": (width,)}
        shapes |= {f"exit{i}.weight": (classes, width), f"exit{i}.bias": (classes,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value, said = x.flatten(1), []
        for i in range(len(widths)):
            value = F.relu(_linear(params, f"layer{i}", value))
            said.append(_linear(params, f"exit{i}", value))
        return Outputs(said[-1], tuple(said[:-1]))

    return Learner(predict, initialiser(shapes)(generator(seed, "init")))


def _linear(params: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])
