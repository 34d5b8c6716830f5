"""Several steps: an assistant of middle size between a large teacher and a small student."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedkd.data.datasets import Dataset
from kdcore.rng import generator
from kdcore.schemes.offline import alone, multi_step
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split
from simulations.survey.recipes import Metrics, Network
from simulations.survey.students import accuracy, classifiers, parameters


@dataclass(frozen=True)
class MultiStep:
    """A teacher assistant: does it help a student that is far smaller than its teacher?

    Seyed-Iman Mirzadeh, Mehrdad Farajtabar, Ang Li, Nir Levine, Akihiro Matsukawa, Hassan
    Ghasemzadeh. "Improved Knowledge Distillation via Teacher Assistant". AAAI 2020.
    https://arxiv.org/abs/1902.03393

    Controls: the teacher teaches the student itself (`direct`); so does the assistant, but one that
    had the labels alone (`untaught`); nobody does (`baseline`).
    """

    data: ClassVar[str] = "mnist"

    train: Annotated[int, Setting("labelled examples, the same for all", ge=1)] = 3000
    test: Annotated[int, Setting("test examples", ge=1)] = 5000
    teacher: Network = "mlp-256-256"
    assistant: Network = "mlp-32"
    student: Network = "mlp-8"
    temperature: Annotated[float, Setting("T of the soft targets", gt=0)] = 4.0
    hard: Annotated[
        float, Setting("weight of the labels, the rest is the teacher's", ge=0, le=1)
    ] = 0.1
    training: TrainingConfig = TrainingConfig("adam", 0.002, epochs=20, batch_size=64)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Test accuracy of the student at the end of the chain, and without it."""
        known, test, _ = split(len(data.y), (self.train, self.test), seed)
        examples = labelled(data.x, data.y, known)
        x, y = data.x[test], data.y[test]
        models = {"teacher": self.teacher, "assistant": self.assistant, "student": self.student}
        start = classifiers(data, models, seed)
        untaught = {
            role: run(alone(role, examples, self.training), start, generator(seed, "learn"))[role]
            for role in start
        }
        learners = start | {"teacher": untaught["teacher"], "untaught": untaught["assistant"]}
        arms = {
            "": ("teacher", "assistant", "student"),
            "_direct": ("teacher", "student"),
            "_untaught": ("untaught", "student"),
        }
        metrics = {}
        for arm, chain in arms.items():
            scheme = multi_step(chain, soft(self.temperature), examples, self.training, self.hard)
            found = run(scheme, learners, generator(seed, "learn"))
            metrics[f"accuracy{arm}"] = accuracy(found["student"], x, y)
            if not arm:
                metrics["accuracy_assistant"] = accuracy(found["assistant"], x, y)
        return metrics | {
            "accuracy_baseline": accuracy(untaught["student"], x, y),
            "accuracy_teacher": accuracy(untaught["teacher"], x, y),
            "parameters_ratio": parameters(start["teacher"]) / parameters(start["student"]),
        }
