"""Who is sure of an example counts more for it: by the variance of its probabilities."""

from torch import Tensor

from fedkd.consensus.rule import LEAST, Rule


class Variance(Rule):
    r"""The mean in which a row weighs as much as its probabilities vary over the classes.

    Yae Jee Cho, Andre Manoel, Gauri Joshi, Robert Sim, Dimitrios Dimitriadis. "Heterogeneous
    Ensemble Knowledge Transfer for Training Large Models in Federated Learning" (FedET). IJCAI
    2022. https://arxiv.org/abs/2204.12703

        \sum_k v_kp q_kp / \sum_k v_kp,    v_kp = C / (C - 1) \sum_c (q_kpc - 1/C)^2

    Convention: of FedET the weights alone: clients learn the distribution, not its likeliest class.
    The factor, which cancels out, makes v 1 where a client is certain; where it says nothing v is
    0.001 and not 0, so that a row of which nobody says anything is the plain mean. So are rows of
    which all are certain, as with one bit for each. Who is certain and wrong, by mistake or not,
    counts as much as who is right.
    """

    distributions = True

    def rows(self, q: Tensor) -> Tensor:
        """The variance over the classes, as a share of the largest."""
        classes = q.shape[-1]
        share = q.var(dim=-1, correction=0) * classes**2 / (classes - 1)
        return share.clamp(min=LEAST)


class VarianceERA(Variance):
    """The mean weighted by variance, sharpened as in DS-FL.

    `Variance`, then the softmax of `EntropyReduction`, of two papers; the combination is ours.
    https://arxiv.org/abs/2204.12703
    """

    sharpened = True
