"""What uploads say of public examples, and models that an attacker distils from it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.core import ELSEWHERE, Client, Public
from fedkd.messages import Received
from kdattacks.core import Knowledge, Recorded, Target
from kdattacks.shadows import ShadowConfig
from kdcore.losses.response import soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.batches import Batches, Examples, rows
from kdcore.training.loop import Params, Predict, TrainingConfig, draw, fit

DISTILLATION = TrainingConfig("adam", learning_rate=3e-3, epochs=40, batch_size=64)

NAMED = 3  # of what was sent, in a message
History = Sequence[tuple[Received, Public | None]]  # uploads, and what public examples each is of


class PublicPredictions(NamedTuple):
    """What somebody has said of public examples: the newest of each, of whichever round.

    Shapes:
        x: (P, ...) all public examples; rows: (Q,) those of which there is anything, in order;
        said: (Q, C), distributions over labels.
    """

    x: Any
    rows: Tensor
    said: Tensor


def newest_predictions(history: History) -> PublicPredictions:
    """What uploads, round by round, say of public examples; some say it of a few alone.

    Raises:
        ValueError: none of them says anything.
    """
    speaking = [
        (table, upload, public)
        for upload, public in history
        if public is not None and (table := _predictions(upload, public)) is not None
    ]
    if not speaking:
        sent = dict.fromkeys(key for one, _ in history for key in one.payload)
        raise ValueError(
            f"no predictions of public examples crossed ({_named(list(sent))} did); take an "
            "algorithm that exchanges them, such as fedmd or dsfl, or another attack"
        )
    first, _, public = speaking[0]
    newest = first.new_zeros(public.total, first.shape[1])
    known = torch.zeros(public.total, dtype=torch.bool)
    for table, upload, public in speaking:
        named = slice(None) if upload.rows is None else upload.rows.bool()
        about = public.rows[named]
        newest[about], known[about] = table[named], True
    found = known.nonzero().flatten()
    return PublicPredictions(public.x, found, newest[found])


def model_of(recorded: Recorded, target: Target, knowledge: Knowledge) -> Params:
    """The parameters of a model that is made of what a target has sent.

    Parameters that were sent are taken as they are; of predictions for public examples the model is
    distilled.

    Raises:
        ValueError: neither was sent.
    """
    config: ShadowConfig = knowledge.known("shadowing")
    model = config.task.models[config.group]
    start, history = model.init(generator(knowledge.seed, "proxy")), recorded.history(target)
    newest = history[-1][0].payload if history else {}
    if set(model.shared(start)) <= set(newest):
        return start | {name: newest[name] for name in model.shared(start)}
    x, about, said = newest_predictions(history)
    (found,) = distilled(rows(x, about), said.unsqueeze(0), knowledge)
    return found


def distilled(about: Any, said: Tensor, knowledge: Knowledge) -> list[Params]:
    """A model of what each of M says (M, Q, C) of the same public examples (Q, ...).

    All begin with the same weights and see the predictions in the same order.
    """
    config = knowledge.known("shadowing")
    known = Examples(about, torch.arange(said.shape[1]), torch.arange(said.shape[1]))
    batches = draw(known, DISTILLATION, generator(knowledge.seed, "lesson"))
    start = config.task.models[config.group].init(generator(knowledge.seed, "proxy"))
    clients = [Client(i, config.group, dict(start), ELSEWHERE) for i in range(len(said))]
    found: list[Params] = config.engine(
        _distilled, config.task, clients, [(batches._replace(y=table),) for table in said]
    )
    return found


def _predictions(upload: Received, public: Public) -> Tensor | None:
    """The distributions over labels for all public examples of a round; None where there are none.

    Rows that an upload does not name are among them.
    """
    for key, value in upload.payload.items():
        fits = value.ndim == 2 and len(value) == len(public.rows)
        if fits and key == "probabilities":
            return value.clamp(min=0)
        if fits and key == "logits":
            return value.softmax(-1)
    return None


def _named(keys: list[str]) -> str:
    """What was sent, in short: a network has many parameters."""
    named, left = ", ".join(keys[:NAMED]) or "nothing", len(keys) - NAMED
    return f"{named} and {left} more" if left > 0 else named


def _distilled(predict: Predict, params: Params, batches: Batches) -> Params:
    return fit(predict, params, batches, DISTILLATION, _soft)


def _soft(outputs: Outputs, y: Tensor) -> Tensor:
    return soft_cross_entropy(outputs.logits, y)
