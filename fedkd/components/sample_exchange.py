"""What a client shows of each of its examples, and how both ends name them.

An example's name is its place among the client's own in the order of their rows: the shuffles of a
round do not touch it, and no number of a row has to be sent.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedkd.components.features import feature_width, features, head_names
from fedkd.core import Model, Task, as_sent
from fedkd.messages import ANY, PayloadSpec
from fedkd.models import mlp
from kdcore.training.batches import rows
from kdcore.training.loop import Batches, Params, Predict, predict_logits

SHOWN = ("features", "logits", "labels")


def own_examples(private: Batches, epochs: int) -> tuple[Tensor, Tensor, Tensor]:
    """A client's examples by name, whatever the shuffle of its mini-batches.

    Shapes:
        gives (M,) rows of `private.x`, ascending, and behind them rows of nobody; (M,) own rows to
        take in the places of these; (M,) 1 for an example and 0 behind them.
    """
    order, once = private.records
    if not len(private.own):
        steps = -(-private.steps // epochs) if epochs else 0  # the first epoch lies within these
        places = steps * private.order.shape[1]
        order, once = order[:places], once[:places]
    nobody = len(private.y)
    rows = torch.where(once, order, nobody).sort().values
    return rows, order, as_sent(rows < nobody)


def with_teacher(private: Batches, examples: Tensor, said: Tensor) -> Batches:
    """The mini-batches with targets (label, logits), from what was said (N_k, C) by name.

    They are of a table with the client's own rows alone: with those of all clients, what was said
    would be a table for each client as long as all their examples together.
    """
    mine = examples[: len(said)].clone()  # under vmap `contiguous` would leave gaps between clients
    order, own = torch.searchsorted(mine, private.order), private.own
    if len(own):  # where records have no list of their own, none lies on the device
        own = torch.where(own < 0, own, torch.searchsorted(mine, own))
    y = private.y[mine], said
    return private._replace(x=rows(private.x, mine), y=y, order=order, own=own)


def features_and_logits(
    predict: Predict, params: Params, x: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """The last hidden layer, (M, D), and the logits, (M, C), for some rows of x, in one pass."""
    hidden = predict_logits(features(predict), params, x, wanted)
    weight, bias = (params[name] for name in head_names(params))
    return hidden, torch.nn.functional.linear(hidden, weight, bias)


def claims_by_example(task: Task, group: str) -> dict[str, PayloadSpec]:
    """Features, logits and labels of as many examples as a client has."""
    return {
        "features": PayloadSpec((ANY, width_of(task, group)), rows=True, tells_size=True),
        "logits": PayloadSpec((ANY, task.num_classes), rows=True, tells_size=True),
        "labels": PayloadSpec((ANY,), rows=True, below=task.num_classes, tells_size=True),
    }


def network_on_features(task: Task, group: str, width: int) -> Model:
    """A perceptron of two hidden layers on the features of one architecture."""
    return mlp((width_of(task, group),), task.num_classes, (width, width))


def width_of(task: Task, group: str) -> int:
    """D, the width of the features of one architecture; ValueError if it shows none."""
    return feature_width(replace(task, models={group: task.models[group]}))
