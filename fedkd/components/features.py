"""A model cut in two: the features that it computes, and its head, which is linear in them.

Features are the last hidden activations that a model shows. The head is the last layer: the last
two of its parameters, a weight (C, D) and a bias (C,).
"""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fedkd.core import Model, Task, as_sent
from fedkd.models import made_up
from kdcore.outputs import Outputs
from kdcore.training.batches import leading, side_by_side
from kdcore.training.loop import Batches, Network, Params, Predict, predict_logits
from kdcore.training.stacked import stack_of


def features(predict: Predict) -> Network:
    """The network without its head: its logits are its features, (N, D)."""
    stacked = stack_of(predict)

    def one(params: Params, x: Tensor) -> Outputs:
        return Outputs(predict(params, x).hidden[-1])

    def stack(params: Params, x: Tensor) -> Outputs:
        return Outputs(stacked(params, x).hidden[-1])

    if not isinstance(predict, Network) or predict.learn is None:
        return Network(one, stack)
    learns = predict.learn

    def learn(params: Params, x: Any) -> tuple[Outputs, Params]:
        outputs, fresh = learns(params, x)
        return Outputs(outputs.hidden[-1]), fresh

    return Network(one, stack, learn=learn, alone=predict.alone, least=predict.least)


def embedding(predict: Predict) -> Network:
    """The inputs of a network as numbers (N, D), as a network whose logits they are.

    They are its inputs themselves, or what it knows of these by `Network.embedding`.
    """
    found = predict.embedding if isinstance(predict, Network) else None
    look = found or _as_numbers
    whole = isinstance(predict, Network) and predict.whole

    def one(params: Params, x: Any) -> Outputs:
        return Outputs(look(x))

    def stack(params: Params, x: Any) -> Outputs:
        each = [look(tree_map(itemgetter(k), x)) for k in range(len(leading(x)))]
        count = len(next(iter(params.values())))
        return Outputs(torch.stack(each).expand(count, -1, -1))

    return Network(one, stack, whole=whole)


def comparable(model: Model, few: Any) -> bool:
    """Whether the inputs of a model, of which these are a few, are numbers, or known as numbers."""
    network = model.predict
    if few is None or (isinstance(network, Network) and network.embedding is not None):
        return True
    return all(x.is_floating_point() or x.dtype == torch.uint8 for x in tree_leaves(few))


def head_names(params: Params) -> tuple[str, str]:
    """The names of the head's weight, (C, D), and bias, (C,)."""
    weight, bias = list(params)[-2:]
    return weight, bias


def feature_width(task: Task) -> int:
    """D, the width of the features of all models.

    Raises:
        ValueError: models differ in it, or one has no linear head on the features that it shows.
    """
    widths = {group: _width(task, group) for group in task.models}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{group} {width}" for group, width in widths.items())
        example = next(iter(widths))
        raise ValueError(
            f"features are compared across models, and theirs differ in width: {said}; give all "
            f"models one width by the end of their names, such as {example.partition('@')[0]}@64"
        )
    return next(iter(widths.values()))


def each_once(private: Batches) -> Tensor:
    """The rows of all records, each where `Batches.records` has it; -1 in all other places."""
    index, once = private.records
    return torch.where(once, index, -1)


def label_means(values: Tensor, private: Batches, classes: int) -> tuple[Tensor, Tensor]:
    """The mean value for each label, each example counting once, and which labels there are.

    Shapes:
        values: (M, D), of the rows `each_once`; gives (C, D), (C,) of 0 and 1.
    """
    index, once = private.records
    labels = torch.arange(classes, device=once.device)
    mask = once.to(values.dtype).unsqueeze(1)
    member = (private.y[index].unsqueeze(1) == labels) * mask  # (M, C)
    count = member.sum(dim=0)
    means = member.T @ values / count.clamp(min=1).unsqueeze(1)
    return means, (count > 0).to(means.dtype)


def mean_features(predict: Predict, params: Params, private: Batches) -> tuple[Tensor, Tensor]:
    """A model's mean features for each label, (C, D), and which labels there are, (C,)."""
    values = predict_logits(features(predict), params, private.x, each_once(private))
    _, bias = head_names(params)
    return label_means(values, private, len(params[bias]))


def label_counts(private: Batches, classes: int) -> Tensor:
    """How many different examples of each label there are, (C,)."""
    index, once = private.records
    labels = torch.arange(classes, device=index.device)
    member: Tensor = private.y[index].unsqueeze(1) == labels
    return as_sent((member * once.unsqueeze(1)).sum(dim=0))


def _as_numbers(x: Any) -> Tensor:
    kind = torch.get_default_dtype()
    return side_by_side(x, kind) if isinstance(x, tuple) else x.to(kind).flatten(1)


def _width(task: Task, group: str) -> int:
    model = task.models[group]
    params = model.init(torch.Generator().manual_seed(0))
    weight, *others = list(params.values())[-2:]
    classes = [tuple(bias.shape) for bias in others]
    fits = weight.dim() == 2 and classes == [tuple(weight.shape[:1])] == [(task.num_classes,)]
    if fits and task.shape:
        few = made_up(task.shape) if task.few is None else task.few
        outputs = model.predict(params, few)
        hidden = outputs.hidden[-1] if outputs.hidden else outputs.logits
        fits = hidden.shape[1:] == weight.shape[1:] and any(
            _is_linear(kind, outputs.logits, hidden, weight, *others)
            for kind in (hidden.dtype, torch.bfloat16)  # in which a network may compute products
        )
    if not fits:
        raise ValueError(
            f"{group} shows no features on which its last layer is linear; have it return "
            "Outputs(logits, (features,)), where logits = linear(features) and the weight and the "
            "bias of that layer are its last two parameters"
        )
    return int(weight.shape[1])


def _is_linear(kind: torch.dtype, logits: Tensor, *of: Tensor) -> bool:
    """Whether logits are a linear layer's, of features, weight and bias, computed in a type."""
    found = torch.nn.functional.linear(*(value.to(kind) for value in of))
    return torch.allclose(found.to(logits.dtype), logits, atol=1e-5)
