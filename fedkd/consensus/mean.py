"""The plain mean, and the mean made sharper."""

from fedkd.consensus.rule import Rule


class SimpleAggregation(Rule):
    r"""The mean: everybody counts alike for each example.

    Stone. "The Opinion Pool". Annals of Mathematical Statistics 1961.
    https://doi.org/10.1214/aoms/1177704873; `sa` is what the paper of DS-FL calls it.

        1/K \sum_k q_k

    Convention: of any target.
    """


class EntropyReduction(Rule):
    r"""Entropy reduction aggregation (ERA): the mean, sharpened by a second softmax.

    Sohei Itahara, Takayuki Nishio, Yusuke Koda, Masahiro Morikura, Koji Yamamoto.
    "Distillation-Based Semi-Supervised Federated Learning for Communication-Efficient Collaborative
    Training with Non-IID Private Data". IEEE Transactions on Mobile Computing 22(1), 2023.
    https://arxiv.org/abs/2008.06180

        softmax(1/K \sum_k q_k / T)

    Convention: the softmax acts on averaged probabilities, as if these were logits; of targets that
    can be sharpened.
    """

    sharpened = True
