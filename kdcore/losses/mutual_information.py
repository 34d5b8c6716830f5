"""Knowledge as information: how much of the teacher's representation the student's tells.

Bounds of the mutual information I(student; teacher), in nats, take the *scores* of a critic: f_ij
says how well the student's row i goes with the teacher's row j. The pairs of the diagonal belong
together, all others are taken for independent, so that a batch should hold no example twice.

The best critic is the log of the density ratio p(s, t) / (p(s) p(t)). `infonce` forgives what is
added to a row of scores, and nothing else: the log of p(t | s) alone lacks p(t), and its bound is
far too low over the teacher's rows, while over the student's rows (the transposed scores) it is
right. The other bounds forgive only a constant, NWJ not even that.

A bound is about a critic that was trained on other examples: on the critic's own training set it
is a loss, and no estimate.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kdcore.losses.feature import Regressor
from kdcore.losses.numerics import check_rows, check_temperature, unit
from kdcore.losses.precision import in_float32


class Bound(NamedTuple):
    """A lower bound of the mutual information, and the most that it can ever say.

    Shapes:
        nats: (); cap: a number.
    """

    nats: Tensor
    cap: float


@in_float32
def infonce(scores: Tensor) -> Tensor:
    r"""InfoNCE: which of the batch's teacher rows is the one of this student row?

    Van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding",
    2018, https://arxiv.org/abs/1807.03748.

        value_i = -\log (e^{f_ii} / \sum_j e^{f_ij})

    Convention: the softmax runs over the teacher's rows j, the positive one included; pass
    `scores.mT` for the other way round. Examples that are there twice are false negatives.

    Shapes:
        scores: (N, N), students by teachers; gives (N,), in nats.

    Raises:
        ValueError: the scores are not square.
    """
    _check_scores(scores)
    return scores.logsumexp(-1) - scores.diagonal(dim1=-2, dim2=-1)


def infonce_bound(scores: Tensor) -> Bound:
    r"""What InfoNCE proves of the mutual information: never more than log N.

    Poole, Ozair, van den Oord, Alemi and Tucker, "On Variational Bounds of Mutual Information",
    ICML 2019, https://arxiv.org/abs/1905.06922.

        I(s; t) >= \log N - mean_i infonce_i,   at most \log N

    Convention: near the cap it is the size of the batch that is measured.

    Shapes:
        scores: (N, N), students by teachers; gives (() in nats, log N).

    Raises:
        ValueError: the scores are not square.
    """
    cap = math.log(len(scores)) if len(scores) else -math.inf
    return Bound(cap - infonce(scores).mean(), cap)


def nwj_bound(scores: Tensor) -> Tensor:
    r"""The bound of Nguyen, Wainwright and Jordan: unbiased, and wild where there is much to know.

    Nguyen, Wainwright and Jordan, "Estimating Divergence Functionals and the Likelihood Ratio by
    Convex Risk Minimization", IEEE Transactions on Information Theory 2010,
    https://arxiv.org/abs/0809.0853.

        I >= 1 + mean_i f_ii - mean_{i != j} e^{f_ij}

    Convention: f is the log of the density ratio itself, often written as f - 1 in the literature.
    Its variance grows as e^{2I}. With the *best* critic and I = 16.6 nats nearly every batch of
    256 says 17.6, a few say anything below, and no number of batches that one can afford has the
    right mean. Code that leaves the diagonal in the second term says -1e7 there.

    Shapes:
        scores: (N, N), N >= 2; gives (), in nats.

    Raises:
        ValueError: the scores are not square, or N < 2.
    """
    joint, apart = _joint_and_apart(scores)
    return 1 + joint.mean() - _log_mean_exp(apart).exp()


def donsker_varadhan_bound(scores: Tensor) -> Tensor:
    r"""The bound of Donsker and Varadhan, as in MINE.

    Belghazi, Baratin, Rajeswar, Ozair, Bengio, Courville and Hjelm, "Mutual Information Neural
    Estimation", ICML 2018, https://arxiv.org/abs/1801.04062.

        I >= mean_i f_ii - \log mean_{i != j} e^{f_ij}

    Convention: the plain value. The log of a mean over few pairs is too small, so that the value of
    a batch is too large on average, and its gradient is biased.

    Shapes:
        scores: (N, N), N >= 2; gives (), in nats.

    Raises:
        ValueError: the scores are not square, or N < 2.
    """
    joint, apart = _joint_and_apart(scores)
    return joint.mean() - _log_mean_exp(apart)


def smile_bound(scores: Tensor, clip: float = 5.0) -> Tensor:
    r"""SMILE: Donsker and Varadhan's with the density ratio clipped, which tames its variance.

    Song and Ermon, "Understanding the Limitations of Variational Mutual Information Estimators",
    ICLR 2020, https://arxiv.org/abs/1910.06222.

        mean_i f_ii - \log mean_{i != j} clip(e^{f_ij}, e^{-c}, e^c)

    Convention: only the second term is clipped, so that this is an estimate and no bound any more:
    it exceeds I by c where no pair that does not belong looks as if it did. As c grows it becomes
    `donsker_varadhan_bound`.

    Shapes:
        scores: (N, N), N >= 2; gives (), in nats.

    Raises:
        ValueError: the scores are not square, N < 2, or the clip is not positive.
    """
    if not clip > 0:
        raise ValueError(f"clip is {clip}; it has to be positive: the paper takes 1 to 10")
    joint, apart = _joint_and_apart(scores)
    return joint.mean() - _log_mean_exp(apart.clamp(-clip, clip))


@in_float32
def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    r"""Contrastive representation distillation (CRD) with the batch as negatives.

    Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
    https://arxiv.org/abs/1910.10699.

        value_i = -\log (e^{\cos(s_i, t_i) / T} / \sum_j e^{\cos(s_i, t_j) / T})

    Convention: `infonce` over the teacher's rows of the batch. The paper draws 16384 negatives of
    other classes from a memory, and tells pairs apart one by one with weights of its own: with no
    labels and no memory this is what is left. Not 0 where the student is the teacher, but small
    where T is. Rows have to be of one width: see `ContrastiveRepresentation`.

    Shapes:
        student, teacher: (N, D); gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, D), or the temperature is not positive.
    """
    _check_widths(student, teacher)
    check_temperature(temperature, such_as=0.07)
    return infonce(unit(student) @ unit(teacher.detach()).mT / temperature)


@in_float32
def variational(student: Tensor, teacher: Tensor, spread: Tensor) -> Tensor:
    r"""Variational information distillation (VID): the teacher is to be foreseen from it.

    Ahn, Hu, Damianou, Lawrence and Dai, "Variational Information Distillation for Knowledge
    Transfer", CVPR 2019, https://arxiv.org/abs/1904.05835.

        1/2 \sum_c ( (t_c - s_c)^2 / v_c + \log v_c ),   v = softplus(spread) + 1e-5

    Convention: s is the predicted mean, so the student's representation after a regressor; summed
    over the features, where the authors' code takes the mean; without the constant log 2 pi / 2.
    It is minus a bound on I(t; s) - H(t): it may be negative, and only differences between
    students of one teacher mean something. Not 0 where the student is the teacher.

    Shapes:
        student, teacher: (N, D); spread: (D,), learned; gives (N,), in nats.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_widths(student, teacher)
    if spread.shape != student.shape[1:]:
        raise ValueError(
            f"spread has shape {tuple(spread.shape)} and student has shape "
            f"{tuple(student.shape)}; expected (D,) beside (N, D), one variance per feature"
        )
    # F.gaussian_nll_loss is the same, but looks at the variances, which vmap cannot.
    variance = F.softplus(spread) + 1e-5
    return 0.5 * ((teacher.detach() - student).square() / variance + variance.log()).sum(-1)


class VariationalInformation(nn.Module):
    """`variational` with what it learns: a linear map to the teacher's width, and the variances.

    Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835; the variances start at 5, as theirs.

    Args:
        student: width of the student's representation.
        teacher: width of the teacher's.
        generator: what the initial weights are drawn with.
    """

    def __init__(self, student: int, teacher: int, generator: torch.Generator):
        super().__init__()
        self.mean = Regressor(student, teacher, generator)
        self.spread = nn.Parameter(torch.full((teacher,), math.log(math.expm1(5.0 - 1e-5))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(N, D_s) and (N, D_t) -> (N,), in nats."""
        return variational(self.mean(student), teacher, self.spread)


class ContrastiveRepresentation(nn.Module):
    """`contrastive` with what it learns: a linear map of either side to a common width.

    Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699; their width is 128.

    Args:
        student: width of the student's representation.
        teacher: width of the teacher's.
        generator: what the initial weights are drawn with.
        width: of the common space.
        temperature: of `contrastive`.
    """

    def __init__(
        self,
        student: int,
        teacher: int,
        generator: torch.Generator,
        width: int = 128,
        temperature: float = 0.07,
    ):
        super().__init__()
        self.student = Regressor(student, width, generator)
        self.teacher = Regressor(teacher, width, generator)
        self.temperature = temperature

    def scores(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The critic: (N, D_s) and (N, D_t) -> (N, N), students by teachers."""
        s, t = unit(self.student(student)), unit(self.teacher(teacher.detach()))
        scores: Tensor = s @ t.mT / self.temperature
        return scores

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(N, D_s) and (N, D_t) -> (N,), in nats. The map of the teacher's side learns too."""
        return infonce(self.scores(student, teacher))


def _joint_and_apart(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the pairs, (N,), and of all others, (N (N - 1),)."""
    _check_scores(scores)
    n = len(scores)
    if n < 2:
        raise ValueError("got 1 pair; a bound needs N >= 2, to have pairs that do not belong")
    # Without its first element, the flat matrix has a diagonal element at the end of every N + 1.
    apart = scores.flatten()[1:].reshape(n - 1, n + 1)[:, :-1].flatten()
    return scores.diagonal(), apart


def _log_mean_exp(values: Tensor) -> Tensor:
    return values.logsumexp(0) - math.log(len(values))


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}; expected (N, N), a critic's value for every "
            "student's row with every teacher's row"
        )


def _check_widths(student: Tensor, teacher: Tensor) -> None:
    check_rows(student, teacher)
    if student.shape != teacher.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected (N, D) for both: map the student with "
            "kdcore.losses.feature.Regressor"
        )
