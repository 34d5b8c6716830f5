"""What methods share whose clients agree on the labels of public examples."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.core import Public, Server, Task
from fedkd.messages import Message, PayloadSpec, Upload
from fedkd.targets import Target
from kdcore.outputs import Outputs
from kdcore.training.batches import leading
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, predict_logits


def digest(
    predict: Predict,
    params: Params,
    received: Message,
    public: Public,
    training: TrainingConfig,
    target: Target,
    loss: Callable[[Outputs, Tensor], Tensor] | None = None,
) -> Params:
    """Fit a model to a consensus, (P_r, *S), on the public examples it is about.

    The loss is that towards predictions of the target, where no other is given.
    """
    about = received.get("rows")
    known = target.known(received["consensus"], public.labels_of(about))
    batches = public.batches(known, about)
    return fit(predict, params, batches, training, loss or target.towards)


def student(
    predict: Predict,
    params: Params,
    received: Message,
    public: Public | None,
    training: TrainingConfig,
    target: Target,
) -> Params:
    """A model that has digested the newest consensus, or as it is where there is none."""
    if not received or public is None:
        return params
    return digest(predict, params, received, public, training, target)


def student_steps(received: Message, public: Public | None) -> int:
    """The mini-batches of `student`."""
    return 0 if not received or public is None else len(public.order)


def predictions(predict: Predict, params: Params, public: Public, target: Target) -> Tensor:
    """A prediction for each public example of the round, (P_r, *S), such as a distribution."""
    return target.prediction(predict_logits(predict, params, public.x, public.rows))


def trained_and_asked(
    predict: Predict,
    params: Params,
    private: Batches,
    public: Public,
    local: TrainingConfig,
    target: Target,
) -> tuple[Params, Upload]:
    """Train on private examples, then say what the public ones of the round are."""
    params = fit(predict, params, private, local, target.loss)
    return params, Upload({target.sent: predictions(predict, params, public, target)})


def consensus_message(consensus: Tensor, public: Public) -> Server:
    """A consensus, with the rows it is about unless it is about all public examples."""
    return {"consensus": consensus} | rows_asked(public)


def rows_asked(public: Public) -> Server:
    """The rows that a round is about; nothing where these are all public examples."""
    return {} if len(public.rows) == public.total else {"rows": public.rows.int()}


def predictions_spec(
    task: Task, public_size: int | None, rows: bool = False
) -> dict[str, PayloadSpec]:
    """A prediction for each public example of a round, such as a distribution over the classes.

    With `rows` for those of them that a client names.
    """
    assert task.public is not None
    there = len(leading(task.public))
    count = min(public_size or there, there)
    least, most = task.target.bounds or (None, None)
    shape, simplex = (count, *task.outputs), task.target.simplex
    return {task.target.sent: PayloadSpec(shape, simplex, rows=rows, least=least, most=most)}


def ballots(predict: Predict, params: Params, public: Public) -> Tensor:
    """One vote for each public example of the round, (P_r, C)."""
    logits = predict_logits(predict, params, public.x, public.rows)
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return (logits.argmax(dim=-1, keepdim=True) == classes).to(logits.dtype)


def elected(votes: Tensor, public: Public) -> Batches:
    """Public examples with the label that has most votes (P_r, C), the first of several.

    Those without any vote are left out.
    """
    batches = public.batches(votes.argmax(dim=-1), public.rows)
    known = votes.sum(dim=-1) > 0
    return batches._replace(mask=batches.mask.bool() & known[batches.order])
