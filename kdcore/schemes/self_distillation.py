"""Self-distillation: a model learns from what it, or its like, said before."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.schemes.data_free import copied
from kdcore.schemes.learners import Learner, Learners
from kdcore.schemes.stages import LossTerm, Stage, labels
from kdcore.training.batches import Examples, rows
from kdcore.training.optimizers import TrainingConfig


def self_training(
    student: str,
    teacher: str,
    x: Tensor,
    shares: Sequence[float],
    training: TrainingConfig,
) -> list[Stage]:
    """Pseudo-labels that the teacher is surest of, as many of each class; then the student's own.

    Yang Zou, Zhiding Yu, B. V. K. Vijaya Kumar, Jinsong Wang. "Unsupervised Domain Adaptation for
    Semantic Segmentation via Class-Balanced Self-Training". ECCV 2018.
    https://arxiv.org/abs/1810.07911

    Args:
        student: learns from the labels of the stage before it, the first time from the teacher's.
        teacher: knows the source domain.
        x: (N, ...) unlabelled examples of the target domain.
        shares: of the examples of each predicted class that count, one for each stage.
        training: of a stage.
    """
    who = [teacher] + [student] * (len(shares) - 1)

    def surest(name: str, share: float) -> Callable[[Learners, torch.Generator], Examples]:
        def choose(learners: Learners, generator: torch.Generator) -> Examples:
            return confident(learners[name], x, share)

        return choose

    return [
        Stage({student: (LossTerm(labels),)}, surest(name, share), training)
        for name, share in zip(who, shares, strict=True)
    ]


def confident(learner: Learner, x: Tensor, share: float) -> Examples:
    """The examples that a learner is surest of, a share of each class it predicts, so labelled.

    Shapes:
        x: (N, ...); the result refers to all of x, with as many rows as were chosen.
    """
    sure, label = learner(x).logits.softmax(-1).max(-1)
    kept = []
    for c in sorted(set(label.tolist())):
        members = (label == c).nonzero().squeeze(1)
        count = max(1, round(share * len(members)))
        kept.append(members[sure[members].argsort(descending=True, stable=True)[:count]])
    return Examples(x, label, torch.cat(kept).sort().values)


def noisy_student(
    students: Sequence[str],
    teacher: str,
    labelled: Examples,
    unlabelled: Tensor,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    copies: int,
    training: TrainingConfig,
) -> list[Stage]:
    """A student as large or larger learns labels and its teacher's soft ones, through noise; again.

    Qizhe Xie, Minh-Thang Luong, Eduard Hovy, Quoc Le. "Self-training with Noisy Student improves
    ImageNet classification". CVPR 2020. https://arxiv.org/abs/1911.04252

    Each student is the next one's teacher. Labels of the labelled, soft labels of the unlabelled:
    both as probabilities, so that one loss will do.

    Args:
        students: one for each iteration.
        teacher: of the first.
        labelled: those that have labels.
        unlabelled: (N, ...), asked about without noise.
        noise: (x, generator) -> x of the same shape; drawn `copies` times for each example.
        copies: see `noise`; an epoch passes by each copy once.
        training: of each student.
    """

    def pseudo_labelled(name: str) -> Callable[[Learners, torch.Generator], Examples]:
        def label(learners: Learners, generator: torch.Generator) -> Examples:
            known, y = rows(labelled.x, labelled.rows), rows(labelled.y, labelled.rows)
            soft = learners[name](unlabelled).logits.softmax(-1)
            hard = torch.nn.functional.one_hot(y, soft.shape[1]).to(soft.dtype)
            x, target = torch.cat([known, unlabelled]), torch.cat([hard, soft])
            return copied(x, target, noise, copies, generator)

        return label

    def follow(student: Outputs, target: Tensor) -> Tensor:
        return response.soft_cross_entropy(student.logits, target)

    return [
        Stage({student: (LossTerm(follow),)}, pseudo_labelled(name), training)
        for name, student in zip([teacher, *students], students, strict=False)
    ]


def kernel_generations(gram: Tensor, y: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    r"""Self-distillation in closed form: kernel ridge regression on its own predictions.

    Hossein Mobahi, Mehrdad Farajtabar, Peter Bartlett. "Self-Distillation Amplifies Regularization
    in Hilbert Space". NeurIPS 2020. https://arxiv.org/abs/2002.05715

        a_t = (G + c_t I)^{-1} y_{t-1},   y_t = G a_t,   f_t(x) = k(x, X) a_t

    Each generation multiplies the coefficient of eigenvector j by d_j / (d_j + c_t): those of small
    eigenvalues vanish first, so it is regularisation and nothing more.

    Convention: the ridge c_t of each generation is given; the paper finds it from a tolerance.

    Shapes:
        gram: (N, N) kernel matrix of the examples; y: (N,) or (N, d) targets; gives for each
        generation its dual weights a_t, of the shape of y.
    """
    weights = []
    for ridge in ridges:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights.append(torch.linalg.solve(gram + ridge * eye, y))
        y = gram @ weights[-1]
    return weights
