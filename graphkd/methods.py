"""Named recipes: every public class is a method, its lower-case name the name on the command line.

A recipe says which network teaches which, from which inputs and by which terms. Its fields are its
settings: `dataclasses.fields(methods.get("glnn"))`.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from graphkd import losses
from graphkd.core import Method as _Method
from graphkd.core import Term as _Term
from graphkd.names import unknown as _unknown


@dataclass(frozen=True)
class MLP(_Method):
    """The control: a student that learns from the labels alone, without a teacher.

    The "MLP" rows of Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New
    Tricks via Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727.

        L = mean_{train} CE

    With `student` gcn, sage, gat or appnp it is the control of the methods that have such a one.
    """

    def terms(self) -> tuple[_Term, ...]:
        """No terms: there is no teacher."""
        return ()


@dataclass(frozen=True)
class GLNN(_Method):
    r"""A graph network teaches an MLP its soft labels on every node it may see.

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New Tricks via
    Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_i KL(teacher_i || student_i)

    Convention: lambda is `hard_weight`, 0 as in all of the authors' scripts; temperature 1. The
    authors' code takes a step with a loss of zero even then, which still moves the weights by
    momentum and weight decay; ours takes none.
    """

    hard_weight: float = 0.0
    batch: int = 512
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights and temperatures that make no loss."""
        super().__post_init__()
        if self.hard_weight > 1:
            raise ValueError(
                f"hard_weight is {self.hard_weight}; it is GLNN's lambda: expected 0 to 1"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature is {self.temperature}; expected a positive one, such as 1"
            )

    def terms(self) -> tuple[_Term, ...]:
        """Soft labels, with the weight that the hard ones leave."""
        loss = partial(losses.soft_labels, temperature=self.temperature)
        return (_Term(loss, 1 - self.hard_weight),)


@dataclass(frozen=True)
class LSP(_Method):
    r"""A graph network teaches the local structure of its embedding: which neighbours are alike.

    Yang, Qiu, Song, Tao and Wang, "Distilling Knowledge from Graph Convolutional Networks", CVPR
    2020, https://arxiv.org/abs/2003.10477.

        L = mean_{train} CE + w mean_i KL(LS^student_i || LS^teacher_i)

    Convention: the paper's RBF kernel and w = 100, in all epochs, where the authors' code stops
    after the 30th of 500. By default it teaches the MLP that the other methods here teach, with a
    kernel of scale 1. The paper's student is a thin graph network (`student="gcn"`); on Cora that
    needs a wide kernel and a small weight (scale 100, w 10) not to lose, and gains nothing, as
    others found (the authors' repository, issue 2; Joshi et al., "On Representation Knowledge
    Distillation for Graph Neural Networks", IEEE TNNLS 2022, https://arxiv.org/abs/2111.04964).
    """

    kernel: str = "rbf"
    scale: float = 1.0
    structure_weight: float = 100.0

    def __post_init__(self) -> None:
        """Refuse a kernel that does not exist."""
        super().__post_init__()
        losses.check_kernel(self.kernel, self.scale)

    def terms(self) -> tuple[_Term, ...]:
        """The local structure of the last hidden states."""
        loss = partial(losses.local_structure, kernel=self.kernel, scale=self.scale)
        return (_Term(loss, self.structure_weight),)


@dataclass(frozen=True)
class RKD(_Method):
    r"""A graph network teaches distances and angles between the embeddings of nodes.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.

        L = mean_{train} CE + w_D mean_i RKD-D_i + w_A mean_i RKD-A_i

    Convention: w_D = 25 and w_A = 50, the paper's weights for classification; the relations are
    those among `sample` nodes drawn anew at each step, since triplets grow as their cube. On Cora
    128 nodes teach the MLP 1 to 2 points more than 64, for six times the time.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    sample: int = 64

    def __post_init__(self) -> None:
        """Refuse a sample in which there are no angles."""
        super().__post_init__()
        if self.sample < 3:
            raise ValueError(f"sample is {self.sample}; angles need 3 nodes or more, such as 64")

    def terms(self) -> tuple[_Term, ...]:
        """Distances and angles, each among its own draw of nodes."""
        nodes = partial(_sample, count=self.sample)
        return (
            _Term(losses.distance, self.distance_weight, nodes),
            _Term(losses.angle, self.angle_weight, nodes),
        )


def names() -> list[str]:
    """The names of all methods."""
    return sorted(_METHODS)


def get(name: str) -> type[_Method]:
    """The method of this name, a frozen dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message lists those there are and the nearest.
    """
    if name not in _METHODS:
        raise _unknown("method", name, _METHODS)
    return _METHODS[name]


def _sample(n: int, generator: Generator, count: int) -> Tensor:
    """`count` of n nodes, or all of them if there are fewer."""
    return torch.randperm(n, generator=generator)[:count]


_METHODS = {
    name.lower(): value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, _Method) and not name.startswith("_")
}
