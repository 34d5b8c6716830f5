"""Feature-based knowledge: what the teacher's hidden layers hold.

Each loss gives one value per example. Where student and teacher differ in width, a `Regressor`
stands between them: it learns with the student and is thrown away after. Maps of different
resolution are pooled to the smaller one where the loss says so. The teacher never gets a gradient.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kdcore.losses.numerics import root, unit
from kdcore.losses.precision import in_float32


class Regressor(nn.Module):
    """A linear map of the channels from the student's width to the teacher's.

    Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR
    2015, https://arxiv.org/abs/1412.6550: on feature maps it is their 1 x 1 convolution.

    Args:
        student: width to come from.
        teacher: width to go to.
        generator: what the initial weights are drawn with, uniformly up to 1 / sqrt(student).
    """

    def __init__(self, student: int, teacher: int, generator: torch.Generator):
        super().__init__()
        reach = student**-0.5
        draw = torch.empty(teacher, student + 1).uniform_(-reach, reach, generator=generator)
        self.weight = nn.Parameter(draw[:, 1:].clone())
        self.bias = nn.Parameter(draw[:, 0].clone())

    def forward(self, features: Tensor) -> Tensor:
        """(N, D_s) -> (N, D_t), or (N, D_s, ...) -> (N, D_t, ...)."""
        return F.linear(features.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)


@in_float32
def hint(student: Tensor, teacher: Tensor) -> Tensor:
    r"""FitNets' hint: a regression of the teacher's features on the student's.

    Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR
    2015, https://arxiv.org/abs/1412.6550.

        1/2 |r(s) - t|^2

    Convention: summed over all features of an example; the student is given as r(s), after a
    `Regressor` where the widths differ.

    Shapes:
        student, teacher: (N, ...) of one shape; gives (N,), in squared features.

    Raises:
        ValueError: the shapes differ, or there is only one axis.
    """
    _check_same(student, teacher)
    return 0.5 * (student - teacher.detach()).flatten(1).square().sum(-1)


@in_float32
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Cosine distance: the direction of the teacher's features, whatever their length.

    Sanh, Debut, Chaumond and Wolf, "DistilBERT, a Distilled Version of BERT", 2019,
    https://arxiv.org/abs/1910.01108.

        1 - <s, t> / (|s| |t|)

    Convention: between 0 and 2. Features that are all 0 have no direction and give 1.

    Shapes:
        student, teacher: (N, ...) of one shape; gives (N,), without unit.

    Raises:
        ValueError: the shapes differ, or there is only one axis.
    """
    _check_same(student, teacher)
    return 1 - (unit(student.flatten(1)) * unit(teacher.detach().flatten(1))).sum(-1)


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    r"""Where a layer looks: the strength of its activations at each position.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017,
    https://arxiv.org/abs/1612.03928.

        Q = \sum_c |A_c|^p

    Shapes:
        features: (N, C, H, W); gives (N, H W).

    Raises:
        ValueError: the features are not (N, C, H, W).
    """
    if features.ndim != 4:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected (N, C, H, W), feature maps"
        )
    return features.abs().pow(power).sum(1).flatten(1)


@in_float32
def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    r"""Attention transfer (AT): the student looks where the teacher looks.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017,
    https://arxiv.org/abs/1612.03928.

        | Q_s / |Q_s| - Q_t / |Q_t| |,   Q of `attention_map`

    Convention: the paper's length of the gap, at most sqrt(2), with slope 0 where the maps agree.
    Its weight beta / 2 is the caller's. Widely used code takes the mean of the squares instead,
    with weights near 1000. A map of zeros stays one. The larger resolution is pooled down.

    Shapes:
        student: (N, C_s, H, W); teacher: (N, C_t, H', W'); gives (N,), without unit.

    Raises:
        ValueError: not two batches of feature maps with the same N.
    """
    student, teacher = _same_resolution(student, teacher)
    gap = unit(attention_map(student, power)) - unit(attention_map(teacher, power))
    return root(gap.square().sum(-1))


@in_float32
def mmd(
    student: Tensor,
    teacher: Tensor,
    degree: int = 2,
    offset: float = 0.0,
    unbiased: bool = False,
) -> Tensor:
    r"""Squared maximum mean discrepancy (MMD) of two sets of points, polynomial kernel.

    Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A Kernel Two-Sample Test", Journal of Machine
    Learning Research 2012, https://jmlr.org/papers/v13/gretton12a.html, equations 3 and 5.

        mean_{ij} k(s_i, s_j) + mean_{ij} k(t_i, t_j) - 2 mean_{ij} k(s_i, t_j)
        k(x, y) = (<x, y> + offset)^degree

    Convention: squared. Biased, the means run over all pairs: never negative, and 0 for equal
    sets, but above 0 for two samples of one distribution. Unbiased, i = j is left out of the first
    two: 0 on average there, and sometimes negative. With offset 0 and degree 2 it compares second
    moments, uncentred, and nothing else.

    Shapes:
        student: (N, P, D), P points of each of N problems; teacher: (N, Q, D); gives (N,).

    Raises:
        ValueError: the shapes do not fit, or there is one point where two are needed.
    """
    fit = student.ndim == 3 and teacher.ndim == 3 and student.shape[2] == teacher.shape[2]
    if not fit or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected (N, P, D) and (N, Q, D): unsqueeze(0) for one N"
        )
    if unbiased and min(student.shape[1], teacher.shape[1]) < 2:
        raise ValueError("got 1 point; the unbiased estimate needs two on each side")
    teacher = teacher.detach()

    def mean(x: Tensor, y: Tensor, without_self: bool = False) -> Tensor:
        kernel = (x @ y.mT + offset) ** degree
        if not without_self:
            return kernel.mean((1, 2))
        n = x.shape[1]
        off = kernel.sum((1, 2)) - kernel.diagonal(dim1=1, dim2=2).sum(-1)
        return off / (n * (n - 1))

    within = mean(student, student, unbiased) + mean(teacher, teacher, unbiased)
    return within - 2 * mean(student, teacher)


@in_float32
def neuron_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Neuron selectivity transfer (NST): channels that fire at the same places, in any order.

    Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
    https://arxiv.org/abs/1707.01219.

        MMD^2({f_c^s / |f_c^s|}, {f_c^t / |f_c^t|}),   k(x, y) = <x, y>^2

    with f_c the activations of channel c over all positions.

    Convention: `mmd` with all pairs of channels, the same one included, as in the paper. The
    channels are sets: their order and number do not matter. The larger resolution is pooled down.

    Shapes:
        student: (N, C_s, H, W); teacher: (N, C_t, H', W'); gives (N,), without unit.

    Raises:
        ValueError: not two batches of feature maps with the same N.
    """
    student, teacher = _same_resolution(student, teacher)
    return mmd(unit(student.flatten(2)), unit(teacher.flatten(2)))


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    r"""How a network goes on from one layer to another (FSP matrix).

    Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", CVPR 2017, https://doi.org/10.1109/CVPR.2017.754.

        G_cd = 1 / (H W) \sum_hw first_chw second_dhw

    Convention: the larger resolution is pooled down by its maxima, as in the paper.

    Shapes:
        first: (N, C_1, H, W); second: (N, C_2, H', W'); gives (N, C_1, C_2).

    Raises:
        ValueError: not two batches of feature maps with the same N.
    """
    if first.ndim != 4 or second.ndim != 4 or len(first) != len(second):
        raise ValueError(
            f"the layers have shape {tuple(first.shape)} and {tuple(second.shape)}; expected "
            "(N, C_1, H, W) and (N, C_2, H', W'), the same examples in the same order"
        )
    first, second = _pool(first, second, F.adaptive_max_pool2d)
    a, b = first.flatten(2), second.flatten(2)
    return a @ b.mT / a.shape[2]


@in_float32
def flow(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Flow of the solution procedure (FSP): the steps between layers, not the layers.

    Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", CVPR 2017, https://doi.org/10.1109/CVPR.2017.754.

        |G_s - G_t|_F^2,   G of `flow_matrix`

    Convention: summed over the matrix, as in the paper; widely used code takes its mean. Both
    layers need as many channels as the teacher's.

    Shapes:
        student, teacher: (N, C_1, C_2), of `flow_matrix`; gives (N,), in features to the fourth.

    Raises:
        ValueError: the shapes differ or are not (N, C_1, C_2).
    """
    if student.ndim != 3 or student.shape != teacher.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected (N, C_1, C_2) of flow_matrix for both: a Regressor "
            "gives the student the teacher's channels"
        )
    return (student - teacher.detach()).square().sum((1, 2))


@in_float32
def factor_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Factor transfer (FT): the direction of the factors that a teacher was boiled down to.

    Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
    NeurIPS 2018, https://arxiv.org/abs/1802.04977.

        | F_s / |F_s|_2 - F_t / |F_t|_2 |_1

    Convention: p = 1, summed over the factor. The factors come from a translator of the student's
    features, a `Regressor` say, and from the code of an autoencoder of the teacher's. Factors of
    zeros stay zeros.

    Shapes:
        student, teacher: (N, ...) of one shape; gives (N,), without unit.

    Raises:
        ValueError: the shapes differ, or there is only one axis.
    """
    _check_same(student, teacher)
    return (unit(student.flatten(1)) - unit(teacher.detach().flatten(1))).abs().sum(-1)


@in_float32
def activation_boundary(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    r"""Activation boundaries (AB): which neurons fire, not how strongly.

    Heo, Lee, Yun and Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by
    Hidden Neurons", AAAI 2019, https://arxiv.org/abs/1811.03233.

        \sum_c [t_c > 0] max(0, m - s_c)^2 + [t_c <= 0] max(0, m + s_c)^2

    Convention: activations *before* the ReLU, summed over the neurons. Not 0 where the student is
    the teacher, but only where all activations are at least m away from 0.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        margin: m, how far beyond 0 the student has to be.

    Shapes:
        student, teacher: (N, ...) of one shape; gives (N,), in squared activations.

    Raises:
        ValueError: the shapes differ, or there is only one axis.
    """
    _check_same(student, teacher)
    side = torch.where(teacher.detach() > 0, 1.0, -1.0).to(student.dtype)
    return (margin - side * student).clamp(min=0).flatten(1).square().sum(-1)


def _same_resolution(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected (N, C_s, H, W) and (N, C_t, H', W'), the same "
            "examples in the same order: features without positions have no such maps"
        )
    return _pool(student, teacher.detach())


def _pool(
    a: Tensor, b: Tensor, pool: Callable[..., Tensor] = F.adaptive_avg_pool2d
) -> tuple[Tensor, Tensor]:
    """Both at the smaller height and the smaller width of the two."""
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    pooled = [x if x.shape[2:] == size else pool(x, size) for x in (a, b)]
    return pooled[0], pooled[1]


def _check_same(student: Tensor, teacher: Tensor) -> None:
    if student.ndim < 2 or student.shape != teacher.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected (N, ...) of one shape: a Regressor maps the "
            "student's features to the teacher's width"
        )
