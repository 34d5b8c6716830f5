"""The networks that recipes train, and how they are scored."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedkd.data import datasets
from fedkd.models import REGISTRY, build
from kdcore.losses.feature import Regressor
from kdcore.outputs import Outputs
from kdcore.registry import is_reference
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.training.stacked import Params
from simulations.survey.datasets import share_right


def learner(name: str, shape: Sequence[int], classes: int, seed: int, *purpose: str) -> Learner:
    """A network of `fedkd.models` with the initial weights of a seed and a purpose."""
    model = build(name, shape, classes)
    return Learner(model.predict, model.init(generator(seed, "init", *purpose)))


def check(*names: str) -> None:
    """Raise ValueError for a name of no network; one of a user's own is tried where it is made."""
    for name in names:
        if not is_reference(name) and name not in REGISTRY:
            build(name, (1, 8, 8), 2)


def classifiers(data: datasets.Dataset, models: Mapping[str, str], seed: int) -> dict[str, Learner]:
    """A network for each name, to tell the classes of a data set apart; each with own weights."""
    return {
        who: learner(model, data.shape, data.num_classes, seed, who)
        for who, model in models.items()
    }


def regressing(one: Learner, layer: int, widths: tuple[int, int], seed: int) -> Learner:
    """The learner, which shows a hidden layer in another width as well, as its last.

    Args:
        one: who; the map learns with it, and changes nothing that it says.
        layer: which of its hidden layers.
        widths: of that layer, and what they become.
        seed: of the map's initial weights.
    """
    regressor = Regressor(*widths, generator(seed, "init", "regressor"))
    extra = {f"regressor.{k}": v.detach() for k, v in regressor.named_parameters()}

    def predict(params: Params, x: Any) -> Outputs:
        outputs = one.predict(params, x)
        own = {k.removeprefix("regressor."): v for k, v in params.items() if k in extra}
        mapped = torch.func.functional_call(regressor, own, (outputs.hidden[layer],))
        return Outputs(outputs.logits, (*outputs.hidden, mapped))

    return Learner(predict, {**one.params, **extra})


def parameters(one: Learner) -> int:
    """How many numbers a learner has."""
    return sum(value.numel() for value in one.params.values())


def accuracy(one: Learner | Callable[[Any], Outputs], x: Any, y: Tensor) -> float:
    """The share of examples whose label has the largest logit."""
    return share_right(one(x).logits, y)
