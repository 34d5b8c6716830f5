"""Offline distillation: the teacher is trained first, and stays as it is."""

from collections.abc import Sequence

from torch import Tensor

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.schemes.stages import LossTerm, Stage, TermLoss, labels
from kdcore.training.batches import Examples
from kdcore.training.optimizers import TrainingConfig


def alone(student: str, examples: Examples, training: TrainingConfig) -> list[Stage]:
    """No teacher: the control of all others."""
    return [Stage({student: (LossTerm(labels),)}, examples, training)]


def offline(
    student: str,
    teachers: Sequence[str],
    loss: TermLoss,
    examples: Examples,
    training: TrainingConfig,
    hard: float = 0.0,
) -> list[Stage]:
    """Frozen teachers, one student: classic distillation, and from many teachers.

    Geoffrey Hinton, Oriol Vinyals, Jeff Dean. "Distilling the Knowledge in a Neural Network". NIPS
    2014 Deep Learning Workshop. https://arxiv.org/abs/1503.02531

        (1 - hard) loss(student, teachers) + hard CE(student, y)

    Where teacher and student look at different views of an example (`learners.seeing`), this is
    cross-modal distillation (Gupta, Hoffman, Malik, CVPR 2016, https://arxiv.org/abs/1507.00448);
    with a view that only the teacher has, and labels, generalised distillation (Lopez-Paz et al.,
    ICLR 2016, https://arxiv.org/abs/1511.03643).
    """
    terms = (LossTerm(loss, tuple(teachers), 1 - hard), LossTerm(labels, (), hard))
    return [Stage({student: terms}, examples, training)]


def multi_step(
    chain: Sequence[str],
    loss: TermLoss,
    examples: Examples,
    training: TrainingConfig,
    hard: float = 0.0,
) -> list[Stage]:
    """Each learner of a chain teaches the next: teacher, assistants, student.

    Seyed-Iman Mirzadeh, Mehrdad Farajtabar, Ang Li, Nir Levine, Akihiro Matsukawa, Hassan
    Ghasemzadeh. "Improved Knowledge Distillation via Teacher Assistant". AAAI 2020.
    https://arxiv.org/abs/1902.03393. With learners of one architecture these are the generations of
    Born-Again Networks (Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770).
    """
    pairs = zip(chain, chain[1:], strict=False)
    return [
        stage
        for teacher, student in pairs
        for stage in offline(student, (teacher,), loss, examples, training, hard)
    ]


def lifelong(
    student: str,
    before: str,
    old: Sequence[int],
    examples: Examples,
    training: TrainingConfig,
    weight: float = 1.0,
    temperature: float = 2.0,
) -> list[Stage]:
    """Learning without forgetting: new labels, and on the same inputs what one said before.

    Zhizhong Li, Derek Hoiem. "Learning without Forgetting". ECCV 2016.
    https://arxiv.org/abs/1606.09282

        CE(student, y) + weight T^2 KL(before || student, among the old classes)

    on examples of the new task alone.

    Convention: one head for all classes, where the paper has one for each task; T^2 as everywhere
    here, where the paper has none: divide the weight by T^2 for its loss.

    Args:
        student: starts as a copy of `before`.
        before: the network as it was, frozen.
        old: the classes of the old task.
        examples: of the new task.
        training: of the stage.
        weight: of the divergence; 0 is plain fine-tuning.
        temperature: T.
    """
    classes = list(old)

    def keep(now: Outputs, y: Tensor, then: Outputs) -> Tensor:
        return response.kl(now.logits[:, classes], then.logits[:, classes], temperature)

    terms = (LossTerm(labels), LossTerm(keep, (before,), weight))
    return [Stage({student: terms}, examples, training)]
