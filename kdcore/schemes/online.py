"""Online distillation: teachers and students learn at the same time."""

from collections.abc import Sequence

from torch import Tensor

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.schemes.stages import LossTerm, Stage, TermLoss, labels
from kdcore.training.batches import Examples
from kdcore.training.optimizers import TrainingConfig


def online(
    peers: Sequence[str], loss: TermLoss, examples: Examples, training: TrainingConfig
) -> list[Stage]:
    r"""Mutual learning: all learn at once, from labels and from each other as they are now.

    Ying Zhang, Tao Xiang, Timothy Hospedales, Huchuan Lu. "Deep Mutual Learning". CVPR 2018.
    https://arxiv.org/abs/1706.00384

        CE(k, y) + 1/(K - 1) \sum_{l != k} loss(k, l)

    Convention: peers step together on the same batch, each towards what the others said before the
    step; the paper lets them step in turn.
    """
    if len(peers) < 2:
        raise ValueError(f"online got {len(peers)} peers; mutual learning takes at least 2")
    share = 1 / (len(peers) - 1)
    terms = {
        peer: (
            LossTerm(labels),
            *(LossTerm(loss, (other,), share) for other in peers if other != peer),
        )
        for peer in peers
    }
    return [Stage(terms, examples, training)]


def multi_exit(
    student: str,
    examples: Examples,
    training: TrainingConfig,
    exits: Sequence[int] = (0,),
    weight: float = 0.5,
    temperature: float = 3.0,
) -> list[Stage]:
    r"""A network whose shallow exits learn from its deepest: be your own teacher.

    Linfeng Zhang, Jiebo Song, Anni Gao, Jingwei Chen, Chenglong Bao, Kaisheng Ma. "Be Your Own
    Teacher". ICCV 2019. https://arxiv.org/abs/1905.08094

        CE(deep, y) + \sum_i (1 - weight) CE(exit_i, y) + weight T^2 KL(deep || exit_i)

    `hidden[i]` of the network's outputs are the logits of its exit i. The hint on features of the
    paper is left out. Weight 0 is deep supervision, the control.
    """

    def at(i: int) -> tuple[LossTerm, LossTerm]:
        def hard(own: Outputs, y: Tensor) -> Tensor:
            return response.cross_entropy(own.hidden[i], y)

        def deep(own: Outputs, y: Tensor, itself: Outputs) -> Tensor:
            return response.kl(own.hidden[i], itself.logits, temperature)

        return LossTerm(hard, (), 1 - weight), LossTerm(deep, (student,), weight)

    terms = (LossTerm(labels), *(term for i in exits for term in at(i)))
    return [Stage({student: terms}, examples, training)]
