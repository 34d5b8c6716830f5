"""Several teachers of different kinds, with learned weights."""

from dataclasses import dataclass

from graphkd.methods.glnn import GLNN


@dataclass(frozen=True)
class MultiTeacher(GLNN):
    r"""Graph networks of several kinds teach an MLP the mixture of their labels.

    You, Xu, Xu and Tao, "Learning from Multiple Teacher Networks", KDD 2017,
    https://doi.org/10.1145/3097983.3098135; with learned weights as in stacking: Wolpert, "Stacked
    Generalization", Neural Networks 1992, https://doi.org/10.1016/S0893-6080(05)80023-1.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_i KL(\sum_m w_m teacher_m,i || student_i)

    Convention: the weights are those that make the labels of the validation nodes most likely
    (`graphkd.models.teacher_ensemble.learn_weights`), found once, before the student is trained.
    Any other method with a `teacher` such as "sage+gcn" has the same kind of teacher.
    """

    teacher: str = "sage+gcn+appnp"
